"""The background transport: pieces that no client waits for, over uTP, which gives way to all other traffic."""
