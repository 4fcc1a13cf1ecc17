"""Fuzzing: what comes from outside, made at random, against whole parts of p2pd.

Rules:
1. A property test of one parser stands beside the other tests of the parser. Here are those of whole parts: ports,
   origins, machines, the disk, configuration.
2. `make test` runs each with few examples, which are the same each time. `make fuzz` (`tests.fuzz.__main__`) runs all
   tests with Hypothesis of the whole suite, with new examples each time.
3. What was found is an `@example` of its test, or a test beside what was mended.
"""
