"""Manifests: the origin says what a tag means; the manifest itself is a blob, with its own media type."""

from __future__ import annotations

from aiohttp import web

from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest
from peer.origin.api import Kind
from proxy.access import Access, Permit
from proxy.blobs import Blobs
from proxy.known_manifests import KnownManifests
from proxy.prefetch import Prefetch
from proxy.request import RequestContext
from proxy.tags import Tags


class Manifests:
    """The endpoint `/v2/<name>/manifests/<reference>`."""

    def __init__(self, access: Access, tags: Tags, blobs: Blobs, manifests: KnownManifests, prefetch: Prefetch) -> None:
        self._access = access
        self._tags = tags
        self._blobs = blobs
        self._manifests = manifests
        self._prefetch = prefetch

    async def answer(self, context: RequestContext) -> web.StreamResponse:
        """Answer GET or HEAD of a manifest by tag or by digest. Raises OriginError, StoreError."""
        route = context.route
        if isinstance(route.reference, AnyDigest):
            permit = await self._access.check(route, context.authorization)
            if context.head:
                found = await self._blobs.describe(context, route.reference, permit, Kind.MANIFEST)
                return context.head_response(found)
            expected = permit.described or self._manifests.descriptor(route.reference)
            return await self._send(context, route.reference, permit, expected)
        accept = ", ".join(context.request.headers.getall("Accept", []))
        found, permit = await self._tags.resolve(route, context.authorization, accept)
        if context.head:
            return context.head_response(found)
        return await self._send(context, found.digest, permit, found)

    async def _send(
        self, context: RequestContext, digest: AnyDigest, permit: Permit, expected: Descriptor | None
    ) -> web.Response:
        """Answer with the whole manifest, and prepare for what the client asks for next: the blobs below it."""
        body, media_type = await self._blobs.manifest(context, digest, permit, expected)
        manifest = self._manifests.read(digest, body, media_type)
        if manifest is not None:
            media_type = manifest.media_type
            below = [child.digest for child in manifest.children]
            self._access.granted_below(context.route.repository, permit, digest, below)
            self._prefetch.manifest_served(context, permit, digest, manifest)
        context.sent.body_bytes = len(body)
        return web.Response(body=body, headers=context.content_headers(Descriptor(media_type, digest, len(body))))
