"""A sample of a piece from the origin, in a worker thread: few bytes, with which the piece itself is compared."""

from __future__ import annotations

from msgspec.structs import replace

from peer.core.events import FetchSample
from peer.errors import OriginError
from peer.origin_range import OriginSource
from scheduler.protocol.geometry import piece_span, said_piece_length


def fetch_sample(source: OriginSource, wanted: FetchSample) -> bytes | None:
    """Bytes of a piece; None if the origin does not give just these bytes."""
    size_bytes = wanted.size_bytes
    begin, end = piece_span(wanted.index, size_bytes, said_piece_length(size_bytes, wanted.piece_length))
    start, stop = begin + wanted.start, min(end, begin + wanted.stop)
    if start >= stop:
        return None
    sample = bytearray(stop - start)
    try:
        with source.origin.open(
            replace(source.ref, size_bytes=size_bytes), start, stop, credential=source.credential
        ) as body:
            if body.start != start or body.size_bytes != size_bytes:
                body.abort()  # an origin that ignores Range would send the whole blob
                return None
            return bytes(sample) if body.readinto(memoryview(sample)) == len(sample) else None
    except OriginError:
        return None
