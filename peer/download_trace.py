"""The trace of one blob that is on its way: a span of the download, one for each source, and those of waits.

On the event loop. Requests have the numbers that `peer.core` gives them.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Final

from peer.oci.digest import Digest
from peer.store.facts import Came
from peer.tracing import Span, SpanKind
from peer.waits import Wait

MAX_SOURCES: Final = 32
"""A member has at most 16 neighbours at a time. What is beyond, over a long download, shares one span."""

MAX_WAITS: Final = 32
LEAST_WAIT_S: Final = 0.005
"""A wait has a span of its own if it is as long as that. The sum of all is in the download's span."""

_TRANSFERS: Final = frozenset({Wait.ORIGIN, Wait.NEIGHBOURS, Wait.BOTH})
"""What is seen in the spans of the sources."""


@dataclass(slots=True)
class _Source:
    span: Span
    requests: int = 0
    bytes: int = 0
    pieces: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    last_at: float = 0.0


class DownloadTrace:
    """One download, below the span of the request that began it."""

    def __init__(self, parent: Span, digest: Digest) -> None:
        self._span = parent.child("download", SpanKind.INTERNAL, {"p2pd.digest": str(digest)})
        self._sources: dict[str, _Source] = {}
        self._requests: dict[int, _Source] = {}
        self._wait: Wait | None = None
        self._wait_since = 0.0
        self._waited_s: defaultdict[Wait, float] = defaultdict(float)
        self._waits = 0

    @property
    def traceparent(self) -> str:
        return self._span.traceparent

    def asked(self, request: int, kind: str, name: str) -> str:
        """A request to a source begins; `kind` is `origin` or `neighbour`. Returns the context of the request."""
        source = self._sources.get(f"{kind} {name}") or self._new_source(kind, name)
        source.requests += 1
        self._requests[request] = source
        return source.span.traceparent

    def received(self, request: int, size_bytes: int) -> None:
        """A piece has come by a request, verified."""
        if (source := self._requests.get(request)) is not None:
            source.pieces += 1
            source.bytes += size_bytes
            source.last_at = time.monotonic()

    def answered(self, request: int, how: str) -> None:
        """A request has ended: `how` is a word of few."""
        if (source := self._requests.pop(request, None)) is not None:
            source.ends[how] += 1
            source.last_at = time.monotonic()

    def waits_for(self, wait: Wait) -> None:
        """The download waits for this now."""
        if wait is not self._wait:
            self._end_wait()
            self._wait, self._wait_since = wait, time.monotonic()

    async def sealing(self, work: Awaitable[None]) -> None:
        """Do the work that flushes the blob, with a span."""
        span = self._span.child("seal", SpanKind.INTERNAL, {})
        try:
            await work
        finally:
            span.end()

    def end(self, size_bytes: int | None, came: Came, error: str = "") -> None:
        """The download has ended. `came` is what has come of the blob since the start of this host."""
        self._end_wait()
        for source in self._sources.values():
            counts = {f"p2pd.requests.{how}": count for how, count in source.ends.items()}
            source.span.note(
                {
                    "p2pd.requests": source.requests,
                    "p2pd.pieces": source.pieces,
                    "p2pd.bytes": source.bytes,
                    **counts,
                }
            )
            source.span.end(
                "" if source.pieces or source.ends.keys() <= {"done"} else "nothing came", at=source.last_at
            )
        waited = {f"p2pd.wait_s.{wait.name.lower()}": round(waited_s, 6) for wait, waited_s in self._waited_s.items()}
        size = {} if size_bytes is None else {"p2pd.size_bytes": size_bytes}
        sources = {"p2pd.bytes.origin": came.origin_bytes, "p2pd.bytes.neighbours": came.peer_bytes}
        self._span.note({**size, **sources, **waited})
        self._span.end(error)

    def _new_source(self, kind: str, name: str) -> _Source:
        if len(self._sources) >= MAX_SOURCES:
            name = "others"
        key = f"{kind} {name}"
        if key not in self._sources:
            span = self._span.child(key, SpanKind.CLIENT, {"p2pd.source": kind, "p2pd.source.name": name})
            self._sources[key] = _Source(span, last_at=time.monotonic())
        return self._sources[key]

    def _end_wait(self) -> None:
        wait, since, now = self._wait, self._wait_since, time.monotonic()
        self._wait = None
        if wait is None:
            return
        self._waited_s[wait] += now - since
        if wait not in _TRANSFERS and now - since >= LEAST_WAIT_S and self._waits < MAX_WAITS:
            self._waits += 1
            self._span.child(f"wait for {wait.value}", SpanKind.INTERNAL, {}, at=since).end(at=now)
