"""The mirror: what container runtimes talk to, the pull half of the OCI distribution API.

    GET|HEAD /v2/                            the origin's own answer, challenge included
    GET|HEAD /v2/<name>/manifests/<tag>      the origin says what the tag means; the manifest is a blob
    GET|HEAD /v2/<name>/manifests/<digest>   a blob, with its own media type
    GET|HEAD /v2/<name>/blobs/<digest>       a blob, from the store or while it arrives
    GET      /v2/<name>/tags/list, /v2/<name>/referrers/<digest>   passed on to the origin
    anything that pushes                     405 UNSUPPORTED

Every answer is made in one of the methods below; every error becomes an OCI error in `handle`, and nowhere else.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import structlog
from aiohttp import web

from peer.downloads import BlobReader, Downloads, Expected
from peer.errors import ManifestError, OriginCorruptError, OriginUnreachableError, P2pdError
from peer.oci.manifest import KIND_BY_MEDIA_TYPE, Manifest, ManifestKind, parse_manifest
from peer.oci.reference import Digest, is_digest
from peer.origin.api import Answer, ContentRef, Credential, Kind
from peer.tasks import BackgroundTasks
from peer.transfer import Source
from proxy.access import Access, Permit
from proxy.blob_response import Sent, first_bytes, send_blob
from proxy.core.grants import Place
from proxy.core.oci_errors import Code, refusal, refusal_for
from proxy.core.prefetch import Pulls, PullSummary
from proxy.core.routing import Endpoint, Route, RouteError, parse_route
from proxy.origins import Origins, refused
from proxy.server import as_response
from proxy.tags import Tags

log = structlog.get_logger("proxy.mirror")

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
"""containerd reads no larger one (remotes/docker/fetcher.go), and registries take none."""

MAX_KNOWN_MANIFESTS = 1024
CLIENT_GONE = 499
"""What counts as the status when the client goes away before the answer begins, as nginx has it."""

FORWARDED_HEADERS = ("content-type", "link", "oci-filters-applied", "warning", "retry-after", "www-authenticate")
API_VERSION = {"Docker-Distribution-API-Version": "registry/2.0"}


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request and its answer, for the metrics. `cache` is how it was served."""

    upstream: str
    endpoint: str
    status: int
    cache: Literal["hit", "miss", "none"]
    body_bytes: int
    seconds: float
    user_agent: str


@dataclass(slots=True)
class _RequestContext:
    """What is found out about one request while it is answered."""

    request: web.BaseRequest
    route: Route
    authorization: str | None
    cache: Literal["hit", "miss", "none"] = "none"
    expected: Expected | None = None
    sent: Sent = field(default_factory=Sent)

    @property
    def place(self) -> Place:
        return Place(self.route.upstream, self.route.repository)

    @property
    def head(self) -> bool:
        return self.request.method == "HEAD"

    @property
    def user_agent(self) -> str:
        return self.request.headers.get("User-Agent", "")[:200]


