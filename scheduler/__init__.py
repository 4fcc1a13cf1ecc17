"""The scheduler's package: the protocol, the core that links hosts and grants leases, and the server around the core.

This package imports none of the other packages.
"""
