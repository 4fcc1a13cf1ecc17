"""The mirror's way to the origins: small requests, made in threads, within the time that clients wait for headers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from peer.errors import InvalidNameError, OriginRefusedError, OriginUnreachableError
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest
from peer.oci.manifest import ANY_MANIFEST
from peer.oci.reference import Repository, UpstreamName
from peer.origin.api import Answer, ContentRef, Credential, Kind
from peer.origin.client import HttpOrigin
from peer.origin_range import OriginSource
from proxy.core.routing import Route
from proxy.upstreams import OTHERS, OtherUpstreams, UpstreamOrigin

ANSWER_WITHIN_S = 10.0
"""containerd waits 30 s for headers since 2.3, dockerd for ever. After an answer in time they go on to the registry."""

HEADERS_FACTOR = 2.5
"""Times ANSWER_WITHIN_S: a blob's headers are sent before its first byte has come, in time for containerd."""

OWN = Credential(own=True)
"""p2pd's own: the operator's credentials for the upstream, or anonymous if the operator gave none."""


@dataclass(frozen=True, slots=True)
class OriginAnswer:
    """An origin's answer, with the credential that it was given to."""

    answer: Answer
    credential: Credential


class Origins:
    """The configured `upstreams` by name, of which the first is the default one, and others that clients name.

    `answer_within_s` is how long clients wait for headers. With `make_other`, every host is an upstream.
    """

    def __init__(
        self,
        upstreams: Mapping[UpstreamName, UpstreamOrigin],
        *,
        answer_within_s: float = ANSWER_WITHIN_S,
        make_other: Callable[[UpstreamName], HttpOrigin] | None = None,
    ) -> None:
        self.upstreams = upstreams
        self.others = OtherUpstreams(make_other) if make_other else None
        self.default = next(iter(upstreams))
        self.answer_within_s = answer_within_s
        self.headers_within_s = HEADERS_FACTOR * answer_within_s

    def upstream(self, name: UpstreamName) -> UpstreamOrigin:
        """The upstream of that name, which a route has: it is configured, or is made now."""
        if self.others is None or name in self.upstreams:
            return self.upstreams[name]
        return self.others.get(name)

    def label(self, name: str) -> str:
        """The upstream's name for metrics, of which there are few: all that only clients name have one."""
        return name if not name or name in self.upstreams else OTHERS

    def source(
        self, repository: Repository, digest: AnyDigest, credential: Credential, kind: Kind = Kind.BLOB
    ) -> OriginSource:
        """The source of a download of `digest`: the repository's origin, with `credential` only."""
        origin = self.upstream(repository.upstream).origin
        return OriginSource(origin, ContentRef(repository.name, digest, kind), credential, repository.upstream)

    async def ask(
        self,
        route: Route,
        method: Literal["GET", "HEAD"],
        path: str,
        authorization: str | None,
        accept: str | None = None,
    ) -> OriginAnswer:
        """Ask the route's origin for `path` below `/v2/`. `accept` is the Accept header. `""` sends none, and None
        accepts any manifest.

        The credential is the client's own if the client sent one, else the operator's, else none. A client that has
        another name for the repository than the origin (a prefix, `library/` left out, a project of the origin) may
        have a token for that name, which the origin refuses. p2pd then asks again with its own credential. Raises
        OriginUnreachableError.
        """
        upstream = route.repository.upstream
        credential = Credential(authorization)
        if authorization is None:
            credential = Credential(own=self.upstream(upstream).has_credentials)
        answer = await self._request(upstream, method, path, credential, accept)
        if (
            answer.status in (401, 403)
            and authorization is not None
            and (route.renamed or self.upstream(upstream).renames)
        ):
            second = await self._request(upstream, method, path, OWN, accept)
            if second.status < 400:
                return OriginAnswer(second, OWN)
        return OriginAnswer(answer, credential)

    async def ask_anonymously(
        self, route: Route, method: Literal["GET", "HEAD"], path: str, accept: str | None = None
    ) -> OriginAnswer:
        """Ask with the token that registries give to everybody. Not for an upstream with the operator's credentials:
        p2pd would show those. Raises OriginUnreachableError."""
        upstream = route.repository.upstream
        assert not self.upstream(upstream).has_credentials
        return OriginAnswer(await self._request(upstream, method, path, OWN, accept), OWN)

    async def head(self, repository: Repository, path: str, credential: Credential) -> Answer:
        """HEAD `path` with `credential` only. Raises OriginUnreachableError."""
        return await self._request(repository.upstream, "HEAD", path, credential, None)

    def close(self) -> None:
        for upstream in self.upstreams.values():
            upstream.close()
        if self.others is not None:
            self.others.close()

    async def _request(
        self,
        upstream: UpstreamName,
        method: Literal["GET", "HEAD"],
        path: str,
        credential: Credential,
        accept: str | None,
    ) -> Answer:
        if accept is None and "/manifests/" in path:
            accept = ANY_MANIFEST
        headers = {"Accept": accept} if accept else {}
        chosen = self.upstream(upstream)
        call = partial(chosen.origin.request, method, path, credential=credential, headers=headers)
        try:
            async with asyncio.timeout(self.answer_within_s):
                return await asyncio.get_running_loop().run_in_executor(chosen.threads, call)
        except TimeoutError:
            raise OriginUnreachableError(f"{upstream} did not answer within {self.answer_within_s:g} s") from None


def described(answer: Answer, digest: AnyDigest | None = None) -> Descriptor | None:
    """The descriptor in the headers of a good answer; None if they lack the length or the digest.

    `digest` is the digest that was asked for; None if a tag was asked for, whose digest the headers have to name. If
    the headers name another digest than `digest`, they do not describe it. The media type is empty if there is none.
    """
    named, length = answer.headers.get("docker-content-digest"), answer.headers.get("content-length", "")
    if not length.isdecimal() or (digest is not None and named not in (None, digest)):
        return None
    try:
        return Descriptor(answer.headers.get("content-type", ""), digest or AnyDigest(named or ""), int(length))
    except (InvalidNameError, ValueError):
        return None


def refused(answer: Answer, what: str) -> OriginRefusedError:
    """The error that carries the origin's refusal to the client. `what` was asked for."""
    headers = {name: value for name, value in answer.headers.items() if name in ("www-authenticate", "retry-after")}
    return OriginRefusedError(
        f"the origin answered {answer.status} for {what}",
        status=answer.status,
        headers=headers,
        body=answer.body,
        challenges=answer.challenges,
    )
