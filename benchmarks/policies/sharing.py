"""A server whose line thousands of streams share at once: the registry, or a cache.

The problem: each stream that begins or ends changes the rate of all others. For N streams that is N steps each time, as
in `p2pd.simulation.bandwidth`. Our way is processor sharing in virtual time. Streams with the same bottlenecks (a
*group*: one site, one rate of the host's own line) have the same rate, so a group needs one count of the bytes that
each of its streams got. A stream ends when the count has grown by its size. A change costs a step for each group.

Rates are exactly max-min fair for the lines of server, site and host. A host is one stream: its transfers go one after
the other, so transfers that begin together do not get the host a larger share. Not modelled: other traffic on a host's
line at the same time.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from p2pd.simulation.event_queue import EventQueue

_BYTE: Final = 1.0
"""Shorter times get no event of their own."""

_Transfer = tuple[float, Callable[..., object], tuple[Any, ...]]


def level(rate: float, demands: Iterable[tuple[float, int]]) -> float:
    """The greatest rate of a stream, if streams with these numbers and limits share `rate`.

    Infinite if all streams reach their limits.
    """
    left = rate
    ordered = sorted(demands)
    count = sum(number for _, number in ordered)
    for most, number in ordered:
        if most * count > left:
            return left / count
        left -= most * number
        count -= number
    return math.inf


class _Group:
    """Streams with one rate. `each` are the bytes that a stream would have got since the group's beginning."""

    __slots__ = ("each", "ends", "most", "rate", "site")

    def __init__(self, site: str | None, most: float) -> None:
        self.site = site
        self.most = most
        self.rate = 0.0
        self.each = 0.0
        self.ends: list[tuple[float, int, str, _Transfer]] = []


class SharedServer:
    """Sends at `rate` bytes per second to at most `streams` hosts at a time; other hosts wait for their turn."""

    def __init__(
        self, event_queue: EventQueue, rate: float, *, streams: int | None = None, site_rate: float | None = None
    ) -> None:
        self.sent_bytes = 0.0
        self._event_queue: Final = event_queue
        self._rate: Final = rate
        self._free = math.inf if streams is None else streams
        self._site_rate: Final = site_rate
        self._groups: Final[dict[tuple[str | None, float], _Group]] = {}
        self._waiting: Final[dict[str, deque[_Transfer]]] = {}
        """The later transfers of each host that is served or waits."""
        self._turns: Final[deque[tuple[_Group, str]]] = deque()
        self._since = 0.0
        self._due = math.inf
        self._order = 0

    def send(
        self, host: str, site: str | None, most: float, size: float, done: Callable[..., object], *args: object
    ) -> None:
        """Send `size` bytes to a host after its earlier transfers. The host's line carries `most` bytes per second.

        `site` is the site whose line the bytes pass; None: they pass no site's line.
        """
        if host in self._waiting:
            self._waiting[host].append((size, done, args))
            return
        self._waiting[host] = deque([(size, done, args)])
        group = self._groups.setdefault((site, most), _Group(site, most))
        self._turns.append((group, host))
        if self._free:
            self._settle()
            self._admit()
            self._share()

    def _admit(self) -> None:
        while self._free and self._turns:
            self._free -= 1
            self._next(*self._turns.popleft())

    def _next(self, group: _Group, host: str) -> None:
        transfer = self._waiting[host].popleft()
        self._order += 1
        heapq.heappush(group.ends, (group.each + transfer[0], self._order, host, transfer))

    def _settle(self) -> None:
        """Count the bytes since the last change."""
        now = self._event_queue.now
        for group in self._groups.values():
            group.each += group.rate * (now - self._since)
        self._since = now

    def _share(self) -> None:
        """Give every stream its rate, and schedule the first end of a stream."""
        busy = [group for group in self._groups.values() if group.ends]
        demands = [(self._most(group, busy), len(group.ends)) for group in busy]
        most_of_all = level(self._rate, demands)
        due = math.inf
        for group, (most, _) in zip(busy, demands, strict=True):
            group.rate = min(most, most_of_all)
            due = min(due, self._event_queue.now + max(0.0, group.ends[0][0] - group.each) / group.rate)
        self._due = due
        if busy:
            self._event_queue.at(due, self._ended, due)

    def _most(self, group: _Group, busy: list[_Group]) -> float:
        """The rate of a group's stream if the server's own line were no limit."""
        if self._site_rate is None or group.site is None:
            return group.most
        of_site = [(other.most, len(other.ends)) for other in busy if other.site == group.site]
        return min(group.most, level(self._site_rate, of_site))

    def _ended(self, due: float) -> None:
        if due != self._due:
            return
        self._settle()
        over: list[_Transfer] = []
        for group in self._groups.values():
            while group.ends and group.ends[0][0] - group.each <= _BYTE:
                _, _, host, transfer = heapq.heappop(group.ends)
                over.append(transfer)
                self.sent_bytes += transfer[0]
                if self._waiting[host]:
                    self._next(group, host)
                else:
                    del self._waiting[host]
                    self._free += 1
            if not group.ends:
                group.rate = 0.0
        self._admit()
        self._share()
        for _, done, args in over:
            done(*args)
