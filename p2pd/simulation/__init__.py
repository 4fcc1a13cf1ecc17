"""A cluster in virtual time: the cores that production runs, over a network of numbers.

`scenario` says what happens, `run` plays it, `result` says how close that came to the physical limit. `p2pd plan`
asks it what a rollout will take; the benchmarks compare it with real processes and with other ways of distributing.
"""
