"""Manifests: the origin says what a tag means; the manifest itself is a blob, with its own media type."""

from __future__ import annotations

from aiohttp import web
from msgspec.structs import replace

from peer.errors import ManifestError
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest
from peer.oci.manifest import ManifestKind
from peer.oci.reference import Tag
from peer.origin.api import Kind
from proxy.access import Access, Permit
from proxy.blobs import Blobs
from proxy.core.routing import Endpoint
from proxy.known_manifests import KnownManifests
from proxy.prefetch import Prefetch
from proxy.request import RequestContext
from proxy.tags import Tags
from proxy.whole_response import WholeResponse


class Manifests:
    """The endpoint `/v2/<name>/manifests/<reference>`."""

    def __init__(self, access: Access, tags: Tags, blobs: Blobs, manifests: KnownManifests, prefetch: Prefetch) -> None:
        self._access = access
        self._tags = tags
        self._blobs = blobs
        self._manifests = manifests
        self._prefetch = prefetch

    async def answer(self, context: RequestContext) -> web.StreamResponse:
        """Answer GET or HEAD of a manifest by tag or by digest. Raises OriginError, StoreError, ManifestError (the
        content is something else)."""
        route = context.route
        if isinstance(route.reference, AnyDigest):
            digest, fetches = route.reference, not (context.head or context.not_modified(route.reference))
            permit = await self._access.check(route, context.authorization, fetches=fetches)
            expected = permit.described or self._manifests.descriptor(route.repository, digest)
        else:
            accept = ", ".join(context.request.headers.getall("Accept", []))
            expected, permit = await self._tags.resolve(route, context.authorization, accept)
            digest = expected.digest
            self._prefetch.tag_resolved(permit, route.repository, Tag(route.reference), digest)
        try:
            if context.head or context.not_modified(digest):
                found = await self._blobs.describe(context, digest, permit._replace(described=expected), Kind.MANIFEST)
                return context.head_response(found)
            return await self._send(context, digest, permit, expected)
        except ManifestError:
            self._tags.forget(route.repository, digest)
            raise

    async def _send(
        self, context: RequestContext, digest: AnyDigest, permit: Permit, expected: Descriptor | None
    ) -> WholeResponse:
        """Answer with the whole manifest, and prepare for what the client asks for next: the blobs below it."""
        body, media_type = await self._blobs.manifest(context, digest, permit, expected)
        manifest = self._manifests.read(context.route.repository, digest, body, media_type)
        if manifest is not None:
            # A repository that has a manifest need not have its foreign layers: registries do not look for them.
            below = [child.digest for child in manifest.children if not child.foreign]
            endpoint = Endpoint.BLOB if manifest.kind is ManifestKind.IMAGE else Endpoint.MANIFEST
            self._access.granted_below(replace(context.route, reference=digest), permit, below, endpoint)
            self._prefetch.manifest_served(context, permit, digest, manifest)
        context.sent.body_bytes = len(body)
        found = Descriptor(self._manifests.media_type(context.route.repository, digest), digest, len(body))
        return WholeResponse(context.content_headers(found), body)
