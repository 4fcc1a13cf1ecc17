"""The Range header: what of a blob a client asks for (RFC 9110, section 14).

dockerd, podman and containerd resume with `bytes=N-`; containerd's parallel fetch opens with `bytes=0-`; podman's
partial pulls of zstd:chunked layers ask for many ranges at once, and want exactly as many parts back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_RANGES = 1024
"""containers/storage merges the chunks that it misses into at most 1,024 ranges."""

_RANGE = re.compile(r"(?P<first>[0-9]{0,19})-(?P<last>[0-9]{0,19})")


@dataclass(frozen=True, slots=True)
class ByteSpan:
    """Bytes `[start, stop)`."""

    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        return self.stop - self.start

    def content_range(self, size_bytes: int) -> str:
        return f"bytes {self.start}-{self.stop - 1}/{size_bytes}"


class UnsatisfiableRangeError(ValueError):
    """None of the ranges has a byte of the blob: 416."""


def parse_ranges(header: str | None, size_bytes: int) -> list[ByteSpan] | None:
    """The spans asked for, in the client's order; None to send the whole blob, as if there were no header.

    Whole is also the answer to what is no range, as the RFC has it, and to ranges that overlap so much that they would
    send more than the blob has (CVE-2011-3192). Raises UnsatisfiableRangeError.
    """
    if header is None or not header.startswith("bytes="):
        return None
    texts = header.removeprefix("bytes=").split(",")
    if len(texts) > MAX_RANGES:
        return None
    spans = []
    for text in texts:
        match = _RANGE.fullmatch(text.strip(" \t"))
        if match is None or not (match["first"] or match["last"]):
            return None
        span = _span(match["first"], match["last"], size_bytes)
        if span is None:
            return None
        if span.size_bytes > 0:
            spans.append(span)
    if not spans:
        raise UnsatisfiableRangeError(header[:80])
    if len(spans) > 1 and sum(span.size_bytes for span in spans) > size_bytes:
        return None
    return spans


def _span(first: str, last: str, size_bytes: int) -> ByteSpan | None:
    """One range, cut to the blob (empty when outside); None if its ends are the wrong way round."""
    if not first:
        return ByteSpan(max(0, size_bytes - int(last)), size_bytes)
    start = int(first)
    if last and int(last) < start:
        return None
    stop = min(int(last) + 1, size_bytes) if last else size_bytes
    return ByteSpan(start, max(start, stop))
