"""Access: a cached blob is served only to a client that the origin lets have it, in that repository, now.

Two things are needed: a grant (the client may have what the place has of this) and knowledge (the place has it). A
place is a repository of an upstream.

1. When the origin itself gives something to a client (a manifest by tag, a HEAD), the client is granted its digest for
   `ttl_s`; with a manifest, also the digests of the blobs below it, until the manifest's own grant ends. So p2pd asks
   the origin no more often in a pull than the runtime would.
2. A digest without a grant is asked for at the origin by HEAD, or by GET, with the client's own credential
   (`Origins.look`).
3. Anybody who may push writes manifests, so a manifest proves nothing of the blobs that it names. That a place has a
   digest is known if its origin has said so, or if the blob arrived here because of that place alone. The catalog keeps
   that, and it is never believed for another place. What is not known:
   a. nothing of the blob is here or on its way because of another place: it may be fetched, and the fetch proves it
      (`Permit.unproven`). If another place joins the fetch before it has ended, (b) holds from then on.
   b. otherwise the origin is asked, once: it answers for the digest in that place, or the client is refused.
   Where other hosts also send what is private (`Exchange.EVERYTHING`), (b) holds always.
   An upstream that only a client has named (the upstream `*`) may be the client's own server. Its word proves nothing,
   so from such an upstream clients get what was fetched there, and nothing that is here because of another place.
4. If the origin answers without a client's credential, the digest is granted to ANYONE. The catalog remembers that
   across restarts: public images can be pulled while the origin is gone, private images cannot.
5. An origin that says nothing of access (`proxy.core.origin_answers`) counts as gone. That content is public is
   forgotten only if the origin refuses it to everybody: an anonymous request without a token may be refused at a
   registry whose token server gives tokens to everybody, so p2pd then asks for such a token itself.

6. Without certificates only public content is exchanged with other hosts (`Exchange.PUBLIC`): what the origin gives to
   everybody, without a client's and without the operator's credential. Everything else is private: the download asks
   the origin alone, and no other host hears of it. A client with a credential waits until it is known whether its image
   is public.

Grants are added in this file only. Other files say what the origin answered (`granted`, `granted_below`).
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import NamedTuple

import structlog

from peer.errors import OriginError, OriginRefusedError, OriginUnusableError, P2pdError
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest
from peer.oci.reference import Repository
from peer.origin.api import Credential
from peer.tasks import BackgroundTasks, SingleFlight
from proxy.catalog import Catalog, Public
from proxy.core.grants import ANYONE, Grants
from proxy.core.origin_answers import Word, takes_back_public, word_of_error
from proxy.core.routing import Endpoint, Route
from proxy.origins import OWN, Origins

log = structlog.get_logger("proxy.access")

PROBE_EVERY_S = 3600.0
"""How often p2pd asks whether a repository is public, if clients show a credential for it."""


MAX_PROBED = 10_000


class Exchange(Enum):
    """What this host exchanges with other hosts."""

    NOTHING = auto()
    """It is alone."""
    PUBLIC = auto()
    EVERYTHING = auto()
    """Hosts show certificates, or the operator answers for the network (`allow_open`)."""


class Permit(NamedTuple):
    """The client may have a digest.

    `client` is the holder of the grant, `credential` the one to use at the origin, `until` the monotonic time at which
    the grant ends. `described` is what the origin said of the content, if the origin was asked just now. `unproven`:
    it is not known that the place has the digest; `Access.confirm` says whether the bytes may be sent (rule 3).
    `private`: other hosts are neither told of the content nor given it (rule 6).
    """

    client: str
    credential: Credential
    until: float
    described: Descriptor | None = None
    unproven: bool = False
    private: bool = False


class Access:
    """The decisions of all origins. `length_of` says how long the content of a digest is, if it is held whole.

    `is_only_for` says whether nothing of a digest is here because of another place than (upstream, repository).
    """

    def __init__(
        self,
        origins: Origins,
        catalog: Catalog,
        background: BackgroundTasks,
        *,
        ttl_s: float,
        length_of: Callable[[AnyDigest], int | None] = lambda _: None,
        is_only_for: Callable[[AnyDigest, tuple[str, str]], bool] = lambda _digest, _place: False,
        exchange: Exchange = Exchange.EVERYTHING,
        on_public: Callable[[AnyDigest], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origins = origins
        self._catalog = catalog
        self._background = background
        self._clock = clock
        self._ttl_s = ttl_s
        self._length_of = length_of
        self._is_only_for = is_only_for
        self._fetch_proves = exchange is not Exchange.EVERYTHING
        self._exchange = exchange
        self._on_public = on_public
        self._probes: SingleFlight[Repository, None] = SingleFlight(background)
        self._grants = Grants()
        self._key = secrets.token_bytes(32)
        self._checks: SingleFlight[tuple[str, Route], Permit] = SingleFlight(background)
        self._probed: dict[tuple[Repository, AnyDigest | None], float] = {}

    def client(self, authorization: str | None) -> str:
        """The client's name in grants: a keyed hash of its credential, so that no credential is kept."""
        if authorization is None:
            return ANYONE
        return hashlib.blake2b(
            authorization.encode("utf-8", "surrogateescape"), key=self._key, digest_size=16
        ).hexdigest()

    async def check(self, route: Route, authorization: str | None, *, fetches: bool = False) -> Permit:
        """The client's permit for the digest that `route` names, at the endpoint that it names. Raises OriginError.

        `fetches`: the client wants the bytes, so that they may prove that the place has them (rule 3).
        """
        client = self.client(authorization)
        grant = self._grants.find(client, route.repository, route.endpoint, route.digest, self._clock())
        if grant is None:
            return await self._checks.get((client, route), lambda: self._ask(route, authorization))
        credential = OWN if grant.holder == ANYONE else Credential(authorization)
        if fetches and self._exchange is Exchange.PUBLIC and grant.holder != ANYONE:
            await self._probes.settled(route.repository)
        private = self._is_private(route.repository, route.endpoint, route.digest)
        permit = Permit(grant.holder, credential, grant.until, unproven=not self._is_known(route), private=private)
        if not permit.unproven or (fetches and self._may_prove(route)):
            return permit
        try:
            return await self._checks.get((client, route), lambda: self._ask_as(permit, route, authorization))
        except OriginError as error:
            if word_of_error(error) is Word.SAYS_NOTHING and self._may_prove(route):
                return permit  # nothing is here that the place could not have
            raise

    async def confirm(self, permit: Permit, route: Route, authorization: str | None) -> None:
        """Return if the bytes of the digest of `route` that are here now may be sent (rule 3). Raises OriginError."""
        if permit.unproven and not self._may_prove(route) and not self._is_known(route):
            await self._checks.get(
                (self.client(authorization), route), lambda: self._ask_as(permit, route, authorization)
            )

    def arrived(self, repository: Repository, endpoint: Endpoint, digest: AnyDigest) -> None:
        """The blob is here whole, because of that repository alone (rule 3a)."""
        if self._fetch_proves:
            grant = self._grants.find(ANYONE, repository, endpoint, digest, self._clock())
            public = Public.NO if grant is None else self._open_to_all(repository)
            self._catalog.remember(repository, endpoint, [digest], public)

    def forget(self, upstreams: Collection[str]) -> None:
        """These upstreams are others now, or have other credentials: their origins are asked anew."""
        self._grants.forget(upstreams)

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
        is_known = self._origins.is_believed(route.upstream)
        if is_known:
            public = self._open_to_all(route.repository) if client == ANYONE else Public.NO
            self._catalog.remember(route.repository, route.endpoint, [route.digest], public)
        if client == ANYONE:
            self._tell_public(route.repository, [route.digest])
        return self._permit(route, credential, client, found, is_known=is_known)

    def _permit(
        self,
        route: Route,
        credential: Credential,
        client: str,
        found: Descriptor | None = None,
        *,
        is_known: bool = False,
    ) -> Permit:
        """Grant the digest of `route` from now on."""
        until = self._clock() + self._ttl_s
        self._grants.add(client, route.repository, route.endpoint, [route.digest], until)
        private = self._is_private(route.repository, route.endpoint, route.digest)
        return Permit(client, credential, until, found, not (is_known or self._is_known(route)), private)

    def _is_private(self, repository: Repository, endpoint: Endpoint, digest: AnyDigest) -> bool:
        if self._exchange is not Exchange.PUBLIC:
            return False
        if self._origins.upstream(repository.upstream).has_credentials:
            return True
        return self._grants.find(ANYONE, repository, endpoint, digest, self._clock()) is None

    def _tell_public(self, repository: Repository, digests: Sequence[AnyDigest]) -> None:
        """What was private until now may be for everybody."""
        if self._exchange is Exchange.PUBLIC and self._open_to_all(repository) is Public.EVERYWHERE:
            for digest in digests:
                self._on_public(digest)

    def granted_below(self, manifest: Route, permit: Permit, below: Sequence[AnyDigest], endpoint: Endpoint) -> None:
        """The client was given the manifest that `manifest` names by its digest: grant it what the place has of what is
        `below`, at `endpoint`, until `permit` ends, and find out whether anyone may have that.
        """
        repository, now = manifest.repository, self._clock()
        self._grant(repository, permit, endpoint, below)
        anyones = self._grants.find(ANYONE, repository, manifest.endpoint, manifest.digest, now)
        if permit.client != ANYONE and anyones is not None:
            self._grant(repository, permit._replace(client=ANYONE, until=anyones.until), endpoint, below)
        # Where publicness decides what is exchanged, it is asked of each image: a repository's others may differ.
        probed = repository, manifest.digest if self._exchange is Exchange.PUBLIC else None
        if permit.client != ANYONE and now - self._probed.get(probed, float("-inf")) > PROBE_EVERY_S:
            if len(self._probed) >= MAX_PROBED:
                self._probed.clear()
            self._probed[probed] = now
            self._background.start(self._probes.get(repository, lambda: self._probe(manifest, below, endpoint)))

    def vouched(self, repository: Repository, endpoint: Endpoint, digests: Sequence[AnyDigest]) -> None:
        """The operator has brought these digests, as of that place: it has them, and while the origin says nothing
        anyone may have them.
        """
        self._catalog.remember(repository, endpoint, digests, self._open_to_all(repository))
        self._tell_public(repository, digests)

    def is_public(self, repository: Repository, endpoint: Endpoint, digest: AnyDigest) -> bool:
        """Whether anyone may have the digest as of that place, while the origin says nothing."""
        return self._catalog.is_public(repository, endpoint, digest)

    def public_while_silent(self, route: Route, silence: OriginError, *, told_by_hosts: bool = False) -> Permit | None:
        """A permit for the digest of `route` while the origin says nothing: only for a digest that anyone may have, as
        this host has learnt from the origin, or as most hosts say that have (`told_by_hosts`).
        """
        if not told_by_hosts and not self._catalog.is_public(route.repository, route.endpoint, route.digest):
            return None
        self._origins.note(route.upstream, silence)
        return self._permit(route, OWN, ANYONE)

    def _grant(self, repository: Repository, permit: Permit, endpoint: Endpoint, digests: Sequence[AnyDigest]) -> None:
        self._grants.add(permit.client, repository, endpoint, digests, permit.until)
        if permit.client == ANYONE:
            self._catalog.publish(repository, endpoint, digests, self._open_to_all(repository))
            self._tell_public(repository, digests)

    def _open_to_all(self, repository: Repository) -> Public:
        """What a grant to ANYONE means there."""
        return Public.HERE if self._origins.upstream(repository.upstream).has_credentials else Public.EVERYWHERE

    def _is_known(self, route: Route) -> bool:
        return self._catalog.is_known(route.repository, route.endpoint, route.digest)

    def _may_prove(self, route: Route) -> bool:
        """Whether the bytes that are here now, or come, are here because of the route's place alone."""
        return self._fetch_proves and self._is_only_for(route.digest, (route.upstream, route.repository.name))

    async def _ask_as(self, permit: Permit, route: Route, authorization: str | None) -> Permit:
        """The permit for what the holder of `permit` is granted, once the origin has answered for it in that place."""
        if not self._origins.is_believed(route.upstream):
            raise OriginUnusableError(f"{route.digest} is here, and whether {route.repository} has it is not known")
        if permit.client == ANYONE:
            with suppress(OriginRefusedError):
                return await self._look(route, OWN, None)
        return await self._ask(route, authorization)

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
