"""`python -m benchmarks predict`: models of `p2pd predict`, replayed over traces of pulls."""
