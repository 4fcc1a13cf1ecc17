"""Access: a cached blob is served only to a client that the origin lets have it, in that repository, now.

1. When the origin itself gives something to a client (a manifest by tag, a HEAD), the client is granted its digest for
   `ttl_s`; with a manifest, also the digests of the blobs below it. So p2pd asks the origin no more often in a pull
   than the runtime would.
2. A digest without a grant is asked for at the origin by HEAD, with the client's own credential.
3. If the origin answers without a client's credential, the digest is granted to ANYONE. The catalog remembers that
   across restarts: public images can be pulled while the origin is gone, private images cannot.

Grants are added in this file only. Other files say what the origin answered (`granted`, `granted_below`).
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from peer.errors import OriginUnreachableError, P2pdError
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest
from peer.oci.reference import Repository
from peer.origin.api import Credential
from peer.tasks import BackgroundTasks, SingleFlight
from proxy.catalog import Catalog
from proxy.core.grants import ANYONE, Grants
from proxy.core.routing import Route
from proxy.origins import OWN, Origins, described, refused

log = structlog.get_logger("proxy.access")

PROBE_EVERY_S = 3600.0
"""How often p2pd asks whether a repository is public, if clients show a credential for it."""


@dataclass(frozen=True, slots=True)
class Permit:
    """The client may have a digest.

    `client` is the holder of the grant, `credential` the one to use at the origin. `described` is what the origin said
    of the content, if the origin was asked just now.
    """

    client: str
    credential: Credential
    described: Descriptor | None = None


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
        self._probed: dict[Repository, float] = {}

    def client(self, authorization: str | None) -> str:
        """The client's name in grants: a keyed hash of its credential, so that no credential is kept."""
        if authorization is None:
            return ANYONE
        return hashlib.blake2b(
            authorization.encode("utf-8", "surrogateescape"), key=self._key, digest_size=16
        ).hexdigest()

    async def check(self, route: Route, authorization: str | None) -> Permit:
        """The client's permit for the digest that `route` names. Raises OriginRefusedError, OriginUnreachableError."""
        client, digest = self.client(authorization), route.digest
        holder = self._grants.holder(client, route.repository, digest, self._clock())
        if holder == ANYONE:
            return Permit(ANYONE, OWN)
        if holder is not None:
            return Permit(client, Credential(authorization))
        return await self._checks.get((client, route), lambda: self._ask(route, digest, authorization))

    def granted(
        self,
        repository: Repository,
        digest: AnyDigest,
        credential: Credential,
        authorization: str | None,
        found: Descriptor | None = None,
    ) -> Permit:
        """The origin gave `digest` to `credential`, on behalf of the client with `authorization`: the client's permit.

        `found` is what the origin said of it.
        """
        permit = Permit(ANYONE if credential.authorization is None else self.client(authorization), credential, found)
        self._grant(repository, permit.client, [digest])
        return permit

    def granted_below(
        self, repository: Repository, permit: Permit, manifest: AnyDigest, below: Sequence[AnyDigest]
    ) -> None:
        """The client was given `manifest`: grant it the blobs `below`, and find out whether anyone may have them."""
        self._grant(repository, permit.client, [manifest, *below])
        now = self._clock()
        if permit.client != ANYONE and now - self._probed.get(repository, float("-inf")) > PROBE_EVERY_S:
            self._probed[repository] = now
            self._background.start(self._probe(repository, manifest, below))

    def public_while_gone(self, repository: Repository, digest: AnyDigest) -> Permit | None:
        """A permit for `digest` while the origin cannot be asked: only for a digest that anyone may have."""
        return Permit(ANYONE, OWN) if self._catalog.is_public(repository, digest) else None

    def _grant(self, repository: Repository, client: str, digests: Sequence[AnyDigest]) -> None:
        self._grants.add(client, repository, digests, self._clock())
        if client == ANYONE:
            self._catalog.remember_public(repository, digests)

    async def _ask(self, route: Route, digest: AnyDigest, authorization: str | None) -> Permit:
        repository = route.repository
        try:
            asked = await self._origins.ask(route, "HEAD", route.origin_path, authorization)
        except OriginUnreachableError:
            permit = self.public_while_gone(repository, digest)
            if permit is None:
                raise
            log.info("origin unreachable, served from the store", upstream=repository.upstream, digest=digest)
            return permit
        if asked.answer.status >= 400:
            if authorization is None:
                self._catalog.forget_public(repository, digest)
            raise refused(asked.answer, f"{repository}@{digest}")
        return self.granted(repository, digest, asked.credential, authorization, described(asked.answer, digest))

    async def _probe(self, repository: Repository, manifest: AnyDigest, below: Sequence[AnyDigest]) -> None:
        try:
            answer = await self._origins.head(repository, f"{repository.name}/manifests/{manifest}", OWN)
        except P2pdError as error:
            log.debug("could not find out whether a repository is public", repository=str(repository), error=str(error))
            return
        if answer.status < 400:
            self._grant(repository, ANYONE, [manifest, *below])
