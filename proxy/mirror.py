"""The mirror: container runtimes talk to it; it answers the pull half of the OCI distribution API.

    GET|HEAD /v2/                            the origin's own answer, challenge included
    GET|HEAD /v2/<name>/manifests/<tag>      the origin says what the tag means; the manifest is a blob
    GET|HEAD /v2/<name>/manifests/<digest>   a blob, with its own media type
    GET|HEAD /v2/<name>/blobs/<digest>       a blob, from the store or while it arrives
    GET      /v2/<name>/tags/list, /v2/<name>/referrers/<digest>   passed on to the origin
    anything that pushes                     405 UNSUPPORTED

A client of the HTTPS proxy means the registry itself (`Straight`): what the mirror does not answer, the registry does.

Manifests are answered in `proxy.manifests`, blobs in `proxy.blobs`, the rest here. Every error becomes an OCI error in
`Mirror.handle` and nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, NamedTuple

import structlog
from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from peer.errors import DrainingError, OriginError, OriginTooLargeError, OriginUnusableError, P2pdError
from peer.oci.digest import AnyDigest
from peer.oci.reference import UpstreamName
from peer.readers import Readers
from peer.tasks import BackgroundTasks
from proxy.access import Access
from proxy.blobs import Blobs
from proxy.core.lists import is_list, lists, next_page, one_page, origin_query
from proxy.core.oci_errors import Code, refusal, refusal_for, refusal_of_list
from proxy.core.pulls import IDLE_S, PullSummary
from proxy.core.reasons import Refused, Relayed, reason_of
from proxy.core.routing import Endpoint, Route, RouteError, parse_route, unknown_upstream
from proxy.known_manifests import KnownManifests
from proxy.manifests import Manifests
from proxy.origins import OriginAnswer, Origins, unusable
from proxy.prefetch import Prefetch
from proxy.request import RequestContext
from proxy.server import API_VERSION, as_response
from proxy.tags import Tags

log = structlog.get_logger("proxy.mirror")

CLIENT_GONE = 499
"""The status in the metrics if the client goes away before the answer begins. nginx has the same."""

FORWARDED_HEADERS = ("content-type", "oci-filters-applied", "warning")


class RequestRecord(NamedTuple):
    """One request and its answer, for the metrics. `cache` is how it was served.

    `first_byte_s` is from the request until the first byte of a body was there, None without a body. For `waited_s`
    and `taken_s` see `Sent`.
    """

    upstream: str
    endpoint: str
    status: int
    cache: Literal["hit", "miss", "none"]
    body_bytes: int
    seconds: float
    user_agent: str
    first_byte_s: float | None = None
    waited_s: float = 0.0
    taken_s: float = 0.0
    refused: Refused | None = None
    relayed: Relayed | None = None


class Straight(Struct, frozen=True):
    """A client that has connected to `upstream` itself, through the HTTPS proxy.

    `pass_on` gives it the registry's own answer. That is the answer to all that the mirror does not have or refuses, to
    everything but a pull, and to HEAD of a blob: a push asks so what it may leave out.
    """

    upstream: UpstreamName
    pass_on: Callable[[], Awaitable[web.StreamResponse]]

    def means_pull(self, context: RequestContext) -> bool:
        endpoint = context.route.endpoint
        return endpoint in (Endpoint.PING, Endpoint.MANIFEST) or (endpoint is Endpoint.BLOB and not context.head)


class Mirror:
    """Answers requests. `observe` gets a record of each; `depth` is how many layers are fetched ahead of a client.

    `own` are the addresses of this machine at which another upstream than the first is the default one.
    """

    def __init__(
        self,
        origins: Origins,
        readers: Readers,
        access: Access,
        tags: Tags,
        background: BackgroundTasks,
        *,
        depth: int,
        observe: Callable[[RequestRecord], None],
    ) -> None:
        self._origins = origins
        self._tags = tags
        self._observe = observe
        manifests = KnownManifests()
        self._prefetch = Prefetch(origins, readers, manifests, background, depth=depth)
        self._blobs = Blobs(origins, readers, access, manifests, self._prefetch)
        self._manifests = Manifests(access, tags, self._blobs, manifests, self._prefetch)
        self._known = manifests
        self.own: Mapping[str, UpstreamName] = {}
        self._answering = 0
        self._draining_since: float | None = None

    async def handle(self, request: web.BaseRequest, straight: Straight | None = None) -> web.StreamResponse:
        """Answer one request; the server's handler. `straight`: its client has connected to an upstream itself."""
        started = time.monotonic()
        self._answering += 1
        context: RequestContext | None = None
        status = 500  # a defect of ours, unless the status is set below
        failure: P2pdError | None = None
        try:
            try:
                context = self._parse(request, straight)
                if straight is None or straight.means_pull(context):
                    response = await self._answer(context)
                else:
                    response = await straight.pass_on()
            except P2pdError as error:
                if straight is None:
                    failure = error
                    response = _refused(request, context, error)
                else:
                    response = await straight.pass_on()
            status = response.status
            if straight is not None and request.method not in ("GET", "HEAD") and status < 300:
                self._tags.forget_all_of({straight.upstream})  # a push may have moved one
        except (asyncio.CancelledError, ConnectionError):
            status = (context.sent.status if context else None) or CLIENT_GONE
            raise
        finally:
            self._answering -= 1
            self._observe(_record(context, status, started, failure))
        return response

    def drain(self) -> None:
        """Refuse new pulls from now on, so that clients go to the registry. Pulls under way are served to their end.

        A client that has the manifest from here may take the blobs from nowhere else (podman).
        """
        self._draining_since = time.monotonic()
        self._prefetch.drain()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being answered, and no pull is under way."""
        return not self._answering and not self._prefetch.under_way

    def _refuse_what_is_new(self, route: Route, since: float) -> None:
        """Raises DrainingError, unless the route names a blob of a pull under way, or a manifest of an index that was
        served a moment before."""
        digest = route.reference if isinstance(route.reference, AnyDigest) else None
        if digest is not None:
            is_child = self._known.descriptor(route.repository, digest) is not None
            if is_child and time.monotonic() - since < IDLE_S:
                return
            if self._prefetch.is_under_way(route.repository, digest):
                return
        raise DrainingError("this node is about to stop and serves no new pull: ask the registry")

    def ended_pulls(self, now: float) -> list[PullSummary]:
        """The pulls that have ended by monotonic time `now`. Each is returned once."""
        return self._prefetch.ended(now)

    def _parse(self, request: web.BaseRequest, straight: Straight | None) -> RequestContext:
        named = request.query.get("ns") if straight is None else straight.upstream
        route = parse_route(
            request.method,
            request.raw_path.partition("?")[0],
            named,
            request.headers.get("OCI-Namespace"),
            self._origins.names,
            self._default_of(request),
            any_host=self._origins.others is not None,
        )
        if straight is not None and self._origins.upstream(route.upstream).has_credentials:
            # The registry has challenged the client, which has a token for itself or nobody; the operator's opens more.
            route = replace(route, renamed=True)
        return RequestContext(request, route, request.headers.get("Authorization"), is_straight=straight is not None)

    def _default_of(self, request: web.BaseRequest) -> UpstreamName:
        """The upstream of a client that names none: by the address that it has connected to. Raises RouteError at the
        address of an upstream that is gone: another's challenge would lead a password for the first to the other."""
        at = request.transport.get_extra_info("sockname") if self.own and request.transport else None
        own = self.own.get(at[0]) if at else None
        if own is None:
            return self._origins.default
        if own not in self._origins.upstreams and self._origins.others is None:
            raise unknown_upstream(own)
        return own

    async def _answer(self, context: RequestContext) -> web.StreamResponse:
        if self._draining_since is not None and context.route.endpoint in (Endpoint.MANIFEST, Endpoint.BLOB):
            self._refuse_what_is_new(context.route, self._draining_since)
        match context.route.endpoint:
            case Endpoint.PING:
                return await self._ping(context)
            case Endpoint.MANIFEST:
                return await self._manifests.answer(context)
            case Endpoint.BLOB:
                return await self._blobs.answer(context)
            case Endpoint.TAGS | Endpoint.REFERRERS:
                return await self._forward(context)

    async def _ping(self, context: RequestContext) -> web.Response:
        """Relay the origin's challenge, also where the operator has credentials if the client means the registry: it
        may want to log in. Else answer 200: whether a client may have something is asked when it asks for that, and the
        store may have what the client wants while the origin is gone."""
        try:
            asked = await self._origins.ask(
                context.route, "GET", "", context.authorization, may_use_own=not context.is_straight
            )
            answer = asked.answer
        except OriginError as error:
            log.debug("the mirror answers for its origin", upstream=context.route.upstream, error=str(error))
            return web.json_response({}, headers=API_VERSION)
        if answer.status == 401 and not answer.redirected:
            raise unusable(answer, "/v2/")
        return web.json_response({}, headers=API_VERSION)

    async def _forward(self, context: RequestContext) -> web.Response:
        """Pass on a list of the origin. An origin that fails has no empty list."""
        route, named = context.route, "ns" in context.request.query
        answer = (await self._list(route, origin_query(context.request.rel_url.raw_query_string), context)).answer
        if answer.status != 200:
            raise unusable(answer, route.origin_path)
        if not is_list(route.endpoint, answer.body):
            raise OriginUnusableError(f"the origin answered 200 for {route.origin_path}, and that is no such list")
        headers = {name: answer.headers[name] for name in FORWARDED_HEADERS if name in answer.headers}
        link = next_page(answer.headers.get("link", ""), route, named=named)
        if link is not None:
            headers["link"] = link
        context.sent.body_bytes = len(answer.body)
        return web.Response(body=answer.body, headers={**context.headers(), **headers})

    async def _list(self, route: Route, query: str, context: RequestContext) -> OriginAnswer:
        """The origin's answer; of a list of tags that is too long, its first page."""
        path, authorization = route.origin_path, context.authorization
        try:
            return await self._origins.ask(route, "GET", f"{path}?{query}" if query else path, authorization)
        except OriginTooLargeError:
            page = one_page(query) if route.endpoint is Endpoint.TAGS else None
            if page is None:
                raise
            return await self._origins.ask(route, "GET", f"{path}?{page}", authorization)


