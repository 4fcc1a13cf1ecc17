"""The peer port: pieces for other hosts, and the links that neighbours dial.

    GET /v2/swarm/blobs/<digest>                  with a Range: 206 from the store, as any registry would answer
    GET /v2/swarm/<first>-<last>/blobs/<digest>   the same bytes, encrypted: for a neighbour with a key
         ?background                              no client waits there: others come first
    GET /v2/swarm/background/blobs/<digest>       a ticket for the blob by the background transport (`peer.background`)
    GET /v1/link                                  the WebSocket of a neighbour

1. Only what is verified is served: whole blobs, and pieces that match the swarm's map.
2. A request is for a piece at most. A few go out at a time, as `peer.core.choker` decides; all keep to
   `rate_bytes_per_s` together. Who asks for more is told *busy* (429) at once, asks another neighbour, and hears on its
   link when it can come. One that is served while others come first is told so with the piece (`CHOKED_HEADER`), which
   saves it a refusal.
3. With certificates a host is who its certificate says, in each request anew: a certificate may expire, and a host be
   revoked, while a connection is kept.
4. Outside of TLS, a request is authenticated by a key of the neighbour's link, before anything else: whoever has none
   gets 401 (`peer.trust.piece_keys`). The answer is encrypted, unless the operator has pieces go in the clear.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web
from msgspec import Struct

from peer.core.choker import UploadRequest
from peer.errors import FileLimitError, InvalidNameError, StoreError
from peer.neighbour_bytes import NeighbourBytes
from peer.neighbour_http import CHOKED_HEADER, HOST_HEADER
from peer.net.upload_sender import Upload, Uploading
from peer.oci.digest import Digest
from peer.pacing import PACED_BYTES, pacing_bucket
from peer.peer_piece import BACKGROUND
from peer.sendfile import encrypts_here, send_encrypted, send_file
from peer.store import Blob
from peer.trust.piece_keys import SCHEME, AnswerKey, PieceRequest, UnauthenticatedError
from scheduler.protocol.geometry import MAX_PIECE_BYTES
from scheduler.trust.errors import TrustError

if TYPE_CHECKING:
    from peer.net.piece_sender import PartMemory, PieceMessage
    from peer.trust.host_trust import HostTrust
    from peer.trust.piece_keys import PieceKeys
    from scheduler.trust.tls import TlsConnection

log = structlog.get_logger("peer.net.peer_server")


STALL_S = 60.0
"""How long a piece may take to go out. Nobody waits longer for one (`SLOW_MOST_S` of `peer.core.peer_requests`): a
host that reads more slowly holds an upload slot for nothing. If others wait for the slot, one that takes next to
nothing loses it sooner (`peer.core.uplink.STALLED_S`)."""

JSON: Final = "application/json; charset=utf-8"

_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{1,15})")
_SPAN = re.compile(r"([0-9]{1,15})-([0-9]{1,15})")

_PATH = re.compile(r"/v2/swarm(?:/([^/]+))?/blobs/([^/]+)")

Servable = Callable[[Digest, int, int], Awaitable[Blob | None]]
"""The blob of a digest, pinned, if its bytes `[start, stop)` may be served; else None. Who gets it releases it.

