"""Lazy reads: the few bytes that a snapshotter asks for of a layer that it does not want whole (eStargz, SOCI,
zstd:chunked), told apart from a client that fetches the layer.

A snapshotter reads a layer's last bytes first, its table of contents, and then some 5 % of the layer, chunk by chunk,
each verified by a digest of its own. Fetching the layer for that costs twenty times as much, and its last bytes, which
wait for the SHA-256, would come last.

Rules:
1. A read is lazy if each of its ranges has an end of its own, or is a suffix, and there are MAX_SPANS of them at most.
   Runtimes resume and fetch in parallel with `bytes=N-`, which is no lazy read.
2. It is none if an answer from the layer's beginning has ended early: it may be the rest of that.
3. Once a quarter of a layer was read, the layer is worth fetching.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from peer.oci.digest import AnyDigest
from proxy.core.ranges import RequestedRanges

MAX_SPANS: Final = 16
"""Each is a request to the origin."""

SHARE: Final = 4
"""One in so many bytes of a layer may be read lazily: stargz-snapshotter reads 10 MiB ahead, SOCI spans of 4 MiB."""

MIN_BYTES: Final = 256 * 1024
"""So many may be read of any layer."""

MAX_LAYERS: Final = 4096


@dataclass(slots=True)
class LazyReads:
    """What was read lazily of each layer, in bytes, and which layers were begun and not finished."""

    _read_bytes: OrderedDict[AnyDigest, int] = field(default_factory=OrderedDict)
    _unfinished: OrderedDict[AnyDigest, None] = field(default_factory=OrderedDict)

    def take(self, digest: AnyDigest, ranges: RequestedRanges, size_bytes: int) -> bool:
        """Whether this read of content with `size_bytes` is lazy. It then counts as read."""
        if digest in self._unfinished or not ranges.are_closed:
            return False
        spans = ranges.spans_or_none(size_bytes)
        if spans is None or len(spans) > MAX_SPANS:
            return False
        amount = sum(span.size_bytes for span in spans)
        read_bytes = self._read_bytes.get(digest, 0) + amount
        if amount == size_bytes or read_bytes > max(MIN_BYTES, size_bytes // SHARE):
            return False
        self._read_bytes[digest] = read_bytes
        self._read_bytes.move_to_end(digest)
        while len(self._read_bytes) > MAX_LAYERS:
            self._read_bytes.popitem(last=False)
        return True

    def ended_early(self, digest: AnyDigest) -> None:
        """An answer that was no lazy read has ended before its last byte."""
        self._unfinished[digest] = None
        self._unfinished.move_to_end(digest)
        while len(self._unfinished) > MAX_LAYERS:
            self._unfinished.popitem(last=False)
