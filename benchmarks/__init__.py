"""Measurements of p2pd on this machine, beside other ways of distribution (`python -m benchmarks`)."""
