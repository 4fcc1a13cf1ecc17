"""Access: a cached blob is served only to a client that the origin lets have it, in that repository, now.

1. When the origin itself gives something to a client (a manifest by tag, a HEAD), the client is granted its digest for
   `ttl_s`; with a manifest, also the digests of the blobs below it, until the manifest's own grant ends. So p2pd asks
   the origin no more often in a pull than the runtime would.
2. A digest without a grant is asked for at the origin by HEAD, or by GET, with the client's own credential
   (`Origins.look`).
3. If the origin answers without a client's credential, the digest is granted to ANYONE. The catalog remembers that
   across restarts: public images can be pulled while the origin is gone, private images cannot.
4. An origin that says nothing of access (`proxy.core.origin_answers`) counts as gone. That content is public is
   forgotten only if the origin refuses it to everybody: an anonymous request without a token may be refused at a
   registry whose token server gives tokens to everybody, so p2pd then asks for such a token itself.

Grants are added in this file only. Other files say what the origin answered (`granted`, `granted_below`).
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from peer.errors import OriginError, OriginRefusedError, P2pdError
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest
from peer.oci.reference import Repository
from peer.origin.api import Credential
from peer.tasks import BackgroundTasks, SingleFlight
from proxy.catalog import Catalog
from proxy.core.grants import ANYONE, Grants
from proxy.core.origin_answers import Word, takes_back_public, word_of_error
from proxy.core.routing import Endpoint, Route
from proxy.origins import OWN, Origins

log = structlog.get_logger("proxy.access")

PROBE_EVERY_S = 3600.0
"""How often p2pd asks whether a repository is public, if clients show a credential for it."""


@dataclass(frozen=True, slots=True)
class Permit:
    """The client may have a digest.

    `client` is the holder of the grant, `credential` the one to use at the origin, `until` the monotonic time at which
    the grant ends. `described` is what the origin said of the content, if the origin was asked just now.
    """

    client: str
    credential: Credential
    until: float
    described: Descriptor | None = None


class Access:
    """The decisions of all origins. `length_of` says how long the content of a digest is, if it is held whole."""

    def __init__(
        self,
        origins: Origins,
        catalog: Catalog,
        background: BackgroundTasks,
        *,
        ttl_s: float,
        length_of: Callable[[AnyDigest], int | None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origins = origins
        self._catalog = catalog
        self._background = background
        self._clock = clock
        self._ttl_s = ttl_s
        self._length_of = length_of
        self._grants = Grants()
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
        """The client's permit for the digest that `route` names, at the endpoint that it names. Raises OriginError."""
        client = self.client(authorization)
        grant = self._grants.find(client, route.repository, route.endpoint, route.digest, self._clock())
        if grant is not None:
            credential = OWN if grant.holder == ANYONE else Credential(authorization)
            return Permit(grant.holder, credential, grant.until)
        return await self._checks.get((client, route), lambda: self._ask(route, authorization))

    def is_over(self, permit: Permit) -> bool:
        """Whether the origin is to be asked again."""
        return permit.until <= self._clock()

    def granted(
        self, route: Route, credential: Credential, authorization: str | None, found: Descriptor | None = None
    ) -> Permit:
        """The origin gave the digest of `route` to `credential`, on behalf of the client with `authorization`: the
        client's permit. `found` is what the origin said of it.
        """
        client = ANYONE if credential.authorization is None else self.client(authorization)
        permit = Permit(client, credential, self._clock() + self._ttl_s, found)
        self._grant(route.repository, permit, route.endpoint, [route.digest])
        return permit

    def granted_below(self, manifest: Route, permit: Permit, below: Sequence[AnyDigest], endpoint: Endpoint) -> None:
        """The client was given the manifest that `manifest` names by its digest: grant it what is `below`, at
        `endpoint`, until `permit` ends, and find out whether anyone may have that.
        """
        repository, now = manifest.repository, self._clock()
        self._grant(repository, permit, endpoint, below)
        if permit.client != ANYONE and now - self._probed.get(repository, float("-inf")) > PROBE_EVERY_S:
            self._probed[repository] = now
            self._background.start(self._probe(manifest, below, endpoint))

    def public_while_silent(self, route: Route, silence: OriginError, *, told_by_hosts: bool = False) -> Permit | None:
        """A permit for the digest of `route` while the origin says nothing: only for a digest that anyone may have, as
        this host has learnt from the origin, or as most hosts say that have (`told_by_hosts`).
        """
        if not told_by_hosts and not self._catalog.is_public(route.repository, route.endpoint, route.digest):
            return None
        self._origins.note(route.upstream, silence)
        return self.granted(route, OWN, None)

    def _grant(self, repository: Repository, permit: Permit, endpoint: Endpoint, digests: Sequence[AnyDigest]) -> None:
        self._grants.add(permit.client, repository, endpoint, digests, permit.until)
        if permit.client == ANYONE:
            self._catalog.remember_public(repository, endpoint, digests)

    async def _ask(self, route: Route, authorization: str | None) -> Permit:
        credential = self._origins.credential(route.upstream, authorization)
        try:
            return await self._look(route, credential, authorization)
        except OriginRefusedError as error:
            refusal = error
        to_anyone = refusal if authorization is None else None
        if word_of_error(refusal) is Word.REFUSES and self._may_be_anyones(route, authorization, credential, refusal):
            try:
                return await self._look(route, OWN, authorization)
            except OriginRefusedError as error:
                if word_of_error(error) is Word.SAYS_NOTHING:
                    raise
                to_anyone = error
        if to_anyone is not None and takes_back_public(to_anyone):
            self._catalog.forget_public(route.repository, route.endpoint, route.digest)
        raise refusal

    def _may_be_anyones(
        self, route: Route, authorization: str | None, credential: Credential, refusal: OriginRefusedError
    ) -> bool:
        """Whether to ask again with the token that everybody gets: the client's is for another name; or the client has
        none yet, and the digest was public. If it was not, the challenge is the answer, as at the registry.
        """
        if authorization is not None:
            return self._origins.is_renamed(route, authorization)
        public = self._catalog.is_public(route.repository, route.endpoint, route.digest)
        return refusal.status == 401 and not credential.own and public

    async def _look(self, route: Route, credential: Credential, authorization: str | None) -> Permit:
        try:
            found = await self._origins.look(route, credential, self._length_of(route.digest))
        except OriginError as error:
            if word_of_error(error) is not Word.SAYS_NOTHING:
                self._origins.note(route.upstream, None)
                raise
            permit = self.public_while_silent(route, error)
            if permit is None:
                raise
            return permit
        self._origins.note(route.upstream, None)
        return self.granted(route, credential, authorization, found)

    async def _probe(self, manifest: Route, below: Sequence[AnyDigest], endpoint: Endpoint) -> None:
        try:
            await self._origins.look(manifest, OWN, self._length_of(manifest.digest))
        except P2pdError as error:
            log.debug(
                "could not find out that a repository is public", repository=str(manifest.repository), error=str(error)
            )
            if takes_back_public(error):
                self._catalog.forget_public(manifest.repository, manifest.endpoint, manifest.digest)
            return
        permit = self.granted(manifest, OWN, None)
        self._grant(manifest.repository, permit, endpoint, below)
