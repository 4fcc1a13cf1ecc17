"""`python -m benchmarks datapath`."""
