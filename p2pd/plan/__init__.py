"""What `p2pd plan` says about a rollout: the physical limit, what the simulator expects, and what to change first."""
