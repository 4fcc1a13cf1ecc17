"""Prefetching: the layers that a client will ask for next are fetched before it asks for them.

`proxy.core.pulls` decides which layers those are. This file fetches them, with the client's credential. An error here
is only logged: the client gets the layer, or the error, when it asks.
"""

from __future__ import annotations

import time

import structlog

from peer.errors import P2pdError
from peer.oci.digest import AnyDigest, Digest
from peer.oci.manifest import Manifest, ManifestKind
from peer.oci.reference import Repository, Tag
from peer.readers import Readers
from peer.tasks import BackgroundTasks
from proxy.access import Permit
from proxy.core.pulls import Pulls, PullSummary
from proxy.core.tag_names import TagNames
from proxy.known_manifests import KnownManifests
from proxy.origins import Origins
from proxy.request import RequestContext

log = structlog.get_logger("proxy.prefetch")


class Prefetch:
    """Fetches layers ahead of all clients, `depth` layers ahead of each (0: none)."""

    def __init__(
        self,
        origins: Origins,
        readers: Readers,
        manifests: KnownManifests,
        background: BackgroundTasks,
        *,
        depth: int,
    ) -> None:
        self._origins = origins
        self._readers = readers
        self._manifests = manifests
        self._background = background
        self._pulls = Pulls(depth, readers.came)
        self._names = TagNames()
        self._ahead: set[Digest] = set()
        self._draining = False

    def tag_resolved(self, permit: Permit, repository: Repository, tag: Tag, digest: AnyDigest) -> None:
        """The client was told what the tag names."""
        self._names.resolved(permit.client, repository, tag, digest)

    def manifest_served(self, context: RequestContext, permit: Permit, digest: AnyDigest, manifest: Manifest) -> None:
        """The client was sent `manifest`. If that is an image, its layers are likely to be asked for next."""
        route = context.route
        if manifest.kind is not ManifestKind.IMAGE:
            self._names.served(permit.client, route.repository, digest, [child.digest for child in manifest.children])
            return
        separator = "@" if isinstance(route.reference, Digest) else ":"
        self._pulls.manifest_served(
            permit.client,
            digest,
            repository=route.repository,
            image=f"{route.repository}{separator}{route.reference}",
            user_agent=context.user_agent,
            children=tuple(child.digest for child in manifest.children),
            foreign=frozenset(child.digest for child in manifest.children if child.foreign),
            name=self._names.of(permit.client, route.repository, digest),
            now=time.monotonic(),
        )

    def blob_asked(self, context: RequestContext, permit: Permit) -> None:
        """A client's GET of a blob is about to be answered: start to fetch the next layers."""
        repository, digest = context.route.repository, context.route.digest
        layers = self._pulls.blob_asked(permit.client, repository, digest, time.monotonic())
        for layer in [] if self._draining else layers:
            self._fetch_ahead(repository, layer, permit)

    def blob_ended(self, context: RequestContext, permit: Permit) -> None:
        """The answer that `blob_asked` was told of has ended."""
        self._pulls.blob_ended(
            permit.client,
            context.route.repository,
            context.route.digest,
            sent_bytes=context.sent.body_bytes,
            relayed=context.cache == "none",
            failed=context.sent.error is not None,
            now=time.monotonic(),
        )

    def drain(self) -> None:
        """From now on, fetch nothing ahead."""
        self._draining = True

    def is_under_way(self, repository: Repository, digest: AnyDigest) -> bool:
        """Whether a pull that has not ended has this blob."""
        return self._pulls.is_under_way(repository, digest)

    @property
    def under_way(self) -> int:
        """How many pulls have not ended."""
        return self._pulls.under_way

    def ended(self, now: float) -> list[PullSummary]:
        """The pulls that have ended by monotonic time `now`. Each is returned once."""
        return self._pulls.ended(now)

    def _fetch_ahead(self, repository: Repository, layer: AnyDigest, permit: Permit) -> None:
        held = self._readers.peek(layer) if isinstance(layer, Digest) else None
        if isinstance(layer, Digest) and layer not in self._ahead and not (held and held.complete):
            self._ahead.add(layer)
            self._background.start(self._fetch(repository, layer, permit))

    async def _fetch(self, repository: Repository, layer: Digest, permit: Permit) -> None:
        source = self._origins.source(repository, layer, permit.credential, private=permit.private)
        expected = self._manifests.descriptor(repository, layer)
        try:
            async with self._readers.open(layer, source, expected=expected, background=True) as reader:
                size_bytes = reader.blob.size_bytes
                await reader.readable(max(0, size_bytes - 1), size_bytes)
        except P2pdError as error:
            log.info("could not fetch a layer ahead", digest=layer, error=str(error))
        finally:
            self._ahead.discard(layer)
