"""Fetches an image into the store in the background: its manifests, and then its blobs, one after the other.

Rules:
1. It is below everything that a client waits for. While a client waits for a download on this host, none is begun here,
   and one that is under way ends: its leases go to other hosts, what has come of it stays, and it goes on later. A
   client that wants the blob itself takes the download over as it is.
2. The origin is asked as for a client: with the upstream's own credentials, or those that came with the job. A job's
   login grants no client anything.
3. What is here is pinned as soon as it is whole, as far as the share of pins goes (`peer.store.pins`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from msgspec import Struct, structs

from p2pd.preheat.credentials import Credentials
from p2pd.pull.docker_config import Login
from p2pd.pull.platforms import choose_platform
from peer.errors import (
    InvalidNameError,
    ManifestError,
    OriginCorruptError,
    OriginResizedError,
    OriginUnusableError,
    P2pdError,
)
from peer.host import Host
from peer.oci.descriptor import Descriptor, Platform
from peer.oci.digest import AnyDigest, Digest
from peer.oci.manifest import (
    KIND_BY_MEDIA_TYPE,
    MAX_MANIFEST_BYTES,
    Manifest,
    ManifestKind,
    manifest_type,
    parse_manifest,
)
from peer.oci.reference import ImageReference, Repository, parse_image_reference
from peer.origin.api import Credential, Kind
from peer.origin.client import HttpOrigin
from peer.origin_range import OriginSource
from peer.readers import BlobReader, Readers
from proxy.access import Access, Permit
from proxy.catalog import Catalog
from proxy.core.routing import Endpoint, Route
from proxy.origins import Origins, described
from proxy.tags import Tags
from proxy.upstreams import UpstreamOrigin

ACCEPT: Final = ", ".join(KIND_BY_MEDIA_TYPE)
MAX_INDEX_DEPTH: Final = 4
LOOK_EVERY_S: Final = 0.5
"""How often it is looked whether a client waits for something."""


class PreheatError(P2pdError):
    """The image cannot be preheated as it was ordered."""


@dataclass(slots=True)
class Fetched:
    """What has come of the images of one job."""

    sizes: dict[AnyDigest, int] = field(default_factory=dict)
    """The size in bytes of each blob that is known to belong to them."""
    digests: dict[Digest, None] = field(default_factory=dict)
    """The blobs that are held."""
    unpinned: set[Digest] = field(default_factory=set)
    """Those of them that there was no room to pin."""
    fetched_bytes: int = 0
    private: bool = False
    """Some of it must not be announced."""
    roots: dict[ImageReference, Digest] = field(default_factory=dict)
    """The manifest of each image."""

    @property
    def size_bytes(self) -> int:
        return sum(self.sizes.values())

    @property
    def unpinned_bytes(self) -> int:
        return sum(self.sizes[digest] for digest in self.unpinned)


SourceOf = Callable[[AnyDigest, Kind], OriginSource]


class _Place(Struct, frozen=True):
    """How an image is got: from which origin, and what the host may tell of it. `permit` is None for a job's login."""

    route: Route
    root: Descriptor
    source: SourceOf
    permit: Permit | None


