"""Who reads a blob that is on its way, from where, and what each needs first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from peer.core.events import ReaderMoved
from peer.core.piece_sets import mask
from peer.core.pieces import PieceTracker


@dataclass(slots=True)
class Readers:
    """The readers of one download, by number. With nobody left, the download goes on for `linger_s`."""

    pieces: PieceTracker
    linger_s: float
    preheats: bool = False
    """Only preheats want this blob. Whoever has left may have been a client, which may come back."""
    gone_at: float = math.inf
    """When the download has been without readers for too long; infinity while there are readers."""
    ask_for_ranges: bool = False
    """Whether a reader needs a range that ends before the blob does, as far as was known: else no piece is urgent."""
    _readers: dict[int, ReaderMoved] = field(default_factory=dict)

    def move(self, event: ReaderMoved) -> None:
        """A reader has come, or stands elsewhere."""
        self._readers[event.reader] = event
        self.gone_at = math.inf
        self._look_at_all()

    def leave(self, reader: int, now: float) -> None:
        """A reader is gone."""
        self._readers.pop(reader, None)
        self._look_at_all()
        self.begin(now)

    def begin(self, now: float) -> None:
        """If there is nobody, the time for which the download goes on without readers begins."""
        if not self._readers and self.gone_at == math.inf:
            self.gone_at = now + self.linger_s

    def end_linger(self, now: float) -> None:
        """From now on the download does not go on without readers."""
        self.linger_s = 0.0
        if self.gone_at < math.inf:
            self.gone_at = now

    @property
    def background(self) -> bool:
        """No client waits for this blob: it is fetched ahead, or for completeness."""
        return all(reader.background for reader in self._readers.values())

    def urgent(self) -> int:
        """The pieces that clients wait for who asked for a range that ends before the blob does, as a set."""
        return self.urgent_of(self.pieces.size_bytes, self.pieces.piece_length) if self.pieces.count else 0

    def urgent_of(self, size_bytes: int, length: int) -> int:
        """The same of a blob in pieces of this length."""
        pieces = 0
        for reader in self._readers.values():
            if reader.stop is not None and _is_urgent(reader, size_bytes):
                pieces |= mask(reader.position // length, -(-min(reader.stop, size_bytes) // length))
        return pieces

    def ranges_by_need(self) -> Iterator[tuple[int, int]]:
        """The ranges of pieces that readers need, the most urgent first; the whole blob is the last."""
        count, length = self.pieces.count, self.pieces.piece_length
        for reader in sorted(self._readers.values(), key=self._need):
            first = min(reader.position // length, count)
            last = count if reader.stop is None else -(-reader.stop // length)
            yield first, min(last, count)
        yield 0, count

    def _need(self, reader: ReaderMoved) -> tuple[bool, bool, int]:
        return reader.background, not _is_urgent(reader, self.pieces.size_bytes), reader.position

    def _look_at_all(self) -> None:
        self.preheats = bool(self._readers) and all(reader.preheats for reader in self._readers.values())
        size_bytes = self.pieces.size_bytes or math.inf
        self.ask_for_ranges = any(_is_urgent(reader, size_bytes) for reader in self._readers.values())


def _is_urgent(reader: ReaderMoved, size_bytes: float) -> bool:
    """Whether a client waits for a range that ends before the blob does: earlier bytes are of no use to it."""
    return reader.stop is not None and reader.stop < size_bytes and not reader.background
