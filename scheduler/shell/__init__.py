"""Shell: the scheduler's core on a WebSocket server. The only part of `scheduler` that does I/O."""
