"""Measurements of p2pd on this machine, beside what people use today (`python -m benchmarks`)."""
