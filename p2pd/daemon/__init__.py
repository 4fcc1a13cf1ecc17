"""The daemons `p2pd run` and `p2pd scheduler`: wiring, listeners, life cycle and logs."""
