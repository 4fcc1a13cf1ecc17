"""`python -m benchmarks cluster`."""
