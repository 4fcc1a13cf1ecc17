"""The mirror's way to the origins: small requests, made in threads, within the time that clients wait for headers.

`ask` is for answers that the client gets, or that a tag means. `look` is the question whether a credential may have a
digest. `proxy.core.origin_answers` has the words that both understand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, TypeVar
from weakref import WeakSet

import structlog
from msgspec import Struct

from peer import tracing
from peer.errors import (
    InvalidNameError,
    ManifestError,
    OriginCorruptError,
    OriginError,
    OriginRefusedError,
    OriginTimeoutError,
    OriginUnusableError,
)
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest, Digest
from peer.oci.manifest import ANY_MANIFEST, essence, manifest_type
from peer.oci.reference import Repository, UpstreamName
from peer.origin.api import Answer, ContentRef, Credential, Kind, Origin
from peer.origin.client import HttpOrigin
from peer.origin.headers import content_range
from peer.origin_range import OriginSource
from peer.store.blob import EMPTY_DIGEST
from proxy.core.origin_answers import Word, get_decides, shows_blob, shows_manifest, word_of
from proxy.core.routing import Endpoint, Route
from proxy.upstreams import OTHERS, OtherUpstreams, UpstreamOrigin

T = TypeVar("T")

log = structlog.get_logger("proxy.origins")

ANSWER_WITHIN_S = 10.0
"""containerd waits 30 s for headers since 2.3, dockerd for ever. After an answer in time they go on to the registry."""

HEADERS_FACTOR = 2.5
"""Times ANSWER_WITHIN_S: a blob's headers are sent before its first byte has come, in time for containerd."""

OWN = Credential(own=True)
"""p2pd's own: the operator's credentials for the upstream, or anonymous if the operator gave none."""


class OriginAnswer(Struct, frozen=True):
    """An origin's answer, with the credential that it was given to."""

    answer: Answer
    credential: Credential


