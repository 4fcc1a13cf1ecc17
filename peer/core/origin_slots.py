"""The connections of each origin that data may use: a bound for each, and which download comes first at the bound.

What a client waits for comes before what is fetched ahead; else the downloads take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class OriginSlots:
    """At most `limit` requests to each upstream at a time."""

    limit: int
    _used: dict[str, int] = field(default_factory=dict)
    _waiting: dict[str, dict[bytes, None]] = field(default_factory=dict)
    """By upstream, the downloads (raw digest) that want another request, in the order in which they came."""
    _taken: dict[int, str] = field(default_factory=dict)
    """The upstream of each request that is under way."""

    def is_free(self, upstream: str) -> bool:
        """Whether another request may begin."""
        return self._used.get(upstream, 0) < self.limit

    def take(self, upstream: str, request: int) -> None:
        """A request begins."""
        self._used[upstream] = self._used.get(upstream, 0) + 1
        self._taken[request] = upstream

    def release(self, request: int) -> str | None:
        """A request has ended. Returns its upstream; None if there was no such request."""
        upstream = self._taken.pop(request, None)
        if upstream is not None:
            self._used[upstream] -= 1
        return upstream

    def wait(self, upstream: str, digest: bytes) -> bool:
        """This download wants a slot once there is one. Returns whether it did not wait before."""
        waiting = self._waiting.setdefault(upstream, {})
        is_new = digest not in waiting
        waiting.setdefault(digest)
        return is_new

    def is_waited_for(self, upstream: str) -> bool:
        """Whether a download waits for a slot."""
        return bool(self._waiting.get(upstream))

    def next(self, upstream: str, is_background: Callable[[bytes], bool]) -> bytes | None:
        """The download that is to have the slot that is free; it waits no longer. None if nobody waits."""
        waiting = self._waiting.get(upstream)
        if not waiting or not self.is_free(upstream):
            return None
        chosen = next((digest for digest in waiting if not is_background(digest)), next(iter(waiting)))
        del waiting[chosen]
        return chosen

    def used(self) -> Mapping[str, int]:
        """How many requests to each upstream are under way."""
        return self._used
