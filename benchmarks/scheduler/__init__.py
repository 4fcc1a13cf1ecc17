"""`python -m benchmarks scheduler`."""
