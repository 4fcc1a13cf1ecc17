"""`p2pd doctor`: is this node set up so that its container runtimes pull through the mirror?

finding.py        what a check says
surroundings.py   the seam to the network, the files and the disk, and the real ones
daemon.py, runtimes.py, upstreams.py, room.py: the checks; each takes the settings and the surroundings
"""
