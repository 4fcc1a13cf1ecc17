"""Access: a cached blob is served only to a client that the origin lets have it, in that repository, now.

1. What a client is given by the origin itself (a manifest by tag, a HEAD) is granted to it for `ttl_s`, and so are the
   blobs that the manifest names: a pull costs no question more than the runtime itself asks.
2. A digest without a grant is asked for at the origin by HEAD, with the client's own credential.
3. Where the origin answers p2pd without a client's credential, the digest is granted to ANYONE. That is also remembered
   across restarts: public images can be pulled while the origin is gone, private ones cannot.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from peer.errors import OriginUnreachableError, P2pdError
from peer.origin.api import Answer, Credential
from peer.tasks import BackgroundTasks, SingleFlight
from proxy.catalog import Catalog
from proxy.core.grants import ANYONE, Grants, Place
from proxy.core.routing import Route
from proxy.origins import Origins, refused

log = structlog.get_logger("proxy.access")

PROBE_EVERY_S = 3600.0
"""How often a repository that a client has a token for is asked whether it is public."""


@dataclass(frozen=True, slots=True)
class Permit:
    """The client may have it. `client` is whom the grant is for; `answer` the origin's, if it was asked just now."""

    client: str
    credential: Credential
    answer: Answer | None = None


class Access:
    """The decisions of all origins."""

    def __init__(
        self,
        origins: Origins,
        catalog: Catalog,
        background: BackgroundTasks,
        *,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origins = origins
        self._catalog = catalog
        self._background = background
        self._clock = clock
        self._grants = Grants(ttl_s)
        self._key = secrets.token_bytes(32)
        self._checks: SingleFlight[tuple[str, Route], Permit] = SingleFlight(background)
        self._probed: dict[Place, float] = {}

    def client(self, authorization: str | None) -> str:
        """Who a client is to us: a keyed hash of its credential, so that none is kept."""
        if authorization is None:
            return ANYONE
        return hashlib.blake2b(
            authorization.encode("utf-8", "surrogateescape"), key=self._key, digest_size=16
        ).hexdigest()

    async def check(self, route: Route, authorization: str | None) -> Permit:
        """Let the client have `route.reference`, a digest. Raises OriginRefusedError, OriginUnreachableError."""
        client, place = self.client(authorization), Place(route.upstream, route.repository)
        holder = self._grants.holder(client, place, route.reference, self._clock())
        if holder == ANYONE:
            return Permit(ANYONE, Credential(own=True))
        if holder is not None:
            return Permit(client, Credential(authorization))
        return await self._checks.get((client, route), lambda: self._ask(route, place, authorization))

    def grant(self, place: Place, permit: Permit, digests: Sequence[str]) -> None:
        """The origin let the client have `digests` in `place`."""
        self._grants.add(permit.client, place, digests, self._clock())
        if permit.client == ANYONE:
            self._catalog.remember_public(place, digests)

    def grant_image(self, place: Place, permit: Permit, manifest: str, children: Sequence[str]) -> None:
        """The client was given `manifest`, and so may have the blobs that it names; find out who else may."""
        self.grant(place, permit, [manifest, *children])
        now = self._clock()
        if permit.client != ANYONE and now - self._probed.get(place, float("-inf")) > PROBE_EVERY_S:
            self._probed[place] = now
            self._background.start(self._probe(place, manifest, children))

    def permit_for(self, credential: Credential, authorization: str | None, answer: Answer | None = None) -> Permit:
        """The permit that an origin's good answer to `credential` amounts to."""
        client = ANYONE if credential.authorization is None else self.client(authorization)
        return Permit(client, credential, answer)

    def public_while_gone(self, place: Place, digest: str) -> Permit | None:
        """What may be served of `place` while its origin cannot be asked."""
        return Permit(ANYONE, Credential(own=True)) if self._catalog.is_public(place, digest) else None

    async def _ask(self, route: Route, place: Place, authorization: str | None) -> Permit:
        try:
            asked = await self._origins.ask(route, "HEAD", route.origin_path, authorization)
        except OriginUnreachableError:
            permit = self.public_while_gone(place, route.reference)
            if permit is None:
                raise
            log.info("origin unreachable, served from the store", upstream=route.upstream, digest=route.reference)
            return permit
        if asked.answer.status >= 400:
            if authorization is None:
                self._catalog.forget_public(place, route.reference)
            raise refused(asked.answer, f"{route.repository}@{route.reference}")
        permit = self.permit_for(asked.credential, authorization, asked.answer)
        self.grant(place, permit, [route.reference])
        return permit

    async def _probe(self, place: Place, manifest: str, children: Sequence[str]) -> None:
        try:
            path = f"{place.repository}/manifests/{manifest}"
            answer = await self._origins.head(place.upstream, path, Credential(own=True))
        except P2pdError as error:
            log.debug(
                "could not find out whether a repository is public", repository=place.repository, error=str(error)
            )
            return
        if answer.status < 400:
            self.grant(place, Permit(ANYONE, Credential(own=True)), [manifest, *children])
