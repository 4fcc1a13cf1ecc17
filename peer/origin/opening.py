"""What an answer to GET of content is: which bytes of it the body has, and whether it can be used at all.

Rules:
1. The digest proves the bytes in the end, so an answer is used where it can be what was asked for: without a length,
   with a range whose total is not told, with a coding that is only a label.
2. If the answer to a Range header cannot be used, the same is asked once more without it (`is_usable_range`).
3. What is small, and a manifest, is read whole. Its digest then decides between the bytes as they came and the bytes
   decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from peer.errors import OriginCorruptError
from peer.origin.api import MAX_ANSWER_BYTES, ContentRef, Kind
from peer.origin.body import Opened
from peer.origin.codings import coding_of, decoded, is_decoded
from peer.origin.headers import content_range, is_web_page, unsatisfied_range
from peer.origin.http1 import ExchangeFailedError, Reply, unusable
from peer.origin.streams import DecodedStream, HeldStream, read_whole

if TYPE_CHECKING:
    from peer.origin.upstream import UpstreamEndpoint

WHOLE_BYTES = 4 * 1024 * 1024
"""A blob whose length nobody tells is read whole up to here: as much as one piece."""

_RANGE_REFUSED = frozenset({400, 405, 406, 412, 501})
"""Answers of registries, and of proxies before them, to any Range header."""


class LengthUnknown(Struct, frozen=True):
    """The content is there, and its answer does not tell its length."""


def is_usable_range(reply: Reply, ref: ContentRef, start: int, stop: int | None) -> bool:
    """Whether `reply` will do as the answer to a request for bytes `[start, stop)`. A refusal may do, too."""
    if reply.status == 416:
        told = unsatisfied_range(reply.headers.get("content-range", ""))
        size_bytes = ref.size_bytes if told is None else told
        return start > 0 if size_bytes is None else 0 < size_bytes <= start
    if reply.status == 206:
        return _range_of(reply, ref, start, stop) is not None
    return reply.status not in _RANGE_REFUSED


def open_range(
    ref: ContentRef, endpoint: UpstreamEndpoint, reply: Reply, start: int, stop: int | None, *, ranged: bool
) -> Opened | LengthUnknown:
    """The good reply as a body. `ranged`: a Range header was sent. Raises ExchangeFailedError."""
    if ranged and reply.status == 206:
        opened = _range_of(reply, ref, start, stop)
        if opened is None:
            told = reply.headers.get("content-range", "none")
            raise unusable(f"{reply.target} answers bytes [{start}, {stop}) with the Content-Range {told[:80]!a}")
        found = Opened(reply, endpoint, start, opened.stop, opened.size_bytes, _type_of(reply))
    elif reply.status in (200, 206):
        content = _whole(ref, endpoint, reply)
        if isinstance(content, LengthUnknown):
            reply.close()
            return content
        found = content
    else:
        raise unusable(f"{reply.target} answers {reply.status} where content was asked for")
    if not isinstance(found.reply, HeldStream):
        reply.stream()
    return found


class _Range(Struct, frozen=True):
    stop: int
    size_bytes: int


def _range_of(reply: Reply, ref: ContentRef, start: int, stop: int | None) -> _Range | None:
    """What of `[start, stop)` a 206 is good for: its end, and the whole length. None: it is not usable."""
    found = content_range(reply.headers.get("content-range", ""), ref.size_bytes)
    if found is None:
        return None
    most = found.size_bytes if stop is None else min(stop, found.size_bytes)
    if found.start != start or found.stop > most or reply.length not in (None, found.stop - found.start):
        return None
    if is_decoded(_coding(reply)) and found.size_bytes != ref.size_bytes:
        return None  # it may be a range of the coded bytes
    return _Range(most, found.size_bytes)


def _whole(ref: ContentRef, endpoint: UpstreamEndpoint, reply: Reply) -> Opened | LengthUnknown:
    """The whole content. Raises ExchangeFailedError."""
    length, known, coding = reply.length, ref.size_bytes, _coding(reply)
    if ref.kind is Kind.MANIFEST:
        return _manifest(ref, endpoint, reply)
    if is_web_page(reply.headers) and length is not None and length <= WHOLE_BYTES:
        proven = _proven(ref, read_whole(reply, WHOLE_BYTES) or b"", coding)
        if proven is None:
            raise unusable(f"{reply.target} answers with a web page where content was asked for; is its address right?")
        return _held(endpoint, reply, proven)
    if length is not None and (length == known or not is_decoded(coding)):
        return Opened(reply, endpoint, 0, length, length, _type_of(reply))
    if known is not None:
        stream = DecodedStream(reply) if is_decoded(coding) else reply
        return Opened(stream, endpoint, 0, known, known, _type_of(reply))
    body = read_whole(reply, WHOLE_BYTES)
    if body is not None:
        proven = _proven(ref, body, coding)
        return _held(endpoint, reply, body if proven is None else proven)
    if length is None:
        return LengthUnknown()
    return Opened(reply, endpoint, 0, length, length, _type_of(reply))  # the coding is most often a mere label


def _manifest(ref: ContentRef, endpoint: UpstreamEndpoint, reply: Reply) -> Opened:
    body = read_whole(reply, MAX_ANSWER_BYTES)
    if body is None:
        raise unusable(f"{reply.target} sends more than {MAX_ANSWER_BYTES} bytes for the manifest {ref.digest}")
    proven = _proven(ref, body, _coding(reply))
    if proven is None:
        wrong = f"{reply.target} sends other bytes for {ref.digest}: {len(body)} bytes of type {_type_of(reply)[:80]!a}"
        raise ExchangeFailedError(wrong, lasting=True, told=OriginCorruptError(wrong))
    return _held(endpoint, reply, proven)


def _proven(ref: ContentRef, body: bytes, coding: str | None) -> bytes | None:
    """The bytes of this digest: as they came, or decoded."""
    if ref.digest.names(body):
        return body
    plain = decoded(body, MAX_ANSWER_BYTES) if is_decoded(coding) else None
    return plain if plain is not None and ref.digest.names(plain) else None


def _held(endpoint: UpstreamEndpoint, reply: Reply, body: bytes) -> Opened:
    reply.close()
    return Opened(HeldStream(reply.headers, body), endpoint, 0, len(body), len(body), _type_of(reply))


def _coding(reply: Reply) -> str | None:
    return coding_of(reply.headers.get("content-encoding", ""))


def _type_of(reply: Reply) -> str:
    return reply.headers.get("content-type", "")
