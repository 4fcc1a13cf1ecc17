"""`p2pd doctor`: is this node set up so that its container runtimes pull through the mirror?

result.py        the result of a check
environment.py   the seam to the network, the files and the disk, and its implementation
running.py       the settings in force: those of the daemon that runs
bundle.py        what `p2pd support-bundle` collects
daemon.py, runtimes.py, upstreams.py, swarm.py, disk_space.py: the checks; each takes the settings and the environment
"""
