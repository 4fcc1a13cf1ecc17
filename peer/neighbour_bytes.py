"""How many bytes went to, or came from, each other host: for the operator."""

from __future__ import annotations

from typing import Final

MAX_HOSTS: Final = 256
"""Without certificates anybody may say any name. The host that was idle the longest is forgotten first."""

MAX_NAME: Final = 64
"""The length of a host id (`scheduler.protocol.fields`)."""


class NeighbourBytes:
    """Counts bytes by host id."""

    def __init__(self) -> None:
        self._bytes: Final[dict[str, int]] = {}

    def add(self, host: str, size_bytes: int) -> None:
        """Count bytes of a host."""
        name = host[:MAX_NAME]
        self._bytes[name] = self._bytes.pop(name, 0) + size_bytes
        if len(self._bytes) > MAX_HOSTS:
            del self._bytes[next(iter(self._bytes))]

    def by_host(self) -> dict[str, int]:
        """The bytes by host, the host that was idle the longest first."""
        return dict(self._bytes)
