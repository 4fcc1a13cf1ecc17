"""The parts of `p2pd plan`: a rollout's physical limit, the simulator's prediction, and advice on the cluster."""
