"""`python -m benchmarks transfer`."""
