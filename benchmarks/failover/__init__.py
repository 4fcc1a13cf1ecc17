"""`python -m benchmarks failover`: one of several schedulers is killed in the middle of a pull."""
