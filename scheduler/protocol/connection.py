"""The start and the end of a connection to the scheduler: the path, the version, and the close codes."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from scheduler.protocol.from_host import VERSION_NEWEST, VERSION_OLDEST, Hello

PATH: Final = "/v1/swarm"
"""The path of the WebSocket below the scheduler's URL (`http://HOST:65003`)."""


class Closing(IntEnum):
    """The scheduler's reason to end a connection: a WebSocket close code (4000 to 4999 are private, RFC 6455)."""

    STOPPING = 1001
    """The scheduler stops. The host tries the next scheduler."""
    OVERSIZED = 1009
    """A frame is too long. The WebSocket library sends this code."""
    BROKEN = 1011
    """The scheduler has a defect."""
    MALFORMED = 4000
    """A frame is not allowed by the protocol."""
    INCOMPATIBLE = 4001
    """The two ends have no version of the protocol in common."""
    LATE_HELLO = 4002
    SLOW = 4003
    """The host does not read its messages."""
    SILENT = 4004
    """The host was silent for too long."""
    FLOODING = 4005
    """The host sends more messages than it may."""
    REPLACED = 4006
    """A newer connection of this host has replaced this connection."""
    ID_IN_USE = 4007
    """Another connected host has this id."""
    QUARANTINED = 4008
    FULL = 4009
    """The scheduler has its maximum of connections."""
    NOT_THIS_HOST = 4010
    """The host id in Hello is not the one in the host's certificate, or the host has no certificate."""
    REVOKED = 4011
    """An operator has revoked this host."""
    CERTIFICATE_OVER = 4012
    """The certificate that the host has shown has expired, or its CA is not trusted any more."""


def agree(hello: Hello) -> int | None:
    """The newest version that both ends speak, or None."""
    version = min(hello.newest, VERSION_NEWEST)
    return version if version >= max(hello.oldest, VERSION_OLDEST) else None
