"""The mirror's way to the origins: small questions, asked in threads, within the time that clients wait for headers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

from peer.errors import OriginRefusedError, OriginUnreachableError
from peer.oci.manifest import KIND_BY_MEDIA_TYPE
from peer.oci.reference import UpstreamName
from peer.origin.api import Answer, Credential, Origin
from proxy.core.routing import Route

ANSWER_WITHIN_S = 10.0
"""containerd waits 30 s for headers since 2.3, dockerd for ever; an answer in time lets them go on to the registry."""

ANY_MANIFEST = ", ".join((*KIND_BY_MEDIA_TYPE, "*/*"))
"""What to accept of a manifest whose type is not known: registries answer 404 for one of a type that is not named, and
give another in its place, or convert it."""

MAX_THREADS = 16
"""For the questions to one origin, so that one that hangs does not keep the others from being asked."""


@dataclass(frozen=True, slots=True)
class UpstreamOrigin:
    """An origin, and whether the operator gave p2pd credentials for it, to be used for clients that have none."""

    origin: Origin
    has_credentials: bool = False


@dataclass(frozen=True, slots=True)
class OriginAnswer:
    """An origin's answer, with the credential that it was given to."""

    answer: Answer
    credential: Credential


class Origins:
    """All upstreams by name; the first is the default one. `answer_within_s` is how long clients wait for us."""

    def __init__(
        self, upstreams: Mapping[UpstreamName, UpstreamOrigin], *, answer_within_s: float = ANSWER_WITHIN_S
    ) -> None:
        self.upstreams = upstreams
        self.default = next(iter(upstreams))
        self.answer_within_s = answer_within_s
        self._threads = {
            upstream: ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="question") for upstream in upstreams
        }

    def origin(self, upstream: UpstreamName) -> Origin:
        return self.upstreams[upstream].origin

    def credential(self, upstream: UpstreamName, authorization: str | None) -> Credential:
        """A client's own credential if it sent one, else the operator's, else none at all."""
        if authorization is not None:
            return Credential(authorization)
        return Credential(own=self.upstreams[upstream].has_credentials)

    async def ask(
        self,
        route: Route,
        method: Literal["GET", "HEAD"],
        path: str,
        authorization: str | None,
        accept: str | None = None,
    ) -> OriginAnswer:
        """Ask the route's origin for `path` below `/v2/` with the client's credential. `accept` is the header; `""` is
        none, and without one, any manifest will do.

        A client that named the upstream by a path prefix got its token for a repository of the wrong name (the prefix
        is in it), so when that token is refused, what p2pd may have by itself is tried. Raises OriginUnreachableError.
        """
        credential = self.credential(route.upstream, authorization)
        answer = await self._request(route.upstream, method, path, credential, accept)
        if answer.status in (401, 403) and authorization is not None and route.prefix:
            own = Credential(own=True)
            second = await self._request(route.upstream, method, path, own, accept)
            if second.status < 400:
                return OriginAnswer(second, own)
        return OriginAnswer(answer, credential)

    async def ask_anonymously(
        self, route: Route, method: Literal["GET", "HEAD"], path: str, accept: str | None = None
    ) -> OriginAnswer:
        """Ask as anybody may who has no credential, with the token that registries give to all. Only where the operator
        gave none: p2pd's own would be shown. Raises OriginUnreachableError."""
        assert not self.upstreams[route.upstream].has_credentials
        credential = Credential(own=True)
        return OriginAnswer(await self._request(route.upstream, method, path, credential, accept), credential)

    async def head(self, upstream: UpstreamName, path: str, credential: Credential) -> Answer:
        """HEAD `path` with just this credential. Raises OriginUnreachableError."""
        return await self._request(upstream, "HEAD", path, credential, None)

    def close(self) -> None:
        for upstream in self.upstreams.values():
            upstream.origin.close()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

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
        call = partial(self.origin(upstream).request, method, path, credential=credential, headers=headers)
        try:
            async with asyncio.timeout(self.answer_within_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads[upstream], call)
        except TimeoutError:
            raise OriginUnreachableError(f"{upstream} did not answer within {self.answer_within_s:g} s") from None


def refused(answer: Answer, what: str) -> OriginRefusedError:
    """An answer that is a no, as the error that carries it to the client."""
    headers = {name: value for name, value in answer.headers.items() if name in ("www-authenticate", "retry-after")}
    return OriginRefusedError(
        f"the origin answered {answer.status} for {what}", status=answer.status, headers=headers, body=answer.body
    )
