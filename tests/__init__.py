"""The tests. A package, so that `tests.peer` and `peer` are two different names."""
