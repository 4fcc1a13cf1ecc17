"""What is remembered of pulls and of pushes, for predictions, and where. Times are Unix seconds.

One scheduler keeps it on its disk (`scheduler.shell.history_store`), several in Redis
(`scheduler.shared.redis_history`).

Rules:
1. A record has the pulls of one image, by one site, within `SLOT_S`: names and numbers, no hosts and no clients.
2. Records that are older than the time that the operator sets are removed, and of more than `MAX_ROWS` the oldest.
3. What preheats may take of each site's budget is kept before a preheat is ordered: a restart forgets no byte of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

SLOT_S: Final = 600.0
MAX_ROWS: Final = 100_000
"""Some 20 MiB."""

MAX_TOTAL_BYTES: Final = 2**61
"""Of a record. The sum of two of these is a number that SQLite keeps."""


@dataclass(frozen=True, slots=True)
class PullRecord:
    """Hosts of a site pulled an image, which is named in full and by its tag, within a few minutes.

    `digest` is what the tag named. `size_bytes` is the most that one client took, `total_bytes` is what all of them
    took, and `warm_bytes` of these were in the stores of their hosts already.
    """

    at: float
    image: str
    digest: str
    site: str
    hosts: int
    size_bytes: int
    total_bytes: int
    warm_bytes: int


@dataclass(frozen=True, slots=True)
class PushRecord:
    """A tag was pushed, as a registry has told. `digest` is "" if that was not told."""

    at: float
    image: str
    digest: str = ""


Record = PullRecord | PushRecord


class HistoryStoreError(Exception):
    """The disk does not take or give the history. The text is for the operator."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """A preheat that a prediction has ordered for a site. It counts `size_bytes` on a day, in days since 1970 (UTC).

    `settled`: the bytes are those that hosts have fetched, and no longer the most that they may fetch.
    """

    job: str
    at: float
    image: str
    site: str
    day: int
    size_bytes: int
    settled: bool = False


class HistoryStore(Protocol):
    """Every method blocks, may be called from any thread, and raises HistoryStoreError."""

    def add(self, records: Iterable[Record], now: float) -> None:
        """Keep these. Pulls of an image by a site within SLOT_S become one. Remove what is too old or too much."""
        ...

    def records(self) -> list[Record]:
        """All of it, in the order of time."""
        ...

    def news(self) -> list[Record]:
        """What was added, by whomever, since the latest call of `records` or of this."""
        ...

    def order(self, ordered: Ordered) -> None:
        """Keep what a preheat may take, before it is ordered."""
        ...

    def settle(self, job: str, size_bytes: int) -> None:
        """A preheat is over, and has taken so much."""
        ...

    def spent(self, day: int) -> dict[str, int]:
        """The bytes that count on a day, by site."""
        ...

    def orders(self) -> list[Ordered]:
        """The preheats that were ordered and are remembered, the oldest first."""
        ...

    def close(self) -> None: ...
