"""Tags: what they mean is the origin's to say each time. Who asks at the same time or a moment later shares it.

With the origin gone a tag means what it meant last, if the operator allows that and the image is one that anyone may
have.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from peer.background import Background, Shared
from peer.core.names import parse_digest
from peer.errors import InvalidNameError, OriginCorruptError, OriginUnreachableError
from peer.origin.api import Answer
from proxy.access import Access, Permit
from proxy.catalog import Catalog, Resolved
from proxy.core.grants import Place
from proxy.core.routing import Route
from proxy.origins import Asked, Origins, refused

log = structlog.get_logger("proxy.tags")

MAX_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class TagAnswer:
    """What the tag means now, and the client's permit to have it."""

    resolved: Resolved
    permit: Permit


class Tags:
    """Resolves tags. `ttl_s` is how long an answer is shared; `serve_stale` is for when the origin is gone."""

    def __init__(
        self,
        origins: Origins,
        access: Access,
        catalog: Catalog,
        background: Background,
        *,
        ttl_s: float,
        serve_stale: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origins = origins
        self._access = access
        self._catalog = catalog
        self._ttl_s = ttl_s
        self._serve_stale = serve_stale
        self._clock = clock
        self._asking: Shared[tuple[str, Route, str], TagAnswer] = Shared(background)
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
        place = Place(route.namespace, route.repository)
        try:
            asked, resolved = await self._ask(route, authorization, accept)
        except OriginUnreachableError as error:
            return self._last_known(route, place, error)
        answer = TagAnswer(resolved, self._access.permit_for(asked.credential, authorization))
        self._access.grant(place, answer.permit, [resolved.digest])
        if self._catalog.last_known(place, route.reference) != resolved:
            self._catalog.remember_tag(place, route.reference, resolved)
        if len(self._answers) >= MAX_REMEMBERED:
            self._answers.clear()
        self._answers[key] = (self._clock() + self._ttl_s, answer)
        return answer

    async def _ask(self, route: Route, authorization: str | None, accept: str) -> tuple[Asked, Resolved]:
        """HEAD the tag; GET it at a registry that does not answer HEAD as the specification wants."""
        asked = await self._origins.ask(route, "HEAD", route.origin_path, authorization, accept)
        resolved = _resolved(asked.answer.headers) if asked.answer.status == 200 else None
        if resolved is None and asked.answer.status in (200, 400, 404, 405):
            asked = await self._origins.ask(route, "GET", route.origin_path, authorization, accept)
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
            image=f"{route.namespace}/{route.repository}:{route.reference}",
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
    return Resolved(digest, media_type, size_bytes) if media_type and size_bytes > 0 else None


def _resolved_from_body(answer: Answer) -> Resolved:
    digest = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
    announced = answer.headers.get("docker-content-digest", digest)
    if announced != digest:
        raise OriginCorruptError(f"the origin sent a manifest as {announced[:80]!a} that is {digest}")
    return Resolved(digest, answer.headers.get("content-type", "application/json"), len(answer.body))