def _refused(request: web.BaseRequest, context: RequestContext | None, error: P2pdError) -> web.Response:
    if isinstance(error, RouteError):
        allow = {"Allow": "GET, HEAD"} if error.status == 405 else None
        return as_response(refusal(error.status, error.code, str(error), allow))
    assert context is not None
    route = context.route
    unknown = Code.BLOB_UNKNOWN if route.endpoint is Endpoint.BLOB else Code.MANIFEST_UNKNOWN
    response = as_response((refusal_of_list if lists(route) else refusal_for)(error, unknown))
    log.info("refused", path=request.path, status=response.status, error=str(error))
    return response


def _record(context: RequestContext | None, status: int, started: float, failure: P2pdError | None) -> RequestRecord:
    """The record of a request that has ended now. `context` is None if it has no route."""
    seconds = time.monotonic() - started
    if context is None:
        refused = None if failure is None else reason_of(failure)
        return RequestRecord("", "none", status, "none", 0, seconds, "", refused=refused)
    sent = context.sent
    failure = failure or sent.error
    first_byte_s = seconds if sent.first_at is None else sent.first_at - started
    return RequestRecord(
        upstream=context.route.upstream,
        endpoint=context.route.endpoint.value,
        status=status,
        cache=context.cache,
        body_bytes=sent.body_bytes,
        seconds=seconds,
        user_agent=context.user_agent,
        first_byte_s=first_byte_s if sent.body_bytes else None,
        waited_s=sent.waited_s,
        taken_s=sent.taken_s,
        refused=None if failure is None else reason_of(failure),
        relayed=context.relayed,
    )
