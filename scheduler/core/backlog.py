"""The events that wait until a scheduler has nothing else to do: joins.

The problem: 10,000 hosts that ask for a blob at the same moment send 10,000 joins, which take a core three seconds. The
first pieces have come from the origin long before. If what their hosts say of them waits behind the joins, nobody may
exchange these pieces, nobody fetches the next ones, and all links are idle for as long (docs/decisions, 0051).

Rules:
1. A join waits for all events of other kinds. Nobody but its own host waits for it.
2. What a host says is handled in the order in which the host has said it. So what follows a join waits with the join.
3. What waits has a bound in bytes, and what waits of one host has a bound in events. Beyond them, the event that has
   waited longest is handled first.
"""

from __future__ import annotations

from collections import deque
from typing import Final, TypeGuard

from scheduler.core.events import Answered, Event, Received
from scheduler.protocol.from_host import Join

MAX_BYTES: Final = 16 * 1024 * 1024
"""The joins of 100,000 hosts, of 160 bytes each."""

MAX_OF_ONE: Final = 256
"""Events of one host: the joins of 12 images of 20 layers. A host that sends more does not have us keep them."""


class Backlog:
    """The events of hosts that wait, in the order in which they came."""

    __slots__ = ("_events", "_of", "_size_bytes")

    def __init__(self) -> None:
        self._events: Final[deque[tuple[Received | Answered, int]]] = deque()
        self._of: Final[dict[int, int]] = {}
        """How many of them are of each connection."""
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._events)

    def is_full(self, connection: int) -> bool:
        """Whether the next event is to be handled before anything else that this connection says."""
        return self._size_bytes > MAX_BYTES or self._of.get(connection, 0) > MAX_OF_ONE

    def has_to_wait(self, event: Event) -> TypeGuard[Received | Answered]:
        """Whether an event is to be `put` here (rules 1 and 2)."""
        return is_join(event) or (isinstance(event, Received | Answered) and event.connection in self._of)

    def put(self, event: Received | Answered, size_bytes: int = 0) -> None:
        """Let an event wait, whose message has so many bytes."""
        self._events.append((event, size_bytes))
        self._of[event.connection] = self._of.get(event.connection, 0) + 1
        self._size_bytes += size_bytes

    def take(self) -> Received | Answered:
        """The event that has waited longest. It waits no more. Raises IndexError if there is none."""
        event, size_bytes = self._events.popleft()
        self._size_bytes -= size_bytes
        others = self._of.pop(event.connection) - 1
        if others:
            self._of[event.connection] = others
        return event


def is_join(event: Event) -> bool:
    """Whether a host wants to join a swarm."""
    return isinstance(event, Received) and isinstance(event.message, Join)