They are right on the disk by then; a blob that is not is lost, and StoreError is raised."""


class _Asking(Struct, frozen=True):
    """Who asks: the host, if it is known, and with what its answer is encrypted, unless TLS does that or nothing."""

    host: str | None
    answer_key: AnswerKey | None = None


class PeerServer:
    """Serves other hosts. `accept_link` handles a neighbour's WebSocket; `is_far`: a host is in another site.

    `is_checked`: only hosts that check a piece ask for it, that of a blob at a byte.
    """

    def __init__(
        self,
        servable: Servable,
        accept_link: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        uploading: Uploading,
        is_far: Callable[[str], bool],
        is_checked: Callable[[Digest, int], bool] = lambda _, __: False,
        rate_bytes_per_s: int,
        stall_s: float = STALL_S,
        trust: HostTrust | None = None,
        keys: PieceKeys | None = None,
    ) -> None:
        """With `keys`, pieces are served outside of TLS too."""
        self._trust = trust
        self._keys = keys
        self._memory: PartMemory | None = None
        self._servable = servable
        self._accept_link = accept_link
        self._uploading = uploading
        self._is_far = is_far
        self._is_checked = is_checked
        self._stall_s = stall_s
        self._bucket = pacing_bucket(rate_bytes_per_s)
        self.sent_bytes = 0
        self.to_neighbours = NeighbourBytes()
        self.busy_answers = 0
        self.ticket: Callable[[Digest], Awaitable[bytes | None]] | None = None
        """A ticket for a blob; None: there is none of this one. Without such a function there are none at all."""
        self.on_sent: Callable[[Mapping[str, str], str | None, Digest, int], None] | None = None
        """Called with a request's headers, its host, and what it got of a blob."""

    @property
    def is_paced(self) -> bool:
        """Whether there is a limit on what is sent."""
        return self._bucket is not None

    def set_rate(self, rate_bytes_per_s: int) -> None:
        """From now on all pieces together keep to this rate, also those under way; 0 is no limit."""
        self._bucket = pacing_bucket(rate_bytes_per_s)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The handler of each request: it does without aiohttp's router, which costs as much as a refusal."""
        path = request.path
        if request.method == "GET":
            if path == "/v1/link":
                return await self._link(request)
            if named := _PATH.fullmatch(path):
                span, digest = named.groups()
                return await (
                    self._ticket(digest, request) if span == "background" else self._blob(span, digest, request)
                )
        return await self._nothing(request)

    async def _nothing(self, request: web.BaseRequest) -> web.Response:
        """Nobody keeps a connection by asking for what is not there."""
        if self._trust is not None and not _is_tls(request.transport):
            return _ending(_refusal(401, "this port is for hosts of the cluster"))
        return _ending(_refusal(404, "there is nothing here"))

    async def _link(self, request: web.BaseRequest) -> web.StreamResponse:
        refusal = self._refuse_stranger(request, "links are made over TLS, with a certificate of the cluster")
        return await self._accept_link(request) if refusal is None else refusal

    def _refuse_stranger(self, request: web.BaseRequest, why: str) -> web.Response | None:
        """Where there are certificates, refuse whoever has none; `why`: what is only over TLS."""
        if self._trust is not None:
            if not _is_tls(request.transport):
                return _ending(_refusal(403, why))
            try:
                self._trust.check(_tls_of(request.transport))
            except TrustError as error:
                return _ending(_refusal(403, str(error)))
        return None

    async def _ticket(self, named: str, request: web.BaseRequest) -> web.Response:
        """Only over TLS, where there are certificates: a ticket is a secret."""
        refusal = self._refuse_stranger(request, "tickets are given over TLS, to hosts of the cluster")
        if refusal is not None:
            return refusal
        try:
            digest = Digest(named)
        except InvalidNameError as error:
            return _refusal(400, str(error))
        if self.ticket is None:
            return _refusal(501, "there is no background transport here")
        ticket = await self.ticket(digest)
        if ticket is None:
            return _refusal(404, f"{digest} is not shared here")
        # The process that has made it may be the one that was begun anew because this host was revoked.
        refusal = self._refuse_stranger(request, "tickets are given to hosts of the cluster")
        if refusal is not None:
            return refusal
        return web.Response(body=ticket, content_type="application/octet-stream")

    def _receiver(self, host: str, digest: Digest, start: int, *, background: bool) -> UploadRequest:
        """For whom the piece of a blob at byte `start` is."""
        return UploadRequest(host, digest.raw, self._is_far(host), background, self._is_checked(digest, start))

    async def _blob(self, span: str | None, named: str, request: web.BaseRequest) -> web.StreamResponse:
        try:
            asking = self._asking(span, request)
        except UnauthenticatedError as error:
            return _ending(_refusal(401, str(error), {"WWW-Authenticate": SCHEME}))
        except TrustError as error:
            return _ending(_refusal(403, str(error)))  # the host may have a newer certificate, for a new connection
        try:
            digest = Digest(named)
        except InvalidNameError as error:
            return _refusal(400, str(error))
        if (span is None) != (asking.answer_key is None):
            return _refusal(403, "pieces are encrypted here: by TLS, or under a key of the link")
        asked = _RANGE.fullmatch(request.headers.get("Range", "")) if span is None else _SPAN.fullmatch(span)
        if asked is None or int(asked[2]) < int(asked[1]):
            return _refusal(400, "one range is wanted, as in `Range: bytes=0-4194303`")
        start, stop = int(asked[1]), int(asked[2]) + 1
        if stop - start > MAX_PIECE_BYTES:
            return _refusal(400, f"at most {MAX_PIECE_BYTES} bytes are sent at a time: a piece")
        host = asking.host
        receiver = self._receiver(host, digest, start, background=BACKGROUND in request.query) if host else None
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the other host went away")
        upload = Upload(receiver, transport, stop - start)
        async with self._uploading.turn(upload) as may_send:
            if not may_send:
                self.busy_answers += 1
                return _refusal(429, "busy: other pieces fill the line", {"Retry-After": "0"})
            try:
                blob = await self._servable(digest, start, stop)
                if blob is None:
                    return _refusal(404, f"bytes {start} to {stop} of {digest} are not held here")
                try:
                    return await self._send(request, upload, blob, start, asking.answer_key)
                finally:
                    blob.release()
            except FileLimitError as error:
                return _refusal(429, str(error), {"Retry-After": "0"})
            except StoreError as error:
                return _refusal(404, str(error))

    def _asking(self, span: str | None, request: web.BaseRequest) -> _Asking:
        """The host that asks: by its certificate, or by the key that it was told; without certificates by its word.

        Raises UnauthenticatedError, CertificateError.
        """
        if self._trust is None:
            return _Asking(request.headers.get(HOST_HEADER))
        if _is_tls(request.transport) or self._keys is None:
            return _Asking(self._trust.check(_tls_of(request.transport)))
        wanted = PieceRequest(request.method, request.raw_path, request.headers.get("Range", ""))
        asking = self._keys.authenticate(wanted, request.headers.get("Authorization", ""))
        try:
            self._trust.check(asking.certificate, asking.host)
        except TrustError as error:  # over TLS it may show a newer one
            raise UnauthenticatedError(str(error)) from None
        in_the_clear = self._keys.plain and span is None
        return _Asking(asking.host, None if in_the_clear else asking.answer_key)

    async def _send(
        self, request: web.BaseRequest, upload: Upload, blob: Blob, start: int, key: AnswerKey | None
    ) -> web.StreamResponse:
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
        transport = upload.transport
        message: PieceMessage | None = None
        if key is not None:
            message = self._message(blob, (start, stop), key)
            _encode(response, message.encoded_bytes)
        try:
            await response.prepare(request)
            await self._send_span(response, upload, blob, start, message)
            if self.on_sent is not None:
                self.on_sent(request.headers, upload.receiver and upload.receiver.host, blob.digest, upload.size_bytes)
        except (ConnectionError, StoreError) as error:  # aiohttp would log it as our fault; it sees that it has ended
            if isinstance(error, StoreError):
                log.warning("a piece for another host could not be read", digest=blob.digest, error=str(error))
            transport.abort()
        return response

    def _message(self, blob: Blob, span: tuple[int, int], key: AnswerKey) -> PieceMessage:
        from peer.net.piece_sender import PartMemory, PieceMessage  # with `cryptography`, only for trust: 10 MiB

        if self._memory is None:
            self._memory = PartMemory()
        return PieceMessage(self._memory, blob, span, key)

    async def _send_span(
        self, response: web.StreamResponse, upload: Upload, blob: Blob, start: int, message: PieceMessage | None
    ) -> None:
        """The bytes of `blob` from `start` on. Raises ConnectionError if the other host goes away, or takes long."""
        transport, stop = upload.transport, start + upload.size_bytes
        loop = asyncio.get_running_loop()
        over_tls = encrypts_here(transport)
        try:
            async with asyncio.timeout(self._stall_s) as patience:
                while start < stop:
                    if transport.is_closing():
                        raise ConnectionResetError("the other host went away")
                    bucket = self._bucket
                    count = stop - start if bucket is None else min(stop - start, PACED_BYTES)
                    if bucket is not None:
                        patience.reschedule(None)
                        await asyncio.sleep(bucket.take(count, loop.time()))
                        patience.reschedule(loop.time() + self._stall_s)
                    if message is not None:
                        sending = message.send(response, count)
                    elif over_tls:
                        sending = send_encrypted(response, blob, start, count)
                    else:
                        sending = send_file(transport, blob, start, count)
                    await sending
                    start += count
                    self.sent_bytes += count
                    if upload.receiver is not None:
                        self.to_neighbours.add(upload.receiver.host, count)
                await self._uploading.drained(upload)
        except TimeoutError:
            transport.abort()
            raise ConnectionResetError(f"the other host took longer than {self._stall_s:g} s") from None
        except BrokenPipeError as error:
            raise ConnectionResetError("the other host went away") from error


def _tls_of(transport: asyncio.BaseTransport | None) -> TlsConnection | None:
    return None if transport is None else transport.get_extra_info("ssl_object")


def _is_tls(transport: asyncio.BaseTransport | None) -> bool:
    return _tls_of(transport) is not None


def _encode(response: web.StreamResponse, encoded_bytes: int) -> None:
    """Make it the whole of an encrypted piece, which its URL names, in place of a range of the blob."""
    response.set_status(200)
    response.headers["Content-Encoding"] = "aes128gcm"
    response.headers["Content-Length"] = str(encoded_bytes)
    response.headers["Content-Type"] = "application/octet-stream"
    del response.headers["Content-Range"]


def _ending(response: web.Response) -> web.Response:
    """The last response of its connection."""
    response.force_close()
    return response


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = json.dumps({"error": message}).encode()
    return web.Response(status=status, body=body, headers={"Content-Type": JSON, **(headers or {})})