class Mirror:
    """Answers requests. `observe` is told of each answer, `depth` is how many layers are fetched ahead of a client."""

    def __init__(
        self,
        origins: Origins,
        downloads: Downloads,
        access: Access,
        tags: Tags,
        background: BackgroundTasks,
        *,
        depth: int,
        observe: Callable[[RequestRecord], None],
    ) -> None:
        self._origins = origins
        self._downloads = downloads
        self._access = access
        self._tags = tags
        self._background = background
        self._observe = observe
        self._pulls = Pulls(depth)
        self._ahead: set[str] = set()
        self._manifests: dict[str, Manifest | None] = {}
        self._expected: dict[str, Expected] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; the server's handler."""
        started = time.monotonic()
        context: _RequestContext | None = None
        status = 500  # a defect of ours, unless it is set below
        try:
            try:
                context = self._parse(request)
                response = await self._answer(context)
            except RouteError as error:
                response = as_response(refusal(error.status, error.code, str(error)))
            except P2pdError as error:
                assert context is not None
                unknown = Code.BLOB_UNKNOWN if context.route.endpoint is Endpoint.BLOB else Code.MANIFEST_UNKNOWN
                response = as_response(refusal_for(error, unknown))
                log.info("refused", path=request.path, status=response.status, error=str(error))
            status = response.status
        except (asyncio.CancelledError, ConnectionError):
            status = (context.sent.status if context else None) or CLIENT_GONE
            raise
        finally:
            self._observe(
                RequestRecord(
                    upstream=context.route.upstream if context else "",
                    endpoint=context.route.endpoint.value if context else "none",
                    status=status,
                    cache=context.cache if context else "none",
                    body_bytes=context.sent.body_bytes if context else 0,
                    seconds=time.monotonic() - started,
                    user_agent=context.user_agent if context else "",
                )
            )
        return response

    def ended_pulls(self, now: float) -> list[PullSummary]:
        """The pulls that have ended by monotonic time `now`, each told once."""
        return self._pulls.ended(now)

    def _parse(self, request: web.BaseRequest) -> _RequestContext:
        route = parse_route(
            request.method,
            request.raw_path.partition("?")[0],
            request.query.get("ns"),
            request.headers.get("OCI-Namespace"),
            self._origins.upstreams.keys(),
            self._origins.default,
        )
        return _RequestContext(request, route, request.headers.get("Authorization"))

    async def _answer(self, context: _RequestContext) -> web.StreamResponse:
        match context.route.endpoint:
            case Endpoint.PING:
                return await self._ping(context)
            case Endpoint.MANIFEST:
                return await self._manifest(context)
            case Endpoint.BLOB:
                return await self._blob(context)
            case Endpoint.TAGS | Endpoint.REFERRERS:
                return await self._forward(context)

    # -- questions -------------------------------------------------------------------------------------------------

    async def _ping(self, context: _RequestContext) -> web.Response:
        """Relay the origin's answer. With the origin gone say yes, so that what is held can be had."""
        try:
            asked = await self._origins.ask(context.route, "GET", "", context.authorization)
        except OriginUnreachableError as error:
            log.info("origin unreachable, the mirror answers for it", upstream=context.route.upstream, error=str(error))
            return web.json_response({}, headers=API_VERSION)
        if asked.answer.status < 400:
            return web.json_response({}, headers=API_VERSION)
        raise refused(asked.answer, "/v2/")

    async def _forward(self, context: _RequestContext) -> web.Response:
        route = context.route
        fields = context.request.rel_url.raw_query_string.split("&")
        query = "&".join(field for field in fields if field.partition("=")[0] != "ns")
        path = f"{route.origin_path}?{query}" if query else route.origin_path
        asked = await self._origins.ask(route, "GET", path, context.authorization)
        if asked.answer.status >= 400:
            raise refused(asked.answer, route.origin_path)
        headers = {name: asked.answer.headers[name] for name in FORWARDED_HEADERS if name in asked.answer.headers}
        if "link" in headers:
            headers["link"] = _link_here(headers["link"], route, named="ns" in context.request.query)
        context.sent.body_bytes = len(asked.answer.body)
        return web.Response(body=asked.answer.body, headers={**self._headers(context), **headers})

    # -- manifests -------------------------------------------------------------------------------------------------

    async def _manifest(self, context: _RequestContext) -> web.StreamResponse:
        route = context.route
        if is_digest(route.reference):
            permit = await self._access.check(route, context.authorization)
        else:
            accept = ", ".join(context.request.headers.getall("Accept", []))
            answer = await self._tags.resolve(route, context.authorization, accept)
            permit = answer.permit
            context.route = replace(route, reference=Digest(answer.resolved.digest))
            context.expected = Expected(answer.resolved.size_bytes, answer.resolved.media_type)
            if context.head:
                resolved = answer.resolved
                return self._head(context, resolved.digest, resolved.size_bytes, resolved.media_type)
        if context.head:
            return await self._head_of(context, permit)
        return await self._send_manifest(context, permit, asked_for=route.reference)

    async def _send_manifest(self, context: _RequestContext, permit: Permit, asked_for: str) -> web.StreamResponse:
        digest = context.route.reference
        async with AsyncExitStack() as stack:
            reader = await self._open(stack, context, permit, Kind.MANIFEST)
            body = reader.blob.read(0, reader.blob.size_bytes)
            media_type = reader.blob.header.media_type
        manifest = self._parsed(digest, body, media_type)
        if manifest is not None:
            children = tuple(child.digest for child in manifest.children)
            self._access.grant_image(context.place, permit, digest, children)
            media_type = manifest.media_type
            if manifest.kind is ManifestKind.IMAGE:
                self._pulls.manifest_served(
                    permit.client,
                    digest,
                    place=context.place,
                    image=_image_name(context.route, asked_for),
                    user_agent=context.user_agent,
                    children=children,
                    now=time.monotonic(),
                )
        context.sent.body_bytes = len(body)
        return web.Response(body=body, headers=self._blob_headers(context, digest, media_type))

    def _parsed(self, digest: str, body: bytes, media_type: str) -> Manifest | None:
        """What the manifest says; None for one that we do not understand, which is served all the same."""
        if digest not in self._manifests:
            if len(self._manifests) >= MAX_KNOWN_MANIFESTS:
                self._manifests.clear()
                self._expected.clear()
            try:
                known_type = media_type if media_type in KIND_BY_MEDIA_TYPE else None
                manifest = self._manifests[digest] = parse_manifest(body, known_type)
                self._expected.update(
                    (child.digest, Expected(child.size_bytes, child.media_type)) for child in manifest.children
                )
            except ManifestError as error:
                log.info("a manifest was passed on that is not understood", digest=digest, error=str(error))
                self._manifests[digest] = None
        return self._manifests[digest]

    # -- blobs -----------------------------------------------------------------------------------------------------

    async def _blob(self, context: _RequestContext) -> web.StreamResponse:
        permit = await self._access.check(context.route, context.authorization)
        if context.head:
            return await self._head_of(context, permit)
        digest, place = context.route.reference, context.place
        for layer in self._pulls.blob_asked(permit.client, place, digest, time.monotonic()):
            self._fetch_ahead(context.route, permit.credential, layer)
        try:
            async with AsyncExitStack() as stack:
                reader = await self._open(stack, context, permit, Kind.BLOB)
                headers = self._blob_headers(context, digest, "application/octet-stream")
                response = await send_blob(context.request, reader, headers, context.sent)
        except P2pdError as error:
            context.sent.error = error
            raise
        finally:
            self._pulls.blob_ended(
                permit.client,
                place,
                digest,
                sent_bytes=context.sent.body_bytes,
                from_store=context.cache == "hit",
                failed=context.sent.error is not None,
                now=time.monotonic(),
            )
        if context.sent.error is not None:
            log.warning("cut a client's blob short", digest=digest, error=str(context.sent.error))
        return response

    async def _open(self, stack: AsyncExitStack, context: _RequestContext, permit: Permit, kind: Kind) -> BlobReader:
        """A reader of the exchange's digest, within the time that a client waits for headers; a manifest as a whole."""
        route = context.route
        ref = ContentRef(route.repository, route.reference, kind)
        source = Source(self._origins.origin(route.upstream), ref, permit.credential, route.upstream)
        expected = context.expected or _expected(permit.answer) or self._expected.get(route.reference)
        within_s = self._origins.answer_within_s
        try:
            async with asyncio.timeout(within_s):
                at = first_bytes(context.request, expected.size_bytes) if expected else (0, None)
                opened = self._downloads.open(route.reference, source, expected=expected, at=at)
                reader = await stack.enter_async_context(opened)
                if kind is Kind.MANIFEST:
                    await _all_of_manifest(reader)
        except TimeoutError:
            raise OriginUnreachableError(
                f"{route.upstream} did not send {route.reference} within {within_s:g} s"
            ) from None
        context.cache = "hit" if reader.from_store else "miss"
        return reader

    def _fetch_ahead(self, route: Route, credential: Credential, digest: str) -> None:
        held = self._downloads.store.peek(digest)
        if digest not in self._ahead and not (held and held.complete):
            self._ahead.add(digest)
            ref = ContentRef(route.repository, digest)
            source = Source(self._origins.origin(route.upstream), ref, credential, route.upstream)
            self._background.start(self._fetch(digest, source))

    async def _fetch(self, digest: str, source: Source) -> None:
        try:
            opened = self._downloads.open(digest, source, expected=self._expected.get(digest), background=True)
            async with opened as reader:
                size_bytes = reader.blob.size_bytes
                await reader.readable(max(0, size_bytes - 1), size_bytes)
        except P2pdError as error:
            log.info("could not fetch a layer ahead", digest=digest, error=str(error))
        finally:
            self._ahead.discard(digest)

    # -- answers ---------------------------------------------------------------------------------------------------

    async def _head_of(self, context: _RequestContext, permit: Permit) -> web.Response:
        """HEAD by digest: from the store, else as the origin answers, else of what other hosts have."""
        route = context.route
        held = self._downloads.store.peek(route.reference)
        if held is not None and held.complete:
            context.cache = "hit"
            return self._head(context, route.reference, held.size_bytes, self._held_type(route, held.media_type))
        answer = permit.answer
        if answer is None:
            try:
                answer = await self._origins.head(route.upstream, route.origin_path, permit.credential)
            except OriginUnreachableError:
                return await self._head_of_swarms(context, permit)
            if answer.status >= 400:
                raise refused(answer, route.origin_path)
        context.cache = "miss"
        return self._head(context, route.reference, _length_of(answer), answer.headers.get("content-type", ""))

    async def _head_of_swarms(self, context: _RequestContext, permit: Permit) -> web.Response:
        """The GET that follows gets what is begun here."""
        route = context.route
        async with AsyncExitStack() as stack:
            kind = Kind.MANIFEST if route.endpoint is Endpoint.MANIFEST else Kind.BLOB
            blob = (await self._open(stack, context, permit, kind)).blob
            if kind is Kind.MANIFEST:
                self._parsed(route.reference, blob.read(0, blob.size_bytes), blob.header.media_type)
            media_type = self._held_type(route, blob.header.media_type)
            return self._head(context, route.reference, blob.size_bytes, media_type)

    def _held_type(self, route: Route, media_type: str) -> str:
        manifest = self._manifests.get(route.reference)
        if route.endpoint is Endpoint.BLOB:
            return "application/octet-stream"
        return manifest.media_type if manifest is not None else media_type

    def _head(self, context: _RequestContext, digest: str, size_bytes: int, media_type: str) -> web.Response:
        headers = self._blob_headers(context, digest, media_type or "application/octet-stream")
        return web.Response(headers={**headers, "Content-Length": str(size_bytes)})

    def _blob_headers(self, context: _RequestContext, digest: str, media_type: str) -> dict[str, str]:
        return {
            **self._headers(context),
            "Content-Type": media_type,
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
        }

    def _headers(self, context: _RequestContext) -> dict[str, str]:
        named = context.request.query.get("ns") or context.request.headers.get("OCI-Namespace")
        return {**API_VERSION, "OCI-Namespace": context.route.upstream} if named else dict(API_VERSION)


