"""Ports of this machine that are a test's own, although other tests and their programs run at the same time."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.programs import free_port

__all__ = ["bound", "free_port", "refusing"]


def bound(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A socket that has a port and does not listen: connections are refused as long as it is open."""
    holding = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holding.bind((host, port))
    return holding


@contextmanager
def refusing() -> Iterator[int]:
    """A loopback port that refuses connections."""
    with bound() as holding:
        yield holding.getsockname()[1]
