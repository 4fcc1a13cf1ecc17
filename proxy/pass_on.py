"""Passes a request within the HTTPS proxy on to the registry, as if there were no proxy: pushes, logins, lists.

Rules:
1. The method, the path, the body and the headers go on as they come, but for those that are of one connection. So does
   the client's credential. p2pd adds no credential of its own: what is the operator's can only be pulled with.
2. Bodies are streamed both ways, and nothing is kept. Nothing is tried again: the client is asked to decide that.
3. The registry is the upstream's address on this host if it has one, else its first. An answer's `Location` there leads
   back through the proxy.
4. A connection is used once. A registry that closed an idle one would fail a push, which cannot be repeated here.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
import structlog
from aiohttp import web
from multidict import CIMultiDict, MultiMapping
from yarl import URL

from peer.oci.reference import UpstreamName
from peer.origin.client import HttpOrigin
from peer.origin.clock import SystemClock
from peer.origin.proxies import Proxies
from peer.origin.trust import TrustedContext
from peer.origin.upstream import Upstream, UpstreamEndpoint
from proxy.core.connect import ConnectTarget
from proxy.core.oci_errors import Code, refusal
from proxy.origins import Origins
from proxy.server import MAX_HEADER_BYTES, as_response

log = structlog.get_logger("proxy.pass_on")

CONNECT_S: Final = 15.0
ANSWER_S: Final = 900.0
"""How long the registry may be silent: one that keeps layers in an object store moves a layer when it is complete."""

CHUNK_BYTES: Final = 256 * 1024

_OF_ONE_CONNECTION: Final = frozenset(
    {
        "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
        "transfer-encoding", "upgrade", "expect", "host",
    }
)  # fmt: skip
"""RFC 9110, section 7.6.1; `Host` and `Expect` are answered here."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class _Registry:
    upstream: Upstream
    endpoint: UpstreamEndpoint


class PassOn:
    """Passes requests on to the origins' registries. `environ` has the variables of proxies."""

    def __init__(self, origins: Origins, environ: Mapping[str, str] = os.environ) -> None:
        self._origins = origins
        self._proxies = Proxies(environ)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True, use_dns_cache=False),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=ANSWER_S),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            read_bufsize=CHUNK_BYTES,
        )

    async def close(self) -> None:
        await self._session.close()

    async def answer(self, request: web.BaseRequest, name: UpstreamName, target: ConnectTarget) -> web.StreamResponse:
        """The registry's answer. `name` is the upstream that the client has connected to as `target`."""
        if not request.raw_path.startswith("/"):  # behind the registry's name, it would be another host's
            return _refused(400, Code.UNSUPPORTED, "the request names no path")
        registry = self._registry(name, target)
        if registry is None or registry.endpoint.project:
            return _refused(405, Code.UNSUPPORTED, f"p2pd has {name} from elsewhere, where images can only be pulled")
        where = registry.endpoint.target
        proxy = self._proxies.leading_to(where)
        began: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method,
                URL(f"{where}{registry.endpoint.prefix}{request.raw_path}", encoded=True),
                headers=_kept(request.headers),
                data=_body(request),
                allow_redirects=False,
                ssl=TrustedContext(registry.upstream, SystemClock()).get() if where.scheme == "https" else False,
                proxy=f"http://{proxy.host}:{proxy.port}" if proxy else None,
                proxy_headers=proxy.headers if proxy else None,
            ) as answer:
                began = web.StreamResponse(
                    status=answer.status, reason=answer.reason, headers=_answered(answer, registry.endpoint, target)
                )
                await began.prepare(request)
                if request.method != "HEAD":
                    async for chunk in answer.content.iter_any():
                        await began.write(chunk)
                await began.write_eof()
                return began
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if began is not None and began.prepared:
                raise ConnectionResetError("the registry's answer ended early") from None
            if isinstance(error, ConnectionError) and not isinstance(error, aiohttp.ClientError):
                raise  # the client went away
            log.info("the registry was not reached", upstream=name, error=str(error) or type(error).__name__)
            return _refused(502, Code.UNAVAILABLE, f"{name} could not be asked: {str(error) or type(error).__name__}")

    def _registry(self, name: UpstreamName, target: ConnectTarget) -> _Registry | None:
        origin = self._origins.upstream(name).origin
        if not isinstance(origin, HttpOrigin):
            return None
        endpoints = [UpstreamEndpoint.parse(text) for text in origin.upstream.endpoints]
        own = (each for each in endpoints if (each.target.host, each.target.port) == (target.host, target.port))
        return _Registry(origin.upstream, next(own, endpoints[0]))


def _kept(headers: MultiMapping[str]) -> CIMultiDict[str]:
    """The headers that go on."""
    named = {name.strip().lower() for line in headers.getall("Connection", ()) for name in line.split(",")}
    gone = _OF_ONE_CONNECTION | named
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in gone)


def _body(request: web.BaseRequest) -> AsyncIterator[bytes] | None:
    return _chunks(request) if request.body_exists else None


async def _chunks(request: web.BaseRequest) -> AsyncIterator[bytes]:
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(_CONTINUE)
    async for chunk in request.content.iter_any():
        yield chunk


def _answered(answer: aiohttp.ClientResponse, endpoint: UpstreamEndpoint, target: ConnectTarget) -> CIMultiDict[str]:
    headers = _kept(answer.headers)
    location = headers.get("Location", "")
    if location.startswith("/"):
        headers["Location"] = location.removeprefix(endpoint.prefix)
    elif location and _led(location) == (endpoint.target.host, endpoint.target.port):
        path = URL(location, encoded=True).raw_path_qs
        headers["Location"] = f"https://{target.authority}{path.removeprefix(endpoint.prefix)}"
    return headers


def _led(location: str) -> tuple[str, int] | None:
    """The host and port of an absolute URL; None if it is none."""
    try:
        url = URL(location, encoded=True)
    except ValueError:
        return None
    return (url.raw_host or "", url.port or 0)


def _refused(status: int, code: Code, message: str) -> web.Response:
    return as_response(refusal(status, code, message))
