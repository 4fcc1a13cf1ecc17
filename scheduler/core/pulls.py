"""The pulls of the last day as the scheduler has seen them, for the operator: which repository, how much, from where.

Rules:
1. A pull is of one repository: from the first host that wants a blob of it, until GAP_S after no host wants any.
2. It is counted at events that the swarm handles anyway, in constant time. Nothing is decided by it, because hosts say
   much of it themselves.
3. Memory is bounded: pulls older than DAY_S are forgotten, and of more than MAX_PULLS the oldest.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from scheduler.core.members import Source

GAP_S: Final = 60.0
"""The blobs of one image follow each other within seconds, and the hosts of one rollout within a minute."""

DAY_S: Final = 86_400.0

MAX_PULLS: Final = 256

MAX_HOSTS: Final = 20_000

PULLS_OF_A_HOST: Final = 4
"""The pulls that a host is remembered to take part in, so that it is counted once in each."""


@dataclass(slots=True, eq=False)
class Pull:
    """One pull. Times are the scheduler's. `received_bytes` are all hosts' together, `origin_bytes` those of leases.

    `told_origin_bytes` and `far_bytes` (from other sites) are what hosts say when they have a blob whole. Hosts before
    this field say 0.
    """

    number: int
    source: Source
    began_at: float
    ended_at: float = 0.0
    """When the last wish ended; it means something while `live` is 0."""
    live: int = 0
    """The blobs that hosts want now."""
    blobs: int = 0
    size_bytes: int = 0
    """All blobs, each once."""
    hosts: int = 0
    finished: int = 0
    """Wishes for a blob that ended with the whole blob."""
    broken_off: int = 0
    """Wishes that ended otherwise: the client went away, the host left, or the origin refused."""
    received_bytes: int = 0
    origin_bytes: int = 0
    origin_until: float = 0.0
    """When the origin last brought something."""
    told_origin_bytes: int = 0
    far_bytes: int = 0

    def fetched(self, size_bytes: int, now: float) -> None:
        """A host has had bytes from the origin under a lease."""
        self.origin_bytes += size_bytes
        self.origin_until = now


class PullBook:
    """The pulls, oldest first."""

    def __init__(self) -> None:
        self.since = -math.inf
        """The pulls that ended after this time are all here, but for those of hosts that were not connected."""
        self._pulls: Final[deque[Pull]] = deque()
        self._latest: Final[dict[Source, Pull]] = {}
        self._of_host: Final[dict[str, tuple[int, ...]]] = {}
        """The pulls that each host took part in last, by number; the host that wanted nothing the longest first."""
        self._number = 0

    def __len__(self) -> int:
        return len(self._pulls)

    def of(self, source: Source, now: float) -> Pull:
        """The pull of which a blob of this repository is that is wanted now."""
        pull = self._latest.get(source)
        if pull is None or (not pull.live and now - pull.ended_at > GAP_S):
            self._forget(now)
            self._number += 1
            pull = self._latest[source] = Pull(self._number, source, now, now)
            self._pulls.append(pull)
        return pull

    def joined(self, pull: Pull, host: str) -> None:
        """A host wants a blob of a pull. One that connects again is not counted again."""
        numbers = self._of_host.pop(host, ())
        if pull.number not in numbers:
            numbers = (pull.number, *numbers[: PULLS_OF_A_HOST - 1])
            pull.hosts += 1
        self._of_host[host] = numbers
        if len(self._of_host) > MAX_HOSTS:
            del self._of_host[next(iter(self._of_host))]

    def all(self, now: float) -> tuple[Pull, ...]:
        """The pulls of the last day, oldest first."""
        return tuple(pull for pull in self._pulls if pull.live or now - pull.ended_at <= DAY_S)

    def _forget(self, now: float) -> None:
        """Make room for one pull."""
        while self._pulls and (len(self._pulls) >= MAX_PULLS or self._is_old(self._pulls[0], now)):
            oldest = self._pulls.popleft()
            if self._latest.get(oldest.source) is oldest:
                del self._latest[oldest.source]
            if not self._is_old(oldest, now):
                self.since = max(self.since, now if oldest.live else oldest.ended_at)

    @staticmethod
    def _is_old(pull: Pull, now: float) -> bool:
        return not pull.live and now - pull.ended_at > DAY_S

    def validate(self) -> None:
        """Raise AssertionError if a bound or a count is broken."""
        assert len(self._pulls) <= MAX_PULLS
        assert all(pull.live >= 0 for pull in self._pulls)
        assert set(self._latest.values()) <= set(self._pulls)