class ImagesAhead:
    """On the event loop. `hides_private`: what is private is not for other hosts (a cluster without certificates)."""

    def __init__(
        self,
        host: Host,
        origins: Origins,
        readers: Readers,
        access: Access,
        tags: Tags,
        catalog: Catalog,
        *,
        hides_private: bool,
    ) -> None:
        self._host = host
        self._origins = origins
        self._readers = readers
        self._access = access
        self._tags = tags
        self._catalog = catalog
        self._hides_private = hides_private

    def uses(self, image: str) -> bool:
        """Whether this host was ever told a tag of the image's repository: for its clients, or for a preheat."""
        try:
            return self._catalog.knows_tags(parse_image_reference(image).repository)
        except InvalidNameError:
            return True  # its failure says so

    async def fetch(
        self,
        image: ImageReference,
        platforms: Sequence[Platform] | None,
        credentials: Credentials,
        ttl_s: float,
        fetched: Fetched,
        progress: Callable[[], None],
        *,
        from_hosts: bool = False,
        most_bytes: int = 0,
    ) -> None:
        """Have the image here; of an index those of these platforms (None: all). `fetched` has what has come so far.

        `from_hosts`: other hosts hold it, and no registry is asked whether this host may have it. With `most_bytes` at
        most so many are fetched for the job, none of it in vain, and nothing is evicted for them.

        `progress` is called as it grows. Raises OriginError, StoreError, ManifestError, PreheatError.
        """
        upstream = image.repository.upstream
        if upstream not in self._origins.upstreams and self._origins.others is None:
            raise PreheatError(f"{upstream} is no upstream of this host: add it with --upstream {upstream}=URL")
        async with self._place(image, credentials, from_hosts=from_hosts) as place:
            if isinstance(place.root.digest, Digest):
                fetched.roots[image] = place.root.digest
            blobs: dict[AnyDigest, Descriptor] = {}
            manifests = self._manifests(place, platforms, ttl_s, fetched, evicts=not most_bytes)
            for digest, manifest in [each async for each in manifests]:
                if manifest.kind is ManifestKind.IMAGE:
                    blobs.update((child.digest, child) for child in manifest.children if not child.foreign)
                assert digest in fetched.digests
            wanted = {digest: blob for digest, blob in blobs.items() if digest not in fetched.digests}
            fetched.sizes.update({digest: blob.size_bytes for digest, blob in wanted.items()})
            progress()
            if most_bytes:
                self._check_bound(wanted, most_bytes - fetched.fetched_bytes)
            for each, blob in wanted.items():
                if not isinstance(each, Digest):
                    raise PreheatError(f"{each} is named by another algorithm than SHA-256: it is never kept")
                if most_bytes:
                    self._check_room(each, blob.size_bytes)
                source = place.source(each, Kind.BLOB)
                await self._blob(source, blob, each, fetched, progress)
                await self._prove(place, each)
                self._holds(each, source, blob.size_bytes, fetched)
                await self._keep(each, ttl_s, fetched)
                progress()

    # -- what the image is -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _place(
        self, image: ImageReference, credentials: Credentials, *, from_hosts: bool
    ) -> AsyncIterator[_Place]:
        upstream = image.repository.upstream
        route = Route(Endpoint.MANIFEST, image.repository, image.reference)
        if from_hosts and image.digest is not None and not self._hides_private:
            yield _Place(route, Descriptor("", image.digest, 0), self._as_member(image.repository), None)
            return
        login = credentials.logins.get(upstream)
        if login is None:
            yield await self._as_client(route, image, credentials.bearers.get(upstream))
            return
        origin = self._origin_as(image.repository, login)
        origins = Origins({upstream: UpstreamOrigin(origin, has_credentials=True)})
        try:
            yield await self._as_login(origins, route)
        finally:
            origins.close()

    def _as_member(self, repository: Repository) -> SourceOf:
        """Whatever the swarm lacks is asked of the origin as p2pd itself, which may be refused."""
        credential = Credential(own=True)
        return lambda digest, kind: self._origins.source(repository, digest, credential, kind)

    async def _as_client(self, route: Route, image: ImageReference, authorization: str | None) -> _Place:
        if image.digest is None:
            root, permit = await self._tags.resolve(route, authorization, ACCEPT)
        else:
            permit = await self._access.check(route, authorization, fetches=True)
            root = permit.described or Descriptor("", image.digest, 0)

        def source(digest: AnyDigest, kind: Kind) -> OriginSource:
            return self._origins.source(route.repository, digest, permit.credential, kind, private=permit.private)

        return _Place(route, root, source, permit)

    async def _as_login(self, origins: Origins, route: Route) -> _Place:
        asked = await origins.ask(route, "HEAD", route.origin_path, None, ACCEPT)
        root = described(asked.answer) if asked.answer.status == 200 else None
        if root is None:
            name, status = f"{route.repository}:{route.reference}", asked.answer.status
            raise PreheatError(f"{name}: the registry answered {status} to the login that came with the preheat")

        def source(digest: AnyDigest, kind: Kind) -> OriginSource:
            credential = Credential(own=True)
            return origins.source(route.repository, digest, credential, kind, private=self._hides_private)

        return _Place(route, root, source, None)

    def _origin_as(self, repository: Repository, login: Login) -> HttpOrigin:
        """The origin of an upstream, as another user."""
        origin = self._origins.upstream(repository.upstream).origin
        if not isinstance(origin, HttpOrigin):
            raise PreheatError(f"{repository.upstream} is a directory: it takes no login")
        settings = replace(origin.upstream, username=login.username, password=login.password, password_file=None)
        return HttpOrigin(settings)

    async def _manifests(
        self, place: _Place, platforms: Sequence[Platform] | None, ttl_s: float, fetched: Fetched, *, evicts: bool
    ) -> AsyncIterator[tuple[Digest, Manifest]]:
        """The manifests of the image, from the one that was named down."""
        left = [(place.root, 0)]
        while left:
            said, depth = left.pop(0)
            if depth > MAX_INDEX_DEPTH:
                raise ManifestError(f"{place.route.repository}: indexes within indexes, more than {MAX_INDEX_DEPTH}")
            if not isinstance(said.digest, Digest):
                raise PreheatError(f"{said.digest} is named by another algorithm than SHA-256: it is never kept")
            if not evicts:
                self._check_room(said.digest, said.size_bytes or MAX_MANIFEST_BYTES)
            body, media_type = await self._manifest(place.source(said.digest, Kind.MANIFEST), said, fetched)
            manifest = parse_manifest(body, manifest_type(body, said.media_type or media_type))
            self._grant_below(place, said.digest, manifest)
            await self._keep(said.digest, ttl_s, fetched)
            yield said.digest, manifest
            if manifest.kind is ManifestKind.INDEX:
                left += [(child, depth + 1) for child in _chosen(manifest, platforms, place.route)]

    def _grant_below(self, place: _Place, digest: Digest, manifest: Manifest) -> None:
        """What was learnt of a public image is known to the mirror, too, as after a client's pull."""
        if place.permit is not None:
            below = [child.digest for child in manifest.children if not child.foreign]
            endpoint = Endpoint.BLOB if manifest.kind is ManifestKind.IMAGE else Endpoint.MANIFEST
            self._access.granted_below(structs.replace(place.route, reference=digest), place.permit, below, endpoint)

    async def _manifest(self, source: OriginSource, said: Descriptor, fetched: Fetched) -> tuple[bytes, str]:
        assert isinstance(said.digest, Digest)
        for expected in (said, None):  # its length is what GET says, if another was told before
            try:
                async with self._open(said.digest, source, expected) as reader:
                    size_bytes = reader.blob.size_bytes
                    if size_bytes > MAX_MANIFEST_BYTES:
                        raise OriginCorruptError(f"{said.digest} has {size_bytes} bytes, too many for a manifest")
                    await reader.readable(max(0, size_bytes - 1), size_bytes)
                    body = reader.blob.read(0, size_bytes)
                    if not reader.from_store:
                        fetched.fetched_bytes += size_bytes
                    self._holds(said.digest, source, size_bytes, fetched)
                    return body, reader.blob.header.media_type
            except OriginResizedError:
                if expected is None:
                    raise
        raise OriginUnusableError(f"{said.digest} could not be read")

    def _open(
        self, digest: Digest, source: OriginSource, expected: Descriptor | None
    ) -> AbstractAsyncContextManager[BlobReader]:
        return self._readers.open(digest, source, expected=expected, background=True, preheats=True)

    def _check_bound(self, wanted: Mapping[AnyDigest, Descriptor], left_bytes: int) -> None:
        """Raise PreheatError if more is missing of these blobs. One that is here in part counts as a whole."""
        missing = sum(
            blob.size_bytes
            for digest, blob in wanted.items()
            if not isinstance(digest, Digest) or self._readers.whole_length(digest) is None
        )
        if missing > left_bytes:
            raise PreheatError(f"it lacks {missing} bytes, and may fetch {max(0, left_bytes)}")

    def _check_room(self, digest: Digest, size_bytes: int) -> None:
        """Raise PreheatError, or StoreError, if the blob would take the room of another."""
        if self._readers.peek(digest) is None and not self._host.store.fits(size_bytes):
            raise PreheatError("there is no room for it without evicting what is held")

    # -- its blobs -------------------------------------------------------------------------------------------------

    async def _blob(
        self,
        source: OriginSource,
        expected: Descriptor,
        digest: Digest,
        fetched: Fetched,
        progress: Callable[[], None],
    ) -> None:
        """Have a blob whole, in as many turns as clients leave. Raises OriginError, StoreError."""
        if self._readers.whole_length(digest) is not None:
            return
        used = False
        while self._readers.whole_length(digest) is None:
            while self._host.serves_clients:  # noqa: ASYNC110 # any of many downloads may end
                await asyncio.sleep(LOOK_EVERY_S)
            held = self._readers.peek(digest)
            before = 0 if held is None else held.held_bytes
            try:
                async with self._open(digest, source, expected) as reader:
                    position, size_bytes = 0, reader.blob.size_bytes
                    arrival = self._host.arrivals.get(digest.raw)
                    while position < size_bytes and not self._host.serves_clients:
                        position = await more_of(reader, position, size_bytes, self._host.on_client)
                        progress()
                    used = used or (arrival is not None and arrival.had_client)
            finally:
                held = self._readers.peek(digest)
                fetched.fetched_bytes += max(0, (0 if held is None else held.held_bytes) - before)
                if self._readers.whole_length(digest) is None:  # else the download is about to hear that it has all
                    self._host.give_way(digest.raw)
        self._host.store.preheated(digest, used=used)

    async def _prove(self, place: _Place, digest: Digest) -> None:
        """Have the origin say that the place has a blob which was here, in part or whole, for reasons unknown.

        Without that, other hosts are not given it where only public content is exchanged (`proxy.access`, rule 6).
        """
        if place.permit is not None and not place.permit.private and not self._host.may_share(digest):
            with suppress(P2pdError):
                await self._access.check(structs.replace(place.route, endpoint=Endpoint.BLOB, reference=digest), None)

    def _holds(self, digest: Digest, source: OriginSource, size_bytes: int, fetched: Fetched) -> None:
        fetched.sizes[digest], fetched.digests[digest] = size_bytes, None
        fetched.private = fetched.private or source.private or not self._host.may_share(digest)

    async def _keep(self, digest: Digest, ttl_s: float, fetched: Fetched) -> None:
        if ttl_s and not await asyncio.to_thread(partial(self._host.store.keep, digest, ttl_s)):
            fetched.unpinned.add(digest)


async def more_of(
    reader: BlobReader,
    position: int,
    stop: int,
    on_client: set[Callable[[], None]],
    *,
    within_s: float = LOOK_EVERY_S,
) -> int:
    """How far the blob is here once more of it has come, or a client, or after `within_s`."""
    clock = asyncio.get_running_loop().time
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s) as waits:

            def stop_waiting() -> None:
                if not waits.expired():
                    waits.reschedule(clock())

            on_client.add(stop_waiting)
            try:
                return await reader.readable(position, stop)
            finally:
                on_client.discard(stop_waiting)
    return position


def _chosen(index: Manifest, platforms: Sequence[Platform] | None, route: Route) -> Iterator[Descriptor]:
    """The manifests of an index for these platforms. Raises PreheatError if there is none for one of them."""
    if platforms is None:
        yield from index.children
        return
    chosen: dict[AnyDigest, Descriptor] = {}
    for platform in platforms:
        found = choose_platform(index.children, platform)
        if found is None:
            raise PreheatError(f"{route.repository}:{route.reference} has no image for {platform}")
        chosen[found.digest] = found
    yield from chosen.values()