class Origins:
    """The configured `upstreams` by name, of which the first is the default one, and others that clients name.

    `answer_within_s` is how long clients wait for headers. With `make_other`, every host is an upstream. `replace`
    changes all that while requests are under way: each goes on with the origin that it has, or with the new one.
    """

    def __init__(
        self,
        upstreams: Mapping[UpstreamName, UpstreamOrigin],
        *,
        answer_within_s: float = ANSWER_WITHIN_S,
        make_other: Callable[[UpstreamName], HttpOrigin] | None = None,
    ) -> None:
        self.upstreams = upstreams
        self.names = frozenset(upstreams)
        self._make_other = make_other
        self._others = OtherUpstreams(make_other) if make_other else None
        self._removed: dict[UpstreamName, UpstreamOrigin] = {}
        """Those that are no longer configured, for requests that are under way."""
        self._retired: WeakSet[Origin] = WeakSet()
        self._silent: set[UpstreamName] = set()
        self.answer_within_s = answer_within_s
        self.headers_within_s = HEADERS_FACTOR * answer_within_s

    @property
    def default(self) -> UpstreamName:
        """The first."""
        return next(iter(self.upstreams))

    @property
    def others(self) -> OtherUpstreams | None:
        """The upstreams that only clients name, if there may be such."""
        return self._others if self._make_other else None

    def upstream(self, name: UpstreamName) -> UpstreamOrigin:
        """The upstream of that name, which a route has: it is configured, or was, or is made now."""
        found = self.upstreams.get(name) or (None if self.others else self._removed.get(name))
        if found is None:
            assert self._others is not None, name
            found = self._others.get(name)
        return found

    def replace(
        self,
        upstreams: Mapping[UpstreamName, UpstreamOrigin],
        make_other: Callable[[UpstreamName], HttpOrigin] | None = None,
    ) -> None:
        """From now on these are the upstreams. One that is there already stays as it is; the others are retired.

        What is under way goes on: a request to an upstream that is gone, and a download that another origin has begun.
        """
        before, self.upstreams = self.upstreams, upstreams
        self.names = frozenset(upstreams)
        for name, upstream in before.items():
            if upstreams.get(name) is not upstream:
                self._removed[name] = upstream.retire()
                self._retired.add(upstream.origin)
        for name, upstream in upstreams.items():
            self._removed.pop(name, None)
            if isinstance(upstream.origin, HttpOrigin):
                upstream.origin.take_over()
        if make_other != self._make_other:
            self._make_other = make_other
            if make_other is not None and self._others is None:
                self._others = OtherUpstreams(make_other)
            elif make_other is not None and self._others is not None:
                self._others.remake(make_other)

    def is_believed(self, name: UpstreamName) -> bool:
        """Whether the operator has configured the upstream. Another may be a server of the client that named it."""
        return name in self.upstreams

    def label(self, name: str) -> str:
        """The upstream's name for metrics, of which there are few: all that only clients name have one."""
        return name if not name or name in self.upstreams else OTHERS

    def source(
        self,
        repository: Repository,
        digest: AnyDigest,
        credential: Credential,
        kind: Kind = Kind.BLOB,
        *,
        private: bool = False,
    ) -> OriginSource:
        """The source of a download of `digest`: the repository's origin, with `credential` only. What is `private` is
        not for other hosts."""
        origin = self.upstream(repository.upstream).origin
        return OriginSource(origin, ContentRef(repository.name, digest, kind), credential, repository.upstream, private)

    async def ask(
        self,
        route: Route,
        method: Literal["GET", "HEAD"],
        path: str,
        authorization: str | None,
        accept: str | None = None,
        *,
        may_use_own: bool = True,
    ) -> OriginAnswer:
        """Ask the route's origin for `path` below `/v2/`. `accept` is the Accept header. `""` sends none, and None
        accepts any manifest.

        The credential is the client's own if the client sent one, else the operator's if p2pd `may_use_own`, else none.
        A client that has another name for the repository than the origin may have a token for that name, which the
        origin refuses. p2pd then asks again with its own credential.

        Raises OriginUnreachableError, OriginUnusableError.
        """
        upstream = route.repository.upstream
        credential = self.credential(upstream, authorization) if may_use_own else Credential(authorization)
        answer = await self._request(upstream, method, path, credential, accept)
        word = word_of(answer.status, redirected=answer.redirected)
        if word is Word.REFUSES and may_use_own and self.is_renamed(route, authorization):
            second = await self._request(upstream, method, path, OWN, accept)
            if word_of(second.status, redirected=second.redirected) in (Word.GIVES, Word.SAYS_NOTHING):
                return OriginAnswer(second, OWN)
        return OriginAnswer(answer, credential)

    def credential(self, upstream: UpstreamName, authorization: str | None) -> Credential:
        """The credential for a client with `authorization`: its own, else the operator's, else none."""
        if authorization is not None:
            return Credential(authorization)
        return Credential(own=self.upstream(upstream).has_credentials)

    def is_renamed(self, route: Route, authorization: str | None) -> bool:
        """Whether the client has a token for another name of the repository than the origin's: with a prefix, without
        `library/`, or without the origin's project."""
        return authorization is not None and (route.renamed or self.upstream(route.upstream).renames)

    async def look(self, route: Route, credential: Credential, known_bytes: int | None = None) -> Descriptor:
        """The descriptor of the digest that `route` names, if the origin gives that to `credential`: by HEAD, or by GET
        where HEAD decides nothing.

        `known_bytes` is the content's length, if it is held whole. Raises OriginError; `word_of_error` says what that
        means.
        """
        digest, of_manifest = route.digest, route.endpoint is Endpoint.MANIFEST
        try:
            answer = await self._request(route.upstream, "HEAD", route.origin_path, credential, None)
        except OriginUnusableError:
            pass  # the headers alone cannot be used
        else:
            found = described(answer, digest) if answer.status == 200 else None
            named = "docker-content-digest" in answer.headers
            if found is not None and (
                (named and shows_manifest(found)) if of_manifest else shows_blob(found, known_bytes, named=named)
            ):
                return found
            if not get_decides(answer.status, redirected=answer.redirected):
                raise unusable(answer, route.origin_path)
        if of_manifest:
            answer = await self._request(route.upstream, "GET", route.origin_path, credential, None)
            return manifest_in(answer, route.origin_path, digest)
        return await self._blob_by_get(route, credential, known_bytes)

    def note(self, upstream: UpstreamName, silence: OriginError | None) -> None:
        """Log that `upstream` begins to say nothing of access, or answers again (None). Each is logged once."""
        if silence is not None and upstream not in self._silent:
            self._silent.add(upstream)
            log.info("the origin says nothing, what is held is served", upstream=upstream, reason=str(silence))
        elif silence is None and upstream in self._silent:
            self._silent.discard(upstream)
            log.info("the origin answers again", upstream=upstream)

    def close(self) -> None:
        for upstream in (*self.upstreams.values(), *self._removed.values()):
            upstream.close()
        for origin in tuple(self._retired):
            origin.close()
        if self._others is not None:
            self._others.close()

    async def _request(
        self,
        upstream: UpstreamName,
        method: Literal["GET", "HEAD"],
        path: str,
        credential: Credential,
        accept: str | None,
        more: Mapping[str, str] | None = None,
    ) -> Answer:
        if accept is None and "/manifests/" in path:
            accept = ANY_MANIFEST
        headers = {**({"Accept": accept} if accept else {}), **(more or {})}
        request = partial(self.upstream(upstream).origin.request, method, path, credential=credential, headers=headers)
        parent = tracing.current.get()
        if parent is None:
            return await self._in_thread(upstream, request)
        return await self._traced(parent, upstream, f"{method} {path}", request)

    async def _traced(
        self, parent: tracing.Span, upstream: UpstreamName, what: str, request: Callable[[], Answer]
    ) -> Answer:
        span = parent.child(f"origin {upstream}", tracing.SpanKind.CLIENT, {"p2pd.request": what})
        context, error = span.traceparent, ""

        def with_context() -> Answer:
            with tracing.sending(context):
                return request()

        try:
            answer = await self._in_thread(upstream, with_context)
            span.note({"http.response.status_code": answer.status})
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            span.end(error)
        return answer

    async def _blob_by_get(self, route: Route, credential: Credential, known_bytes: int | None) -> Descriptor:
        """What a GET of the first byte says. It is a small answer, which need not wait for a body's connection, unless
        the origin ignores Range and the blob is large. Then the body is not read."""
        first_byte = {"Range": "bytes=0-0"}
        try:
            answer = await self._request(route.upstream, "GET", route.origin_path, credential, None, first_byte)
        except OriginUnusableError:
            found = await self._in_thread(route.upstream, partial(self._open_and_close, route, credential))
            shows = shows_blob(found, known_bytes, named=False)
        else:
            found = blob_in(answer, route)
            shows = shows_blob(found, known_bytes, named=True)
        if not shows:
            raise OriginUnusableError(f"the origin answered with something else than {route.digest}")
        return found

    def _open_and_close(self, route: Route, credential: Credential) -> Descriptor:
        ref = ContentRef(route.repository.name, route.digest)
        with self.upstream(route.upstream).origin.open(ref, 0, 1, credential=credential) as body:
            return Descriptor(essence(body.media_type), route.digest, body.size_bytes)

    async def _in_thread(self, upstream: UpstreamName, call: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(self.answer_within_s):
                return await asyncio.get_running_loop().run_in_executor(self.upstream(upstream).threads, call)
        except TimeoutError:
            raise OriginTimeoutError(f"{upstream} did not answer within {self.answer_within_s:g} s") from None


def described(answer: Answer, digest: AnyDigest | None = None) -> Descriptor | None:
    """The descriptor in the headers of a good answer; None if they lack the length or the digest.

    `digest` is the digest that was asked for; None if a tag was asked for, whose digest the headers have to name. If
    the headers name another digest than `digest`, they do not describe it. The media type is empty if there is none. A
    length of 0 is taken for an unknown one, but for the empty blob's.
    """
    named, length = answer.headers.get("docker-content-digest"), answer.headers.get("content-length", "")
    if not length.isdecimal() or (digest is not None and named not in (None, digest)):
        return None
    try:
        found = Descriptor(essence(answer.headers.get("content-type")), digest or AnyDigest(named or ""), int(length))
    except (InvalidNameError, ValueError):
        return None
    return found if found.size_bytes or found.digest == EMPTY_DIGEST else None


def manifest_in(answer: Answer, what: str, digest: AnyDigest | None = None) -> Descriptor:
    """The descriptor of the manifest in the origin's answer to GET of `what`; `digest` if that was asked for.

    Raises OriginRefusedError, OriginUnusableError (the body is no manifest), OriginCorruptError (another digest).
    """
    if answer.status != 200:
        raise unusable(answer, what)
    found: AnyDigest = Digest.of(answer.body)
    announced = digest or answer.headers.get("docker-content-digest", found)
    if announced != found:
        try:
            found = AnyDigest(announced)
        except InvalidNameError as error:
            raise OriginCorruptError(f"the origin does not name its manifest: {error}") from None
        if not found.names(answer.body):
            raise OriginCorruptError(f"the origin sent a manifest as {found} that is other bytes")
    try:
        return Descriptor(manifest_type(answer.body, answer.headers.get("content-type")), found, len(answer.body))
    except ManifestError as error:
        raise OriginUnusableError(f"the origin answered 200 for {what}, and {error}") from None


def blob_in(answer: Answer, route: Route) -> Descriptor:
    """The descriptor of the blob of `route` in the origin's answer to GET of its first byte.

    Raises OriginRefusedError, OriginUnusableError (it is another blob, or none).
    """
    media_type, found = essence(answer.headers.get("content-type")), None
    if answer.status == 206:
        told = content_range(answer.headers.get("content-range", ""))
        found = Descriptor(media_type, route.digest, told.size_bytes) if told is not None and told.start == 0 else None
    elif answer.status == 416 and route.digest == EMPTY_DIGEST:
        found = Descriptor(media_type, EMPTY_DIGEST, 0)
    elif answer.status == 200 and route.digest.names(answer.body):  # the origin ignores Range
        found = Descriptor(media_type, route.digest, len(answer.body))
    if found is None:
        raise unusable(answer, route.origin_path)
    return found


def unusable(answer: Answer, what: str) -> OriginError:
    """The error for an answer without the content that was asked for. A refusal carries it to the client."""
    if answer.status < 400:
        return OriginUnusableError(f"the origin answered {answer.status} for {what}, with nothing that can be used")
    headers = {name: value for name, value in answer.headers.items() if name in ("www-authenticate", "retry-after")}
    return OriginRefusedError(
        f"the origin answered {answer.status} for {what}",
        status=answer.status,
        headers=headers,
        body=answer.body,
        redirected=answer.redirected,
        challenges=answer.challenges,
    )
