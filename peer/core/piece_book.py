"""The pieces of one blob on this host: what is held, what the swarm's map says they are, what others may have.

Rules:
1. Sets of pieces are integers, a bit for each piece (`peer.core.piece_sets`).
2. A piece is offered to others once the digest of its bytes is the one that the map of this generation has for it.
3. This host vouches for what it had from the origin itself, and for nothing else: the scheduler takes its word as that
   of a witness, and two witnesses who had it from each other are one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peer.core.piece_sets import mask
from scheduler.protocol.fields import DIGEST_BYTES


@dataclass(slots=True)
class PieceBook:
    """`expected` is the map as far as it is known, `own` has the digests of the bytes that are held (b"": unknown)."""

    expected: dict[int, bytes] = field(default_factory=dict)
    known: int = 0
    """The pieces in `expected`, as a set; so are those below."""
    own: dict[int, bytes] = field(default_factory=dict)
    held: int = 0
    vouched: int = 0
    offered: int = 0

    def land(self, index: int, digest: bytes, *, from_origin: bool) -> int:
        """A piece is in the store. Returns it, as a set, if others may have it now."""
        bit = 1 << index
        if self.held & bit and self.own[index]:
            return 0  # it has come twice: what is in the store is what came first
        self.own[index] = digest
        self.held |= bit
        if from_origin:
            self.vouched |= bit
        return self._offer(bit) if self.expected.get(index) == digest else 0

    def learn(self, first: int, digests: bytes) -> int:
        """The map has these digests for the pieces from `first` on. Returns what others may have because of it."""
        matching = differing = 0
        count = len(digests) // DIGEST_BYTES
        for index in range(first, first + count):
            at = (index - first) * DIGEST_BYTES
            digest = self.expected[index] = digests[at : at + DIGEST_BYTES]
            own = self.own.get(index)
            if own == digest:
                matching |= 1 << index
            elif own is not None:
                differing |= 1 << index
        self.known |= mask(first, first + count)
        self.offered &= ~differing
        return self._offer(matching)

    def publish(self, pieces: int) -> int:
        """These pieces are vouched for: the map has them, unless it has others. Returns what others may have now."""
        matching = 0
        while pieces:
            bit = pieces & -pieces
            pieces ^= bit
            index = bit.bit_length() - 1
            if self.expected.setdefault(index, self.own[index]) == self.own[index]:
                matching |= bit
            self.known |= bit
        return self._offer(matching)

    def forget_map(self) -> None:
        """The map is another from here on: nothing of it is known, so nothing is offered."""
        self.expected.clear()
        self.known = self.offered = 0

    def agrees(self) -> bool:
        """Whether every piece that is held is what the map says."""
        return self.offered == self.held

    def contradicts(self) -> bool:
        """Whether a piece that is held is another than the map says."""
        return any(own and self.expected.get(index, own) != own for index, own in self.own.items())

    def digests(self) -> dict[int, bytes]:
        """All digests that this host can tell: those of its own bytes before those that it was told."""
        return self.expected | {index: own for index, own in self.own.items() if own}

    def _offer(self, pieces: int) -> int:
        fresh = pieces & ~self.offered
        self.offered |= fresh
        return fresh

    def validate(self) -> None:
        """Raise AssertionError if a set contradicts the digests. Looks at every piece: for tests."""
        assert self.known == sum(1 << index for index in self.expected)
        assert self.held == sum(1 << index for index in self.own)
        assert not self.vouched & ~self.held
        matching = sum(1 << index for index, own in self.own.items() if self.expected.get(index) == own)
        assert self.offered == matching, "others are offered other pieces than those that match the map"
