"""Sending a blob to a client: whole, a range, or several, by sendfile, while it may still be arriving.

Python decides how far the client may be served, the kernel moves the bytes from the blob's file to the socket. A body
that cannot be finished ends short of its Content-Length and with FIN: clients resume after that, and fail after RST.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

from aiohttp import web

from peer.downloads import BlobReader
from peer.errors import P2pdError
from proxy.core.ranges import ByteSpan, UnsatisfiableRangeError, parse_ranges

INLINE_BYTES = 64 * 1024
"""Up to here one `read` and one `write` with the headers cost less than headers, sendfile and its set-up."""


SEND_BYTES = 16 * 1024 * 1024
"""At most so much for one sendfile, so that what went to a client that goes away in the middle is known about."""


@dataclass(slots=True)
class Sent:
    """What became of an answer: its status once it has begun, the body's bytes; `error` is why it was cut short."""

    status: int | None = None
    body_bytes: int = 0
    error: P2pdError | None = None


def first_bytes(request: web.BaseRequest, size_bytes: int) -> tuple[int, int | None]:
    """The bytes that will be sent first of a blob that is thought to have `size_bytes`; no stop: all from there on."""
    try:
        spans = parse_ranges(request.headers.get("Range"), size_bytes)
    except UnsatisfiableRangeError:
        spans = None
    if not spans:
        return 0, None
    return spans[0].start, None if spans[0].stop == size_bytes else spans[0].stop


async def send_blob(
    request: web.BaseRequest, reader: BlobReader, headers: dict[str, str], sent: Sent
) -> web.StreamResponse:
    """Answer `request` from `reader`, as its Range header asks; `sent` is kept up to date."""
    size_bytes = reader.blob.size_bytes
    try:
        spans = parse_ranges(request.headers.get("Range"), size_bytes)
    except UnsatisfiableRangeError:
        return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{size_bytes}"})
    if spans is not None and len(spans) > 1:
        return await _send_parts(request, reader, headers, spans, sent)
    span = spans[0] if spans else ByteSpan(0, size_bytes)
    status = 206 if spans else 200
    if spans:
        headers["Content-Range"] = span.content_range(size_bytes)
    if span.size_bytes <= INLINE_BYTES and reader.blob.whole:
        body = reader.blob.read(span.start, span.stop)
        sent.body_bytes = len(body)
        return web.Response(status=status, headers=headers, body=body)
    response = await _begin(request, status, headers, span.size_bytes, sent)
    await _send_span(request, response, reader, span, sent)
    return response


async def _send_parts(
    request: web.BaseRequest, reader: BlobReader, headers: dict[str, str], spans: list[ByteSpan], sent: Sent
) -> web.StreamResponse:
    """multipart/byteranges, a part for each range and in the client's order (RFC 9110, section 14.6)."""
    boundary = secrets.token_hex(16)
    media_type = headers["Content-Type"]
    heads = [
        f"\r\n--{boundary}\r\nContent-Type: {media_type}\r\n"
        f"Content-Range: {span.content_range(reader.blob.size_bytes)}\r\n\r\n".encode()
        for span in spans
    ]
    end = f"\r\n--{boundary}--\r\n".encode()
    length = sum(map(len, heads)) + sum(span.size_bytes for span in spans) + len(end)
    headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    response = await _begin(request, 206, headers, length, sent)
    for head, span in zip(heads, spans, strict=True):
        await response.write(head)
        await _send_span(request, response, reader, span, sent)
        if sent.error is not None:
            return response
    await response.write(end)
    return response


async def _begin(
    request: web.BaseRequest, status: int, headers: dict[str, str], length: int, sent: Sent
) -> web.StreamResponse:
    sent.status = status
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = length
    await response.prepare(request)
    return response


async def _send_span(
    request: web.BaseRequest, response: web.StreamResponse, reader: BlobReader, span: ByteSpan, sent: Sent
) -> None:
    loop = asyncio.get_running_loop()
    position = span.start
    try:
        while position < span.stop:
            end = min(await reader.readable(position, span.stop), position + SEND_BYTES)
            transport = request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the client went away")
            await loop.sendfile(transport, reader.blob, position, end - position)  # type: ignore[arg-type] # has fileno()
            sent.body_bytes += end - position
            position = end
    except P2pdError as error:
        sent.error = error
        response.force_close()
    except TimeoutError as error:  # TCP_USER_TIMEOUT
        raise ConnectionAbortedError("the client took nothing for too long") from error
