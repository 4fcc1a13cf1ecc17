"""The HTTP server under the mirror: aiohttp's, with the bounds and the manners that container runtimes need.

1. Headers up to 64 KiB (registry tokens are large: aiohttp's own 8 KiB answers 400), not more.
2. What is no HTTP, or beyond the bounds, is answered with an OCI error body, and logged without a traceback.
3. A client that takes nothing for `stall_s` is given up by the kernel (TCP_USER_TIMEOUT, which also counts while the
   window is closed), whatever the server is doing then. A handler ends when its client goes away.
4. Where only this machine can connect, a request must come for an address or for a name that is ours: not for that of
   a web page, whose owner has bound it anew to this machine (`proxy.core.host_header`).
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from proxy.core.host_header import NOT_FOR_US, is_for_us
from proxy.core.oci_errors import Code, Refusal, refusal

log = structlog.get_logger("proxy.server")

MAX_HEADER_BYTES = 64 * 1024

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Connection(RequestHandler):
    """One client's connection."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc  # the client went away; aiohttp closes what is left
        if status >= 500:
            log.error("a request failed", path=request.path, exc_info=exc)
            text = "p2pd failed; its log says why"
        else:
            # What follows the colon quotes the request, and so may have a credential in it.
            text = (message or "this is no request").partition(":")[0]
            log.info("refused what is no request", peer=request.remote, reason=text)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        return as_response(refusal(status, Code.UNSUPPORTED, text), close=True)


class Server(web.Server):
    """aiohttp's low-level server: no routes of its own, no access log (p2pd logs pulls).

    `names` are those that the mirror may be called by; None: any.
    """

    def __init__(self, handler: Handler, *, stall_s: float, names: frozenset[str] | None = None) -> None:
        super().__init__(
            handler if names is None else _only_for(names, handler),
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=75.0,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            auto_decompress=False,
        )
        self._stall_ms = int(stall_s * 1000)

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: Any) -> None:
        super().connection_made(handler, transport)
        connection = transport.get_extra_info("socket")
        if self._stall_ms and connection is not None and connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._stall_ms)


def _only_for(names: frozenset[str], handler: Handler) -> Handler:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if is_for_us(request.headers.getall("Host", ()), names):
            return await handler(request)
        log.warning("refused a request for another host", peer=request.remote, path=request.path)
        return as_response(refusal(421, Code.DENIED, NOT_FOR_US))

    return handle


def as_response(refused: Refusal, *, close: bool = False) -> web.Response:
    """A refusal as an answer."""
    response = web.Response(
        status=refused.status,
        body=refused.body,
        headers={"Docker-Distribution-API-Version": "registry/2.0", **refused.headers},
        content_type="application/json",
    )
    if close:
        response.force_close()
    return response
