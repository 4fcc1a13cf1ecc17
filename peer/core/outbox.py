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


@dataclass(slots=True)
class LinkOutbox:
    """By blob, in the order in which there was first something to tell of each."""

    _waiting: dict[bytes, _OfBlob] = field(default_factory=dict)

    def __len__(self) -> int:
        """Of how many blobs there is something to tell."""
        return len(self._waiting)

    def add(self, message: LinkMessage) -> None:
        """Something else to tell."""
        if isinstance(message, Bitfield | DontHave):
            before = self._waiting.get(message.digest)
            self._waiting[message.digest] = _OfBlob(message, unchoke=before is not None and before.unchoke)
            return
        of_blob = self._waiting.setdefault(message.digest, _OfBlob())
        if isinstance(message, Unchoke):
            of_blob.unchoke = True
            return
        if of_blob.generation != message.generation:
            of_blob.generation, of_blob.gained = message.generation, 0
        of_blob.gained |= union((span.first, span.stop) for span in message.spans)

    def take(self) -> Iterator[LinkMessage]:
        """All that there is to tell now; nothing of it waits any longer."""
        waiting, self._waiting = self._waiting, {}
        for digest, of_blob in waiting.items():
            if of_blob.all_of_it is not None:
                yield of_blob.all_of_it
            gained = [Span(first, stop) for first, stop in spans(of_blob.gained)]
            for at in range(0, len(gained), MAX_SPANS_PER_MESSAGE):
                yield Have(digest, of_blob.generation, tuple(gained[at : at + MAX_SPANS_PER_MESSAGE]))
            if of_blob.unchoke:
                yield Unchoke(digest)
