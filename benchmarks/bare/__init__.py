"""`python -m benchmarks bare`: what the traffic of a swarm costs hosts that decide nothing."""
