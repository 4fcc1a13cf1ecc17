"""p2pd: command line, configuration, wiring, life cycle and telemetry of the daemon. Imports everything below it."""
