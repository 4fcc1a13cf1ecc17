"""How a connection to the scheduler begins and ends."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from scheduler.protocol.from_host import VERSION_NEWEST, VERSION_OLDEST, Hello

PATH: Final = "/v1/swarm"
"""Where the scheduler takes WebSockets, below its URL (`http://HOST:65003`)."""


class Closing(IntEnum):
    """Why the scheduler ends a connection: the WebSocket close code (4000 to 4999 are for applications, RFC 6455)."""

    STOPPING = 1001
    """The scheduler stops. The host tries the next scheduler."""
    OVERSIZED = 1009
    """A frame that is longer than a frame may be. The WebSocket library sends this one."""
    BROKEN = 1011
    """A mistake of the scheduler's own."""
    MALFORMED = 4000
    """A frame that the protocol does not allow."""
    INCOMPATIBLE = 4001
    """No version of the protocol that both speak."""
    LATE_HELLO = 4002
    SLOW = 4003
    """The host does not read what it is sent."""
    SILENT = 4004
    """Nothing was heard of the host for too long."""
    FLOODING = 4005
    """More messages than a host may send."""
    REPLACED = 4006
    """A newer connection of this host has taken its place."""
    ID_IN_USE = 4007
    """Another host has this id and is alive."""
    QUARANTINED = 4008
    FULL = 4009
    """The scheduler has as many connections as it takes."""


def agree(hello: Hello) -> int | None:
    """The newest version that both ends speak, or None."""
    version = min(hello.newest, VERSION_NEWEST)
    return version if version >= max(hello.oldest, VERSION_OLDEST) else None
