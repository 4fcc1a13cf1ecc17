"""Core: state machines and parsers with no I/O. Time and random numbers come in as arguments."""
