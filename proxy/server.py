"""The mirror's HTTP server: aiohttp's, with the bounds that container runtimes need.

1. Headers have at most 64 KiB. aiohttp's own bound is 8 KiB; the tokens of some registries are longer.
2. The connections have the bounds of `peer.net.http_connection`, and a request that is none gets an OCI error body.
3. A handler ends when its client goes away.
4. On loopback, the Host header of a request must name an address or this machine (`proxy.host_guard`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web

from peer.net.http_connection import HttpConnection
from proxy.core.oci_errors import Code, Refusal, refusal
from proxy.host_guard import guarded

MAX_HEADER_BYTES = 64 * 1024

API_VERSION = {"Docker-Distribution-API-Version": "registry/2.0"}
"""Old clients take a server for a registry by this header (distribution specification, "Legacy Docker support")."""

C = TypeVar("C", bound=HttpConnection)
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Server(web.Server):
    """aiohttp's low-level server: no routes of its own, no access log (p2pd logs pulls).

    `names` are the names of the mirror, in lower case; None accepts every name.
    """

    def __init__(self, handler: Handler, *, stall_s: float, names: frozenset[str] | None = None) -> None:
        super().__init__(
            lambda request: guarded(request, handler, names, _refuse),
            handler_cancellation=True,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            auto_decompress=False,
        )
        self._stall_s = stall_s

    def __call__(self) -> HttpConnection:
        return self.connection(HttpConnection)

    def connection(self, kind: type[C]) -> C:
        """A new connection of that kind."""
        return kind(self, _refuse_malformed, stall_s=self._stall_s, **self._kwargs)


def _refuse(status: int, reason: str) -> web.Response:
    return as_response(refusal(status, Code.DENIED, reason))


def _refuse_malformed(status: int, reason: str) -> web.Response:
    return as_response(refusal(status, Code.UNSUPPORTED, reason))


def as_response(refused: Refusal) -> web.Response:
    """The HTTP response of a refusal."""
    response = web.Response(
        status=refused.status,
        body=refused.body,
        headers={**API_VERSION, **refused.headers},
        content_type="application/json",
    )
    for challenge in refused.challenges:
        response.headers.add("WWW-Authenticate", challenge)
    return response
