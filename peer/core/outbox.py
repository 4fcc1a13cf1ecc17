"""News for one neighbour that are still to be sent: of each blob as few messages as can hold them.

1. What waits is bounded by the number of blobs, however long the neighbour does not read: of a blob there is the last
   message that says all, and the set of pieces that were gained after it.
2. A message that says all (`Bitfield`, `DontHave`) replaces what was to be said before. So does a new generation of the
   map for what was gained in the one before it, of which nothing is served any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from peer.core.piece_sets import spans, union
from scheduler.protocol.link import MAX_SPANS_PER_MESSAGE, Bitfield, DontHave, Have, LinkMessage, Span, Unchoke


@dataclass(slots=True)
class _OfBlob:
    all_of_it: Bitfield | DontHave | None = None
    generation: int = 0
    gained: int = 0
    """A set of pieces."""
    unchoke: bool = False

    def add(self, message: LinkMessage) -> None:
        match message:
            case Have(_, generation, pieces):
                if self.generation != generation:
                    self.generation, self.gained = generation, 0
                self.gained |= union((span.first, span.stop) for span in pieces)
            case Unchoke():
                self.unchoke = True
            case _:
                self.all_of_it, self.generation, self.gained = message, 0, 0

    def messages(self, digest: bytes) -> Iterator[LinkMessage]:
        if self.all_of_it is not None:
            yield self.all_of_it
        gained = [Span(first, stop) for first, stop in spans(self.gained)]
        for at in range(0, len(gained), MAX_SPANS_PER_MESSAGE):
            yield Have(digest, self.generation, tuple(gained[at : at + MAX_SPANS_PER_MESSAGE]))
        if self.unchoke:
            yield Unchoke(digest)


@dataclass(slots=True)
class LinkOutbox:
    """By blob, in the order in which there was first something to tell of each."""

    _waiting: dict[bytes, LinkMessage | _OfBlob] = field(default_factory=dict)
    """A message stays as it is until there is another of its blob: the same one is told to many neighbours."""

    def __len__(self) -> int:
        """Of how many blobs there is something to tell."""
        return len(self._waiting)

    def add(self, message: LinkMessage) -> None:
        """Something else to tell. A Have is of `MAX_SPANS_PER_MESSAGE` spans at most, as all are."""
        digest = message.digest
        before = self._waiting.get(digest)
        if before is None:
            self._waiting[digest] = message
            return
        if not isinstance(before, _OfBlob):
            of_blob = self._waiting[digest] = _OfBlob()
            of_blob.add(before)
            before = of_blob
        before.add(message)

    def take(self) -> list[LinkMessage]:
        """All that there is to tell now; nothing of it waits any longer."""
        waiting, self._waiting = self._waiting, {}
        told: list[LinkMessage] = []
        for digest, of_blob in waiting.items():
            if isinstance(of_blob, _OfBlob):
                told += of_blob.messages(digest)
            else:
                told.append(of_blob)
        return told
