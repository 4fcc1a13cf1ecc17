"""The scheduler's shell: the core on a WebSocket server. Only this part of `scheduler` does I/O."""
