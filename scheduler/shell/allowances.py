"""How many messages each host may send: so many at once, and so many a second from then on.

Rules:
1. A host with a certificate has its allowance again when it connects again: to hang up does not fill it.
2. Long answers count as messages of the host that they are for.
"""

from __future__ import annotations

from typing import Final

from scheduler.shell.bounds import Bounds
from scheduler.shell.connection import HostConnection

MAX_ALLOWANCES: Final = 4096
"""The one that was kept first is dropped first. It is whole again after `burst / messages_per_s`, 82 s."""

ANSWER_BYTES: Final = 4096
"""So much of what a host's message has the scheduler answer counts as one more message of the host: by a few bytes, a
Join, a host is told a piece map of up to 2 MiB."""


class Allowances:
    """Of all connections of one server. `now` is in seconds, by the server's clock."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds: Final = bounds
        self._kept: Final[dict[str, tuple[float, float]]] = {}
        """Those of hosts with a certificate whose connections have ended, and when they were counted."""

    def may_send(self, connection: HostConnection, cost: int, now: float) -> bool:
        """Count a message, or a frame that ends none, against the messages that the host may send."""
        earned = (now - connection.counted_at) * self._bounds.messages_per_s
        connection.allowance = min(self._bounds.burst, connection.allowance + earned) - cost
        connection.counted_at = now
        return connection.allowance >= 0

    def keep(self, connection: HostConnection) -> None:
        """The connection of a host with a certificate ends: the host has its allowance when it connects again."""
        if connection.greeted and connection.peer is not None:
            self._kept.pop(connection.host_id, None)
            self._kept[connection.host_id] = (connection.allowance, connection.counted_at)
            while len(self._kept) > MAX_ALLOWANCES:
                del self._kept[next(iter(self._kept))]

    def take_over(self, connection: HostConnection, now: float) -> None:
        """A host has shown its certificate: it goes on with the allowance of its last connection."""
        used = self._bounds.burst - connection.allowance
        connection.allowance, connection.counted_at = self._kept.pop(
            connection.host_id, (self._bounds.burst, connection.counted_at)
        )
        self.may_send(connection, 0, now)  # what it has earned since
        connection.allowance -= used

    def count_answer(self, connection: HostConnection, size_bytes: int) -> None:
        """A message of the host has this answered."""
        connection.allowance -= size_bytes // ANSWER_BYTES
