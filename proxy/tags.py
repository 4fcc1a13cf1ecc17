"""Tags: what they mean is the origin's to say each time. Who asks at the same time or a moment later shares it, on this
host and in the whole cluster.

1. One host of the cluster asks the origin, with the credential of a client that waits for it, and all are told the
   digest (`peer.swarm.tags`). No digest proves a tag, so it is as good as the host that asked; and it saves the
   question for the tag, and nothing else.
2. Whether this host's client may have that digest in that repository is for the origin to say, now (`proxy.access`): a
   HEAD of the digest with the client's own credential, unless it was asked within `access_ttl_s`. So of N hosts that
   pull a tag at once, one asks for the tag and N - 1 ask for the digest: as many questions as without the others.
   What is saved comes after that: all hosts together ask for the tag once in `tag_ttl_s`, and each for the digest
   once in `access_ttl_s`. A host that lies can have this one serve another manifest that the repository has and the
   client may have, and nothing else.
3. With `trust_hosts` another host's word that the origin gave a manifest without any credential is believed. Then a
   tag of a public image costs one question for all N hosts. Any host of the cluster can take whatever the others hold
   and pass it on, so its lie gives nobody more than itself could; but it would be this host that serves it.
4. A client that is refused, and one that does not take the type of what was found, get the origin's own answer for the
   tag. With nobody to ask, or no answer in time, this host asks the origin itself, as if it were alone.

With the origin gone a tag means what it meant last, if the operator allows that and the image is one that anyone may
have.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import structlog

from peer.errors import InvalidNameError, OriginCorruptError, OriginRefusedError, OriginUnreachableError
from peer.oci.manifest import KIND_BY_MEDIA_TYPE, MAX_MANIFEST_BYTES
from peer.oci.reference import parse_digest
from peer.origin.api import Answer, Credential
from peer.swarm.tags import TagFound, TagName, Turn
from peer.tasks import BackgroundTasks, SingleFlight
from proxy.access import Access, Permit
from proxy.catalog import Catalog, Resolved
from proxy.core.accept import accepts
from proxy.core.grants import ANYONE, Place
from proxy.core.routing import Route
from proxy.origins import ANY_MANIFEST, OriginAnswer, Origins, refused

log = structlog.get_logger("proxy.tags")

MAX_REMEMBERED = 4096


class TagCluster(Protocol):
    """The hosts that ask for tags together: `peer.swarm.tags.TagLookups`."""

    async def look_up(self, name: TagName) -> TagFound | Turn | None:
        """What another host found; or that it is our turn to ask the origin for all; or None, and nobody helps."""
        ...

    def answer(self, name: TagName, status: int, found: TagFound | None = None) -> None:
        """Say what the origin answered when it was our turn."""
        ...


@dataclass(frozen=True, slots=True)
class TagAnswer:
    """What the tag means now, and the client's permit to have it."""

    resolved: Resolved
    permit: Permit


