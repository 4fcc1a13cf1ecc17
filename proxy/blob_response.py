"""Sending a blob to a client: whole, a range, or several, by sendfile, while it may still be arriving.

Python decides how far the client may be served; the kernel moves the bytes from the blob's file to the socket. If the
rest of a body cannot be had, the answer ends short of its Content-Length, with FIN: clients resume after FIN and fail
after RST.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from aiohttp import web

from peer.errors import P2pdError
from peer.readers import BlobReader
from peer.sendfile import send_file
from proxy.core.ranges import ByteSpan, RequestedRanges, UnsatisfiableRangeError

INLINE_BYTES = 64 * 1024
"""Up to this length, one `read` and one `write` of headers and body cost less than a write and a sendfile."""


SEND_BYTES = 16 * 1024 * 1024
"""The most that one sendfile sends: if a client goes away in the middle of one, its bytes are not counted."""


@dataclass(slots=True)
class Sent:
    """The state of an answer: its status once its headers were sent, the body's bytes, and the error that ended it."""

    status: int | None = None
    body_bytes: int = 0
    error: P2pdError | None = None


async def send_blob(
    request: web.BaseRequest, reader: BlobReader, ranges: RequestedRanges, headers: dict[str, str], sent: Sent
) -> web.StreamResponse:
    """Answer `request` with `ranges` of what `reader` has; `sent` is kept up to date."""
    size_bytes = reader.blob.size_bytes
    try:
        spans = ranges.spans(size_bytes)
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
    position = span.start
    try:
        while position < span.stop:
            end = min(await reader.readable(position, span.stop), position + SEND_BYTES)
            transport = request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the client went away")
            await send_file(transport, reader.blob, position, end - position)
            sent.body_bytes += end - position
            position = end
    except P2pdError as error:
        sent.error = error
        response.force_close()
    except TimeoutError as error:  # TCP_USER_TIMEOUT
        raise ConnectionAbortedError("the client took nothing for too long") from error
