"""The messages between two neighbours: their ids, and the pieces that they hold.

Rules:
1. Pieces travel over HTTP ranges. A link carries only messages about pieces.
2. No digest of a piece travels on a link: the host that sends a piece never says which digest the piece must have.
3. Have messages are batched. A batch is sent at most half a piece's transfer time after its first piece.
4. A message is about one generation of the piece map. A message about another generation is ignored.
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
    """All pieces that the sender holds, sent on connecting and after a reset. It replaces earlier Have messages."""

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
    """Pieces that the sender has gained since its last message."""

    digest: f.Digest
    generation: f.Generation
    spans: Annotated[tuple[Span, ...], f.Items(f.Record(Span), MAX_SPANS_PER_MESSAGE)]


@dataclass(frozen=True, slots=True)
class DontHave:
    """The sender no longer serves this blob."""

    digest: f.Digest


@dataclass(frozen=True, slots=True)
class Unchoke:
    """The sender had no upload slot for a piece of this blob and has one now. The receiver may ask again."""

    digest: f.Digest


LinkMessage: TypeAlias = Bitfield | Have | DontHave | Unchoke
"""The messages about one blob."""
