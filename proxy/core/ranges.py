"""The Range header: the parts of a blob that a client asks for (RFC 9110, section 14).

dockerd, podman and containerd resume with `bytes=N-`; containerd's parallel fetch opens with `bytes=0-`; podman's
partial pulls of zstd:chunked layers ask for many ranges at once, and want exactly as many parts back.
"""

from __future__ import annotations

import re

from msgspec import Struct

MAX_RANGES = 1024
"""containers/storage asks for at most 1,024 ranges: it merges the chunks that it misses."""

_RANGE = re.compile(r"(?P<first>[0-9]{0,19})-(?P<last>[0-9]{0,19})")


class ByteSpan(Struct, frozen=True):
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


class RequestedRanges(Struct, frozen=True):
    """A Range header before the blob's length is known: the first and the last byte of each range, in the client's
    order. Without a first byte, `last` is how many bytes at the blob's end. No range at all asks for the whole blob.
    """

    ranges: tuple[tuple[int | None, int | None], ...] = ()

    @property
    def are_closed(self) -> bool:
        """There are ranges, and each has an end of its own, or is so many of the last bytes."""
        return bool(self.ranges) and all(last is not None for _, last in self.ranges)

    def spans(self, size_bytes: int) -> list[ByteSpan] | None:
        """The spans of a blob of `size_bytes`; None to send the whole blob.

        Ranges that overlap are ignored if they would send more bytes than the blob has (CVE-2011-3192). Raises
        UnsatisfiableRangeError.
        """
        if not self.ranges:
            return None
        spans = [span for first, last in self.ranges if (span := _span(first, last, size_bytes)).size_bytes > 0]
        if not spans:
            raise UnsatisfiableRangeError(f"none of the ranges is within {size_bytes} bytes")
        if len(spans) > 1 and sum(span.size_bytes for span in spans) > size_bytes:
            return None
        return spans

    def spans_or_none(self, size_bytes: int) -> list[ByteSpan] | None:
        """`spans`, and None also if no range is within the blob."""
        try:
            return self.spans(size_bytes)
        except UnsatisfiableRangeError:
            return None

    def first_bytes(self, size_bytes: int) -> tuple[int, int | None]:
        """Where the answer begins if the blob has `size_bytes`, and where its first span ends; None: at the end."""
        spans = self.spans_or_none(size_bytes)
        if not spans:
            return 0, None
        return spans[0].start, None if spans[0].stop == size_bytes else spans[0].stop


def parse_ranges(header: str | None) -> RequestedRanges:
    """What a Range header asks for. A header that is not valid counts as none (RFC 9110, section 14.2)."""
    if header is None or not header.startswith("bytes="):
        return RequestedRanges()
    texts = header.removeprefix("bytes=").split(",")
    if len(texts) > MAX_RANGES:
        return RequestedRanges()
    ranges = []
    for text in texts:
        match = _RANGE.fullmatch(text.strip(" \t"))
        if match is None or not (match["first"] or match["last"]):
            return RequestedRanges()
        first, last = (int(match[name]) if match[name] else None for name in ("first", "last"))
        if first is not None and last is not None and last < first:
            return RequestedRanges()
        ranges.append((first, last))
    return RequestedRanges(tuple(ranges))


def _span(first: int | None, last: int | None, size_bytes: int) -> ByteSpan:
    """One range, cut to the blob; empty when outside."""
    if first is None:
        return ByteSpan(max(0, size_bytes - (last or 0)), size_bytes)
    stop = size_bytes if last is None else min(last + 1, size_bytes)
    return ByteSpan(first, max(first, stop))
