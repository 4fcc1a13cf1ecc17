"""Sending content to a client: whole, a range, or several, while it may still be arriving.

Python decides how far the client may be served; the kernel moves the bytes from a blob's file to the socket. What an
origin's bytes are passed on for goes the same way (`proxy.relay`). If the rest of a body cannot be had, the answer ends
short of its Content-Length, with FIN: clients resume after FIN and fail after RST.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from aiohttp import web

from peer.errors import OriginCorruptError, P2pdError, StoreError
from peer.readers import BlobReader
from peer.sendfile import encrypts_here, send_encrypted, send_file
from proxy.core.ranges import ByteSpan, RequestedRanges, UnsatisfiableRangeError
from proxy.whole_response import WholeResponse

INLINE_BYTES = 64 * 1024
"""Up to this length, one `read` and one `write` of headers and body cost less than a write and a sendfile."""


SEND_BYTES = 16 * 1024 * 1024
"""The most that one sendfile sends: if a client goes away in the middle of one, its bytes are not counted."""

Begin = Callable[[], Awaitable[web.StreamResponse]]
SpanSender = Callable[[Begin, ByteSpan], Awaitable[None]]
"""Begins the answer, once there is something to send, and sends the bytes of one span as they come.

Raises the P2pdError that ends them: before the answer has begun, it is the answer.
"""


@dataclass(slots=True)
class Sent:
    """The state of an answer: its status once its headers were sent, the body's bytes, and the error that ended it.

    `first_at`: when the first byte of the body was there to be sent, by the monotonic clock. `waited_s` went by while
    the next bytes were not there yet, `taken_s` while the client took bytes: both only of a body that is streamed.
    """

    status: int | None = None
    body_bytes: int = 0
    error: P2pdError | None = None
    first_at: float | None = None
    waited_s: float = 0.0
    taken_s: float = 0.0

    def has_bytes(self, since: float) -> float:
        """There are bytes to send, which were waited for since monotonic time `since`. Returns the time."""
        now = time.monotonic()
        self.waited_s += now - since
        if self.first_at is None:
            self.first_at = now
        return now

    def has_sent(self, amount_bytes: int, since: float) -> float:
        """The client took the bytes, from monotonic time `since` on. Returns the time."""
        now = time.monotonic()
        self.taken_s += now - since
        self.body_bytes += amount_bytes
        return now


@dataclass(slots=True)
class Content:
    """The answer to one GET: `ranges` of what has `headers`. `sent` is kept up to date.

    `begun` is the answer once its headers were sent.
    """

    request: web.BaseRequest
    ranges: RequestedRanges
    headers: dict[str, str]
    sent: Sent
    begun: web.StreamResponse | None = None
    size_bytes: int = 0

    async def begin(self, size_bytes: int) -> None:
        """Send the headers before there is anything to send, unless several parts, or none, will be sent."""
        spans = self.ranges.spans_or_none(size_bytes)
        if not self.ranges.ranges or (spans is not None and len(spans) == 1):
            await self._begin_whole_or_span(spans[0] if spans else None, size_bytes)

    async def send(self, size_bytes: int, send_span: SpanSender) -> web.StreamResponse:
        """Answer, by `send_span`, with content that has `size_bytes`. Raises what it raises before the answer began."""
        try:
            spans = self.ranges.spans(size_bytes)
        except UnsatisfiableRangeError:
            return web.Response(status=416, headers={**self.headers, "Content-Range": f"bytes */{size_bytes}"})
        if spans is not None and len(spans) > 1:
            await self._send_parts(spans, size_bytes, send_span)
        else:
            await self._send_one(spans[0] if spans else None, size_bytes, send_span)
        assert self.begun is not None
        return self.begun

    def small_span(self, size_bytes: int) -> ByteSpan | None:
        """What to send of `size_bytes`, if it is one span of at most INLINE_BYTES and nothing was sent yet."""
        try:
            spans = self.ranges.spans(size_bytes) or [ByteSpan(0, size_bytes)]
        except UnsatisfiableRangeError:
            return None
        is_small = len(spans) == 1 and spans[0].size_bytes <= INLINE_BYTES and self.begun is None
        return spans[0] if is_small else None

    def in_one_write(self, body: bytes, span: ByteSpan, size_bytes: int) -> WholeResponse:
        """The answer with `body`, the bytes of `span`."""
        is_part = self.ranges.spans(size_bytes) is not None
        if is_part:
            self.headers["Content-Range"] = span.content_range(size_bytes)
        self.sent.body_bytes = len(body)
        return WholeResponse(self.headers, body, status=206 if is_part else 200)

    def cut(self, error: P2pdError) -> web.StreamResponse:
        """End an answer that has begun, short of its length. One that has not is the error, which is raised."""
        self.sent.error = error
        if self.begun is None:
            raise error
        self.begun.force_close()
        return self.begun

    async def _send_one(self, span: ByteSpan | None, size_bytes: int, send_span: SpanSender) -> None:
        async def begin() -> web.StreamResponse:
            response = self.begun or await self._begin_whole_or_span(span, size_bytes)
            if self.size_bytes != size_bytes:
                raise OriginCorruptError(f"it has {size_bytes} bytes, and {self.size_bytes} were announced")
            return response

        await self._send_span(begin, span or ByteSpan(0, size_bytes), send_span)

    async def _send_parts(self, spans: list[ByteSpan], size_bytes: int, send_span: SpanSender) -> None:
        """multipart/byteranges, a part for each range and in the client's order (RFC 9110, section 14.6)."""
        boundary = secrets.token_hex(16)
        media_type = self.headers["Content-Type"]
        heads = [
            f"\r\n--{boundary}\r\nContent-Type: {media_type}\r\n"
            f"Content-Range: {span.content_range(size_bytes)}\r\n\r\n".encode()
            for span in spans
        ]
        end = f"\r\n--{boundary}--\r\n".encode()
        length = sum(map(len, heads)) + sum(span.size_bytes for span in spans) + len(end)
        self.headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"

        async def begin(head: bytes) -> web.StreamResponse:
            response = self.begun or await self._begin(206, length)
            await response.write(head)
            return response

        for head, span in zip(heads, spans, strict=True):
            await self._send_span(partial(begin, head), span, send_span)
            if self.sent.error is not None:
                return
        if self.begun is not None:
            await self.begun.write(end)

    async def _begin_whole_or_span(self, span: ByteSpan | None, size_bytes: int) -> web.StreamResponse:
        if span:
            self.headers["Content-Range"] = span.content_range(size_bytes)
        self.size_bytes = size_bytes
        return await self._begin(206 if span else 200, span.size_bytes if span else size_bytes)

    async def _begin(self, status: int, length: int) -> web.StreamResponse:
        self.sent.status = status
        self.begun = web.StreamResponse(status=status, headers=self.headers)
        self.begun.content_length = length
        await self.begun.prepare(self.request)
        return self.begun

    async def _send_span(self, begin: Begin, span: ByteSpan, send_span: SpanSender) -> None:
        try:
            await send_span(begin, span)
        except P2pdError as error:
            if self.begun is None:  # another way may answer
                raise
            self.cut(error)
        except TimeoutError as error:  # TCP_USER_TIMEOUT
            raise ConnectionAbortedError("the client took nothing for too long") from error


@dataclass(slots=True)
class BlobSender:
    """Sends a blob of the store, by sendfile without TLS. `go_on` sends the rest of a span if the store fails."""

    content: Content
    reader: BlobReader
    go_on: SpanSender

    async def answer(self) -> web.StreamResponse:
        """The whole answer. Raises the error that ends it before its headers."""
        return await self.content.send(self.reader.blob.size_bytes, self._send_span)

    async def _send_span(self, begin: Begin, span: ByteSpan) -> None:
        request, sent = self.content.request, self.content.sent
        await begin()
        position, at = span.start, time.monotonic()
        while position < span.stop:
            try:
                end = min(await self.reader.readable(position, span.stop), position + SEND_BYTES)
            except StoreError:
                return await self.go_on(begin, ByteSpan(position, span.stop))
            at = sent.has_bytes(at)
            transport = request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the client went away")
            if encrypts_here(transport):
                assert self.content.begun is not None
                await send_encrypted(self.content.begun, self.reader.blob, position, end - position)
            else:
                await send_file(transport, self.reader.blob, position, end - position)
            at = sent.has_sent(end - position, at)
            position = end
        return None
