"""What two neighbours tell each other: who they are, and which pieces they hold.

Rules:
1. Pieces themselves travel over HTTP ranges; a link carries only news about them.
2. No digest of a piece travels here: the one that sends a piece is never the one that says what it should be.
3. News go out in batches, no later than half a piece's time on the link after the first of them.
4. What is said here holds for one generation of the piece map. News of another generation are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from scheduler.protocol import fields as f

MAX_SPANS_PER_MESSAGE = 4096


@dataclass(frozen=True, slots=True)
class LinkHello:
    """The first message, from each side."""

    host: f.HostId
    oldest: Annotated[int, f.Whole(1, 2**16)]
    newest: Annotated[int, f.Whole(1, 2**16)]
    features: f.Features = ()


@dataclass(frozen=True, slots=True)
class Bitfield:
    """All that the sender holds of a blob: on connecting, and after a reset. Replaces what was said before."""

    digest: f.Digest
    generation: f.Generation
    complete: Annotated[bool, f.Flag()]
    have: f.PieceBits = b""


@dataclass(frozen=True, slots=True)
class Span:
    """Pieces `first` to `stop - 1`."""

    first: f.PieceIndex
    stop: f.PieceStop

    def __post_init__(self) -> None:
        if self.first >= self.stop:
            raise f.ProtocolError("a span of no pieces")


@dataclass(frozen=True, slots=True)
class Have:
    """Pieces that the sender holds since its last message."""

    digest: f.Digest
    generation: f.Generation
    spans: Annotated[tuple[Span, ...], f.Items(f.Record(Span), MAX_SPANS_PER_MESSAGE)]


@dataclass(frozen=True, slots=True)
class DontHave:
    """The sender serves nothing of this blob any more."""

    digest: f.Digest


@dataclass(frozen=True, slots=True)
class Unchoke:
    """The sender was too busy for a piece of this blob, and has room again: who still wants one may ask."""

    digest: f.Digest


LinkMessage: TypeAlias = Bitfield | Have | DontHave | Unchoke
"""What is said of a blob."""
