"""Blobs that hosts hold, whole or in part, and that nobody asks for. A thousand hosts hold millions of them together.

A swarm of one member takes about 8 KiB, and each further member 1 KiB. A blob on the shelf takes about 500 bytes, and
each further holder 100. A blob leaves the shelf when a host wants the blob, and becomes a swarm of its holders
(`scheduler.core.join`). Each blob is charged to the host that named it first (`scheduler.core.budget`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from scheduler.core.budget import HOLDER_BYTES, SHELVED_BYTES, Budget
from scheduler.core.members import Host
from scheduler.protocol.from_host import Holding

MAX_PARTS: Final = 256
"""Blobs of one host that are held in part: downloads that were broken off. Each may have a bitfield of 8 KiB."""


class _Whole(NamedTuple):
    """What a holder of all of a blob says of it."""

    size_bytes: int
    piece_length: int


@dataclass(slots=True, eq=False)
class _Blob:
    digest: bytes
    whole: _Whole
    """As the first holder says."""
    owner: str
    """Whom it is charged to."""
    holders: dict[Host, _Whole | Holding] = field(default_factory=dict)
    """Each with what it says of the blob, or with the part that it holds. They may disagree."""


class Shelf:
    """Blobs by digest and by holder. Each blob has at least one holder."""

    def __init__(self, budget: Budget, held: Budget) -> None:
        """The blobs are charged to `budget`, and their holders to `held`, those without a certificate."""
        self._budget: Final = budget
        self._held: Final = held
        self._blobs: Final[dict[bytes, _Blob]] = {}
        self._of_host: Final[dict[Host, set[_Blob]]] = {}
        self._parts: Final[dict[Host, int]] = {}

    def __len__(self) -> int:
        return len(self._blobs)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._blobs

    @property
    def holdings(self) -> int:
        """The holders of all blobs together."""
        return sum(map(len, self._of_host.values()))

    def count(self, host: Host) -> int:
        """The blobs of one host."""
        return len(self._of_host.get(host, ()))

    def holds(self, host: Host, digest: bytes) -> bool:
        """Whether the host is known to hold the blob."""
        blob = self._blobs.get(digest)
        return blob is not None and host in blob.holders

    def holds_whole(self, host: Host, digest: bytes) -> bool:
        """Whether the host says that it holds all of the blob."""
        blob = self._blobs.get(digest)
        return blob is not None and type(blob.holders.get(host)) is _Whole

    def put(self, host: Host, holding: Holding) -> None:
        """Record a holder. A holding beyond the host's bounds is ignored."""
        self.discard(host, holding.digest)
        parts = self._parts.get(host, 0)
        if not holding.complete and parts >= MAX_PARTS:
            return
        if host.came_from and not self._held.take(host.came_from, _cost_of(holding)):
            return
        blob, whole = self._blobs.get(holding.digest), _Whole(holding.size_bytes, holding.piece_length)
        if blob is None:
            owner = host.identity.witness
            if not self._budget.take(owner, SHELVED_BYTES):
                self._give_back(host, holding)
                return
            blob = _Blob(holding.digest, whole, owner)
            self._blobs[holding.digest] = blob
        if holding.complete:
            # Equal ones are one object, which saves 100 bytes for each holder.
            blob.holders[host] = blob.whole if whole == blob.whole else whole
        else:
            blob.holders[host] = holding
            self._parts[host] = parts + 1
        self._of_host.setdefault(host, set()).add(blob)

    def take(self, digest: bytes) -> dict[Host, Holding]:
        """Take a blob off the shelf: its holders, in the order in which they came, each with what it says it holds."""
        blob = self._blobs.pop(digest, None)
        if blob is None:
            return {}
        self._budget.give_back({blob.owner: SHELVED_BYTES})
        for host, held in blob.holders.items():
            self._give_back(host, held)
            self._forget(host, blob, held)
        return {
            host: held if isinstance(held, Holding) else Holding(digest, held[0], complete=True, piece_length=held[1])
            for host, held in blob.holders.items()
        }

    def discard(self, host: Host, digest: bytes) -> None:
        """A host does not hold the blob any more."""
        blob = self._blobs.get(digest)
        if blob is not None and host in blob.holders:
            self._forget(host, blob, self._drop(host, blob))

    def remove_host(self, host: Host) -> None:
        """A host has left, with all its blobs."""
        self._parts.pop(host, None)
        for blob in self._of_host.pop(host, ()):
            self._drop(host, blob)

    def validate(self) -> None:
        """Raise AssertionError if the two sides contradict each other."""
        assert all(blob.holders for blob in self._blobs.values())
        by_blob = {(host, blob) for blob in self._blobs.values() for host in blob.holders}
        assert by_blob == {(host, blob) for host, blobs in self._of_host.items() for blob in blobs}
        parts = [host for blob in self._blobs.values() for host, held in blob.holders.items() if type(held) is Holding]
        assert {host: parts.count(host) for host in parts} == self._parts

    def _drop(self, host: Host, blob: _Blob) -> _Whole | Holding:
        held = blob.holders.pop(host)
        self._give_back(host, held)
        if not blob.holders:
            del self._blobs[blob.digest]
            self._budget.give_back({blob.owner: SHELVED_BYTES})
        return held

    def _give_back(self, host: Host, held: _Whole | Holding) -> None:
        if host.came_from:
            self._held.give_back({host.came_from: _cost_of(held)})

    def _forget(self, host: Host, blob: _Blob, held: _Whole | Holding) -> None:
        blobs = self._of_host[host]
        blobs.remove(blob)
        if not blobs:
            del self._of_host[host]
        if isinstance(held, Holding):
            self._parts[host] -= 1
            if not self._parts[host]:
                del self._parts[host]


def _cost_of(held: _Whole | Holding) -> int:
    return HOLDER_BYTES + (len(held.have) if isinstance(held, Holding) and not held.complete else 0)
