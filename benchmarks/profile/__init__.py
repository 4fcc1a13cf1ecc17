"""`profile`: the CPU time of a host at full speed, by stage."""
