"""The peer port: pieces for other hosts, and the links that neighbours dial.

    GET /v2/swarm/blobs/<digest>   with a Range: 206 from the store, as any registry would answer (curl works)
    GET /v1/link                   the WebSocket of a neighbour

1. Only what is verified is served: whole blobs, and pieces that match the swarm's map.
2. A few pieces go out at a time, as `peer.core.choker` decides; all keep to `rate_bytes_per_s` together. Who asks for
   more is told *busy* (429) at once, asks another neighbour, and hears on its link when it can come. One that is served
   while others come first is told so with the piece (`CHOKED_HEADER`), which saves it a refusal.
3. With certificates the port is TLS alone, and a host is who its certificate says, in each request anew: a certificate
   may expire, and a host be revoked, while a connection is kept.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from peer.core.choker import UploadRequest
from peer.errors import FileLimitError, InvalidNameError, StoreError
from peer.net.upload_sender import Upload, Uploading
from peer.oci.digest import Digest
from peer.pacing import PACED_BYTES, pacing_bucket
from peer.peer_piece import CHOKED_HEADER, HOST_HEADER
from peer.sendfile import send_file
from peer.store import Blob
from scheduler.trust.errors import TrustError

if TYPE_CHECKING:
    from peer.trust.host_trust import HostTrust

log = structlog.get_logger("peer.net.peer_server")

ENCRYPTED_BYTES = 512 * 1024
"""What is read and encrypted at a time."""

STALL_S = 60.0
"""How long a piece may take to go out. Nobody waits longer for one (`SLOW_MOST_S` of `peer.core.peer_requests`): a
host that reads more slowly holds an upload slot for nothing."""

_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{1,15})")

Servable = Callable[[Digest, int, int], AbstractAsyncContextManager[Blob | None]]
"""Pins the blob of a digest, for the length of the block, if its bytes `[start, stop)` may be served; else None.

They are right on the disk by then; a blob that is not is lost, and StoreError is raised."""


class PeerServer:
    """Serves other hosts. `accept_link` handles a neighbour's WebSocket; `is_far`: a host is in another site."""

    def __init__(
        self,
        servable: Servable,
        accept_link: Callable[[web.Request], Awaitable[web.StreamResponse]],
        *,
        uploading: Uploading,
        is_far: Callable[[str], bool],
        rate_bytes_per_s: int,
        stall_s: float = STALL_S,
        trust: HostTrust | None = None,
    ) -> None:
        self._trust = trust
        self._servable = servable
        self._accept_link = accept_link
        self._uploading = uploading
        self._is_far = is_far
        self._stall_s = stall_s
        self._bucket = pacing_bucket(rate_bytes_per_s)
        self.sent_bytes = 0
        self.busy_answers = 0

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes([web.get("/v1/link", self._accept_link), web.get("/v2/swarm/blobs/{digest}", self._blob)])
        return app

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        try:
            digest = Digest(request.match_info["digest"])
        except InvalidNameError as error:
            return _refusal(400, str(error))
        asked = _RANGE.fullmatch(request.headers.get("Range", ""))
        if asked is None or int(asked[2]) < int(asked[1]):
            return _refusal(400, "one range is wanted, as in `Range: bytes=0-4194303`")
        start, stop = int(asked[1]), int(asked[2]) + 1
        try:
            host = self._asking(request)
        except TrustError as error:
            refusal = _refusal(403, str(error))
            refusal.force_close()  # the host may have a newer certificate, for a new connection
            return refusal
        receiver = UploadRequest(host, digest.raw, self._is_far(host)) if host else None
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the other host went away")
        upload = Upload(receiver, transport, stop - start)
        async with self._uploading.turn(upload) as may_send:
            if not may_send:
                self.busy_answers += 1
                return _refusal(429, "busy: other pieces fill the line", {"Retry-After": "0"})
            try:
                async with self._servable(digest, start, stop) as blob:
                    if blob is None:
                        return _refusal(404, f"bytes {start} to {stop} of {digest} are not held here")
                    return await self._send(request, upload, blob, start)
            except FileLimitError as error:
                return _refusal(429, str(error), {"Retry-After": "0"})
            except StoreError as error:
                return _refusal(404, str(error))

    def _asking(self, request: web.Request) -> str | None:
        """The host that asks, by its certificate; without certificates by its word. Raises CertificateError."""
        if self._trust is None:
            return request.headers.get(HOST_HEADER)
        transport = request.transport
        return self._trust.check(None if transport is None else transport.get_extra_info("ssl_object"))

    async def _send(self, request: web.Request, upload: Upload, blob: Blob, start: int) -> web.StreamResponse:
        stop = start + upload.size_bytes
        response = web.StreamResponse(
            status=206,
            headers={
                "Content-Type": blob.header.media_type or "application/octet-stream",
                "Content-Range": f"bytes {start}-{stop - 1}/{blob.size_bytes}",
                "Content-Length": str(upload.size_bytes),
                **({CHOKED_HEADER: "1"} if upload.requeue else {}),
            },
        )
        try:
            await response.prepare(request)
            await self._send_span(response, upload, blob, start)
        except (ConnectionError, StoreError) as error:  # aiohttp would log it as our fault; it sees that it has ended
            if isinstance(error, StoreError):
                log.warning("a piece for another host could not be read", digest=blob.digest, error=str(error))
            upload.transport.abort()
        return response

    async def _send_span(self, response: web.StreamResponse, upload: Upload, blob: Blob, start: int) -> None:
        """The bytes of `blob` from `start` on. Raises ConnectionError if the other host goes away, or takes long."""
        transport, stop = upload.transport, start + upload.size_bytes
        loop = asyncio.get_running_loop()
        while start < stop:
            if transport.is_closing():
                raise ConnectionResetError("the other host went away")
            count = stop - start if self._bucket is None else min(stop - start, PACED_BYTES)
            if self._bucket is not None:
                await asyncio.sleep(self._bucket.take(count, loop.time()))
            sending = (
                send_file(transport, blob, start, count)
                if self._trust is None
                else _encrypted(response, blob, start, count)
            )
            await self._patiently(transport, sending)
            start += count
            self.sent_bytes += count
        await self._patiently(transport, self._uploading.drained(upload))

    async def _patiently(self, transport: asyncio.Transport, sending: Awaitable[object]) -> None:
        """Raises ConnectionResetError if the other host goes away, or takes too long: then the connection ends."""
        try:
            async with asyncio.timeout(self._stall_s):
                await sending
        except TimeoutError:
            transport.abort()
            raise ConnectionResetError(f"the other host took longer than {self._stall_s:g} s") from None
        except BrokenPipeError as error:
            raise ConnectionResetError("the other host went away") from error


async def _encrypted(response: web.StreamResponse, blob: Blob, start: int, count: int) -> None:
    """Send over TLS, where the kernel has no sendfile: 1 CPU-s per GiB. The place for an encoding that costs less."""
    for at in range(start, start + count, ENCRYPTED_BYTES):
        await response.write(await asyncio.to_thread(blob.read, at, min(at + ENCRYPTED_BYTES, start + count)))


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": message}, status=status, headers=headers)
