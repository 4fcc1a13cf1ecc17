"""The mirror's HTTP server: aiohttp's, with the bounds that container runtimes need.

1. Headers have at most 64 KiB. aiohttp's own bound is 8 KiB; the tokens of some registries are longer.
2. A request that is not HTTP, or beyond the bounds, gets an OCI error body and a line in the log without a traceback.
3. If a client takes nothing for `stall_s`, the kernel closes the connection (TCP_USER_TIMEOUT, which also counts while
   the window is closed). A handler ends when its client goes away.
4. On loopback, the Host header of a request must name an address or this machine (`proxy.host_guard`).
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from proxy.core.oci_errors import Code, Refusal, refusal
from proxy.host_guard import guarded

log = structlog.get_logger("proxy.server")

MAX_HEADER_BYTES = 64 * 1024

API_VERSION = {"Docker-Distribution-API-Version": "registry/2.0"}
"""Old clients take a server for a registry by this header (distribution specification, "Legacy Docker support")."""

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
            # The text after the colon quotes the request, which may have a credential in it.
            text = (message or "this is no request").partition(":")[0]
            log.info("refused what is no request", peer=request.remote, reason=text)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        return as_response(refusal(status, Code.UNSUPPORTED, text), close=True)


class Server(web.Server):
    """aiohttp's low-level server: no routes of its own, no access log (p2pd logs pulls).

    `names` are the names of the mirror, in lower case; None accepts every name.
    """

    def __init__(self, handler: Handler, *, stall_s: float, names: frozenset[str] | None = None) -> None:
        super().__init__(
            lambda request: guarded(request, handler, names, _refuse),
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


def _refuse(status: int, reason: str) -> web.Response:
    return as_response(refusal(status, Code.DENIED, reason))


def as_response(refused: Refusal, *, close: bool = False) -> web.Response:
    """The HTTP response of a refusal."""
    response = web.Response(
        status=refused.status,
        body=refused.body,
        headers={**API_VERSION, **refused.headers},
        content_type="application/json",
    )
    for challenge in refused.challenges:
        response.headers.add("WWW-Authenticate", challenge)
    if close:
        response.force_close()
    return response
