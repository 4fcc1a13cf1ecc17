"""What of a node is traced: what its clients ask for, and the pieces that other hosts get.

The downloads between the two have their spans from `peer`, below the span of the client's request.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from p2pd.admin.client_metrics import RUNTIMES, family_of
from peer.oci.digest import Digest
from peer.tracing import HEADER, Span, current
from proxy.mirror import RequestRecord

if TYPE_CHECKING:
    from p2pd.tracing.spans import Recorder

Observe = Callable[[RequestRecord], None]
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

MAX_UPLOADS: Final = 256
UPLOAD_IDLE_S: Final = 5.0
"""The span of what another host gets of a blob ends when that host has asked for nothing for so long."""


@dataclass(slots=True)
class _Upload:
    span: Span | None
    pieces: int
    bytes: int
    last_at: float


class NodeTraces:
    """On the event loop."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._uploads: OrderedDict[tuple[str, str], _Upload] = OrderedDict()

    def of_requests(self, handler: Handler) -> Handler:
        """The mirror's handler, with a span around each request."""

        async def traced(request: web.BaseRequest) -> web.StreamResponse:
            asked = {
                "http.request.method": request.method,
                "url.path": request.path,
                "user_agent.original": request.headers.get("User-Agent", ""),
            }
            span = self._recorder.begin(request.method, request.headers, asked)
            if span is None:
                return await handler(request)
            token = current.set(span)
            try:
                return await handler(request)
            finally:
                current.reset(token)
                span.end()

        return traced

    def observing(self, observe: Observe) -> Observe:
        """Called with the record of a request, in its task, before the request's span ends; then `observe` is."""

        def both(record: RequestRecord) -> None:
            observe(record)
            self._note(record)

        return both

    def _note(self, record: RequestRecord) -> None:
        span = current.get()
        if span is None:
            return
        refused, relayed = record.refused, record.relayed
        span.note(
            {
                "http.response.status_code": record.status,
                "p2pd.endpoint": record.endpoint,
                "p2pd.upstream": record.upstream,
                "p2pd.runtime": RUNTIMES.get(family_of(record.user_agent), "other"),
                "p2pd.cache": record.cache,
                "p2pd.bytes": record.body_bytes,
                "p2pd.wait_s.bytes": round(record.waited_s, 6),
                "p2pd.wait_s.client": round(record.taken_s, 6),
                **({} if record.first_byte_s is None else {"p2pd.first_byte_s": round(record.first_byte_s, 6)}),
                **({} if relayed is None else {"p2pd.relayed": relayed.value}),
                **({} if refused is None else {"error.type": refused.value}),
            }
        )

    def sent(self, headers: Mapping[str, str], host: str | None, digest: Digest, size_bytes: int) -> None:
        """Another host got a piece. All of a blob that it got under one context are one span."""
        context = headers.get(HEADER)
        if context is None:
            return
        key = context, str(digest)
        upload = self._uploads.get(key)
        if upload is None:
            attributes = {"p2pd.digest": str(digest), "p2pd.receiver": host or ""}
            span = self._recorder.begin("pieces for a neighbour", {HEADER: context}, attributes, joins_only=True)
            upload = self._uploads[key] = _Upload(span, 0, 0, 0.0)
        upload.pieces += 1
        upload.bytes += size_bytes
        upload.last_at = time.monotonic()
        self._uploads.move_to_end(key)
        if len(self._uploads) > MAX_UPLOADS:
            self._end_oldest()

    async def run(self) -> None:
        """End the spans of uploads once they have ended."""
        while True:
            await asyncio.sleep(1.0)
            self.tend()

    def close(self) -> None:
        """End all spans, and send what there is as far as it goes in time. It blocks."""
        self.tend(ending=True)
        self._recorder.close()

    def tend(self, *, ending: bool = False) -> None:
        """End the spans of uploads that nobody goes on with, or all."""
        while self._uploads:
            oldest = next(iter(self._uploads.values()))
            if not ending and time.monotonic() - oldest.last_at < UPLOAD_IDLE_S:
                return
            self._end_oldest()

    def _end_oldest(self) -> None:
        upload = self._uploads.popitem(last=False)[1]
        if upload.span is not None:
            upload.span.note({"p2pd.pieces": upload.pieces, "p2pd.bytes": upload.bytes})
            upload.span.end(at=upload.last_at)