async def _all_of_manifest(reader: BlobReader) -> None:
    size_bytes = reader.blob.size_bytes
    if size_bytes > MAX_MANIFEST_BYTES:
        raise OriginCorruptError(f"{reader.blob.digest} has {size_bytes} bytes, too many for a manifest")
    await reader.readable(max(0, size_bytes - 1), size_bytes)


def _image_name(route: Route, asked_for: str) -> str:
    separator = "@" if is_digest(cast("Digest", asked_for)) else ":"
    return f"{route.upstream}/{route.repository}{separator}{asked_for}"


def _expected(answer: Answer | None) -> Expected | None:
    """What the origin's answer to HEAD says of the blob."""
    if answer is None or not answer.headers.get("content-length", "").isdecimal():
        return None
    return Expected(int(answer.headers["content-length"]), answer.headers.get("content-type", ""))


def _length_of(answer: Answer) -> int:
    try:
        return int(answer.headers["content-length"])
    except (KeyError, ValueError):
        raise OriginCorruptError("the origin's answer to HEAD has no length") from None


_LINK = re.compile(r"<(?:https?://[^/>]*)?/v2/(?P<below>[^>]*)>")


def _link_here(link: str, route: Route, *, named: bool) -> str:
    """The next page's address at this mirror, with the upstream named (by prefix or `ns`) as the client named it."""

    def here(found: re.Match[str]) -> str:
        below = found["below"]
        ns = f"{'&' if '?' in below else '?'}ns={route.upstream}" if named else ""
        return f"</v2/{route.prefix}{below}{ns}>"

    return _LINK.sub(here, link, count=1)