class Tags:
    """Resolves tags. `ttl_s` is how long an answer is shared; `serve_stale` is for when the origin is gone.

    Without a `cluster` this host is alone. `trust_hosts` is rule 3.
    """

    def __init__(
        self,
        origins: Origins,
        access: Access,
        catalog: Catalog,
        background: BackgroundTasks,
        *,
        ttl_s: float,
        serve_stale: bool,
        cluster: TagCluster | None = None,
        trust_hosts: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origins = origins
        self._access = access
        self._catalog = catalog
        self._ttl_s = ttl_s
        self._serve_stale = serve_stale
        self._cluster = cluster
        self._trust_hosts = trust_hosts
        self._clock = clock
        self._asking: SingleFlight[tuple[str, Route, str], TagAnswer] = SingleFlight(background)
        self._answers: dict[tuple[str, Route, str], tuple[float, TagAnswer]] = {}

    async def resolve(self, route: Route, authorization: str | None, accept: str) -> TagAnswer:
        """The manifest that `route.reference` names for this client. Raises OriginError."""
        key = (self._access.client(authorization), route, accept)
        until, answer = self._answers.get(key, (0.0, None))
        if answer is not None and until > self._clock():
            return answer
        return await self._asking.get(key, lambda: self._resolve(key, authorization))

    async def _resolve(self, key: tuple[str, Route, str], authorization: str | None) -> TagAnswer:
        _, route, accept = key
        place = Place(route.upstream, route.repository)
        try:
            answer = await self._with_others(key, authorization)
            if answer is None:
                answer = self._granted(key, authorization, await self._ask(route, authorization, accept))
        except OriginUnreachableError as error:
            return self._last_known(route, place, error)
        if self._catalog.last_known(place, route.reference) != answer.resolved:
            self._catalog.remember_tag(place, route.reference, answer.resolved)
        return answer

    def _granted(
        self, key: tuple[str, Route, str], authorization: str | None, found: tuple[OriginAnswer, Resolved]
    ) -> TagAnswer:
        """What the origin has just told this host, for this client and for those who come a moment later."""
        asked, resolved = found
        _, route, _ = key
        answer = TagAnswer(resolved, self._access.permit_for(asked.credential, authorization))
        self._access.grant(Place(route.upstream, route.repository), answer.permit, [resolved.digest])
        if len(self._answers) >= MAX_REMEMBERED:
            self._answers.clear()
        self._answers[key] = (self._clock() + self._ttl_s, answer)
        return answer

    # -- with the others of the cluster ----------------------------------------------------------------------------

    async def _with_others(self, key: tuple[str, Route, str], authorization: str | None) -> TagAnswer | None:
        """What the hosts find out together; None: this client's own question is to be put to the origin.

        What others tell is not remembered here: the scheduler does that, and tells it again within its `tag_ttl_s`.
        """
        if self._cluster is None:
            return None
        _, route, accept = key
        name = TagName(route.upstream, route.repository, route.reference)
        turn = await self._cluster.look_up(name)
        if turn is Turn.OURS:
            found = await self._ask_for_all(self._cluster, name, route, authorization)
            return self._granted(key, authorization, found) if accepts(accept, found[1].media_type) else None
        if turn is None or not accepts(accept, turn.media_type):
            return None
        return await self._admit(replace(route, reference=parse_digest(turn.digest)), authorization, turn)

    async def _ask_for_all(
        self, cluster: TagCluster, name: TagName, route: Route, authorization: str | None
    ) -> tuple[OriginAnswer, Resolved]:
        """Ask the origin, and tell the others what came of it, whatever it is."""
        status, found = 0, None
        try:
            asked, resolved = await self._ask_openly_first(route, authorization)
            if resolved.media_type in KIND_BY_MEDIA_TYPE and resolved.size_bytes <= MAX_MANIFEST_BYTES:
                status, found = (
                    200,
                    TagFound(
                        resolved.digest,
                        resolved.size_bytes,
                        resolved.media_type,
                        self._is_public(route, asked.credential),
                    ),
                )
        except OriginRefusedError as error:
            status = error.status
            raise
        finally:
            cluster.answer(name, status, found)
        return asked, resolved

    async def _ask_openly_first(self, route: Route, authorization: str | None) -> tuple[OriginAnswer, Resolved]:
        """Where the hosts believe each other, find out whether anyone may have it: that saves all their questions."""
        if self._trust_hosts and not self._origins.upstreams[route.upstream].has_credentials:
            try:
                return await self._ask(route, None, ANY_MANIFEST, anonymous=True)
            except OriginRefusedError:
                if authorization is None:
                    raise
        return await self._ask(route, authorization, ANY_MANIFEST)

    def _is_public(self, route: Route, credential: Credential) -> bool:
        return credential.authorization is None and not self._origins.upstreams[route.upstream].has_credentials

    async def _admit(self, route: Route, authorization: str | None, told: TagFound) -> TagAnswer | None:
        """The manifest that another host found, if this client may have it (rules 2 and 3)."""
        resolved = Resolved(told.digest, told.media_type, told.size_bytes)
        if told.public and self._trust_hosts:
            permit = Permit(ANYONE, Credential(own=True))
            self._access.grant(Place(route.upstream, route.repository), permit, [told.digest])
            return TagAnswer(resolved, permit)
        try:
            permit = await self._access.check(route, authorization)
        except OriginRefusedError as error:
            log.info("asking for a tag that another host resolved", repository=route.repository, reason=str(error))
            return None
        asked_now = _resolved(permit.answer.headers) if permit.answer is not None else None
        return TagAnswer(asked_now if asked_now and asked_now.digest == told.digest else resolved, permit)

    # -- at the origin ---------------------------------------------------------------------------------------------

    async def _ask(
        self, route: Route, authorization: str | None, accept: str, *, anonymous: bool = False
    ) -> tuple[OriginAnswer, Resolved]:
        """HEAD the tag; GET it at a registry that does not answer HEAD as the specification wants."""
        ask = self._origins.ask_anonymously if anonymous else partial(self._origins.ask, authorization=authorization)
        asked = await ask(route, "HEAD", route.origin_path, accept=accept)
        resolved = _resolved(asked.answer.headers) if asked.answer.status == 200 else None
        if resolved is None and asked.answer.status in (200, 400, 404, 405):
            asked = await ask(route, "GET", route.origin_path, accept=accept)
            resolved = _resolved_from_body(asked.answer) if asked.answer.status == 200 else None
        if resolved is None:
            raise refused(asked.answer, f"{route.repository}:{route.reference}")
        return asked, resolved

    def _last_known(self, route: Route, place: Place, error: OriginUnreachableError) -> TagAnswer:
        resolved = self._catalog.last_known(place, route.reference) if self._serve_stale else None
        permit = self._access.public_while_gone(place, resolved.digest) if resolved else None
        if resolved is None or permit is None:
            raise error
        log.warning(
            "origin unreachable, served the tag's last known digest",
            image=f"{route.upstream}/{route.repository}:{route.reference}",
            digest=resolved.digest,
        )
        return TagAnswer(resolved, permit)


def _resolved(headers: Mapping[str, str]) -> Resolved | None:
    try:
        digest = parse_digest(headers.get("docker-content-digest", ""))
        size_bytes = int(headers.get("content-length", ""))
    except (InvalidNameError, ValueError):
        return None
    media_type = headers.get("content-type", "")
    return Resolved(digest, media_type, size_bytes) if media_type and 0 < size_bytes <= MAX_MANIFEST_BYTES else None


def _resolved_from_body(answer: Answer) -> Resolved:
    digest = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
    announced = answer.headers.get("docker-content-digest", digest)
    if announced != digest:
        raise OriginCorruptError(f"the origin sent a manifest as {announced[:80]!a} that is {digest}")
    return Resolved(digest, answer.headers.get("content-type", "application/json"), len(answer.body))
