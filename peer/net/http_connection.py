"""A client's connection to an HTTP port of a node: aiohttp's, with the bounds that all ports share.

1. A connection has `FIRST_REQUEST_S` for its first request and `IDLE_S` for each further one, headers included,
   however slowly they come. After that it is closed without a word, as by nginx.
2. A request that is not HTTP, or has too much of it, gets 400 and at most a debug line, without the request's
   text: that may have a credential in it.
3. The same holds for what aiohttp's parser lets through: a request without a target, for which aiohttp would fail, and
   one of another version than HTTP/1, in which it would answer.
4. A handler's defect gets 500 and one line in the log with a traceback.
5. The body of a request is read as it came. Unpacking one (Content-Encoding) costs a thousand times what it costs to
   send, and aiohttp unpacks also what nobody reads. No client packs what it sends.
6. If the other side takes nothing for `stall_s`, the kernel closes the connection (TCP_USER_TIMEOUT, which also counts
   while the window is closed).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

import structlog
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler
from yarl import URL

log = structlog.get_logger("peer.net.http_connection")

FIRST_REQUEST_S: Final = 10.0
"""A client that connects has a request to send. Go's HTTP client, which may open a connection too many, copes."""

IDLE_S: Final = 75.0
"""As nginx's keepalive_timeout."""

_OPTIONS: Final[Mapping[str, Any]] = {"access_log": None, "keepalive_timeout": IDLE_S, "auto_decompress": False}

Refuse = Callable[[int, str], web.Response]
"""The response of a status and a reason, in the form of the port."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class HttpConnection(RequestHandler):
    """One connection. `refuse` makes the responses to what is no request; `options` are aiohttp's."""

    __slots__ = ("_first_request", "_refuse", "_stall_ms")

    def __init__(
        self,
        server: web.Server,
        refuse: Refuse,
        *,
        stall_s: float,
        first_request_s: float = FIRST_REQUEST_S,
        **options: Any,
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, **{**_OPTIONS, **options})
        self._refuse = refuse
        assert self._request_handler is not None
        assert self._request_factory is not None
        self._request_handler = partial(self._answer, self._request_handler)
        self._request_factory = partial(_request_of, self._request_factory)
        self._stall_ms = int(stall_s * 1000)
        self._first_request = loop.call_later(first_request_s, self._too_late)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if self._stall_ms and connection is not None and connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._stall_ms)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._first_request.cancel()
        super().connection_lost(exc)

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
            reason = "p2pd failed; its log says why"
        else:
            # The text after the colon quotes the request.
            reason = (message or "this is no request").partition(":")[0].partition("\n")[0]
            log.debug("refused what is no request", peer=request.remote, reason=reason)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        return self._refusal(status, reason)

    def _answer(self, handler: Handler, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        return handler(request) if request.raw_path else self._refuse_malformed()

    async def _refuse_malformed(self) -> web.StreamResponse:
        return self._refusal(400, "this is no request")

    def _refusal(self, status: int, reason: str) -> web.Response:
        response = self._refuse(status, reason)
        response.force_close()
        return response

    def finish(self) -> None:
        """Close the connection once the request that is being answered, if there is one, has its answer."""
        self.close()
        if not self._request_in_progress:  # aiohttp's `close` forgets such a connection, and leaves it open
            self.force_close()

    def _too_late(self) -> None:
        """Close the connection, unless its first request has come."""
        if not self._request_count:
            self.force_close()


def _request_of(make: Callable[..., web.BaseRequest], message: RawRequestMessage, *more: Any) -> web.BaseRequest:
    """The request of a message; one with no path if it is no request of HTTP/1."""
    if not message.path or message.version not in (HttpVersion10, HttpVersion11):
        message = message._replace(path="", url=URL("/"), version=HttpVersion10)
    return make(message, *more)
