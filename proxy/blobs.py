"""Blobs: served from the store, or while they arrive from other hosts and from their origin.

A manifest is stored and fetched as a blob, so `open` and `describe` serve both. `proxy.manifests` is above this file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import structlog
from aiohttp import web

from peer.errors import OriginCorruptError, OriginError, OriginResizedError, OriginTimeoutError
from peer.oci.descriptor import OCTET_STREAM, Descriptor
from peer.oci.digest import Digest
from peer.oci.manifest import MAX_MANIFEST_BYTES
from peer.origin.api import Kind
from peer.origin_range import OriginSource
from peer.readers import BlobReader, Confirm, Readers
from proxy.access import Access, Permit
from proxy.blob_response import send_blob
from proxy.core.conditional import range_applies
from proxy.core.origin_answers import Word, word_of_error
from proxy.core.ranges import parse_ranges
from proxy.known_manifests import KnownManifests
from proxy.origins import Origins
from proxy.prefetch import Prefetch
from proxy.request import RequestContext

log = structlog.get_logger("proxy.blobs")


class Blobs:
    """The endpoint `/v2/<name>/blobs/<digest>`, and the ways to content that manifests share."""

    def __init__(
        self, origins: Origins, readers: Readers, access: Access, manifests: KnownManifests, prefetch: Prefetch
    ) -> None:
        self._origins = origins
        self._readers = readers
        self._access = access
        self._manifests = manifests
        self._prefetch = prefetch

    async def answer(self, context: RequestContext) -> web.StreamResponse:
        """Answer GET or HEAD of a blob. Raises OriginError, StoreError."""
        digest = context.route.digest
        describes = context.head or context.not_modified(digest)
        permit = await self._access.check(context.route, context.authorization, fetches=not describes)
        if describes:
            return context.head_response(await self.describe(context, digest, permit, Kind.BLOB))
        asked = context.request.headers
        ranges = parse_ranges(asked.get("Range") if range_applies(asked.get("If-Range"), digest) else None)
        expected = self._manifests.descriptor(digest) or permit.described
        at = ranges.first_bytes(expected.size_bytes) if expected else (0, None)
        with self._prefetch.of_blob(context, permit):
            async with self.open(context, digest, permit, Kind.BLOB, expected, at) as reader:
                headers = context.content_headers(Descriptor(OCTET_STREAM, digest, reader.blob.size_bytes))
                response = await send_blob(context.request, reader, ranges, headers, context.sent)
        if context.sent.error is not None:
            log.warning("cut a client's blob short", digest=digest, error=str(context.sent.error))
        return response

    @asynccontextmanager
    async def open(
        self,
        context: RequestContext,
        digest: Digest,
        permit: Permit,
        kind: Kind,
        expected: Descriptor | None,
        at: tuple[int, int | None] = (0, None),
    ) -> AsyncIterator[BlobReader]:
        """A reader of `digest`, within the time that a client waits for headers. A manifest is whole by then.

        `expected` and `at` as for `Readers.open`. Raises OriginError, StoreError.
        """
        repository, within_s = context.route.repository, self._origins.answer_within_s
        source = self._origins.source(repository, digest, permit.credential, kind)
        of_digest = replace(context.route, reference=digest)
        confirm = partial(self._access.confirm, permit, of_digest, context.authorization)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(within_s):
                    if kind is Kind.MANIFEST:
                        reader = await self._open_manifest(stack, digest, source, expected, confirm)
                    else:
                        opened = self._readers.open(digest, source, expected=expected, at=at, confirm=confirm)
                        reader = await stack.enter_async_context(opened)
                    await confirm()  # before the headers; the reader asks again before each part of the body
            except TimeoutError:
                raise OriginTimeoutError(f"{repository.upstream} did not send {digest} within {within_s:g} s") from None
            context.cache = "hit" if reader.from_store else "miss"
            yield reader

    async def _open_manifest(
        self,
        stack: AsyncExitStack,
        digest: Digest,
        source: OriginSource,
        expected: Descriptor | None,
        confirm: Confirm,
    ) -> BlobReader:
        """A reader of a manifest that is whole. Its length is what GET says, if HEAD said another."""
        for said in (expected, None):
            try:
                reader = await stack.enter_async_context(
                    self._readers.open(digest, source, expected=said, confirm=confirm)
                )
                await _whole_manifest(reader)
            except OriginResizedError:
                if said is None:
                    raise
            else:
                return reader
        raise AssertionError("the last time returns or raises")

    async def describe(self, context: RequestContext, digest: Digest, permit: Permit, kind: Kind) -> Descriptor:
        """The descriptor of `digest`: of the stored blob, else by the origin's headers, else of the other hosts' blob.

        Raises OriginError, StoreError, ManifestError (what is held is no manifest).
        """
        held = self._readers.peek(digest)
        if held is not None and held.complete:
            if kind is Kind.MANIFEST and not self._manifests.media_type(digest):
                return await self._describe_by_reading(context, digest, permit, kind)
            context.cache = "hit"
            return Descriptor(self._type_of(digest, kind), digest, held.size_bytes)
        found = (self._manifests.descriptor(digest) if kind is Kind.BLOB else None) or permit.described
        if found is None:
            route = replace(context.route, reference=digest)
            try:
                found = await self._origins.look(route, permit.credential)
            except OriginError as error:
                if word_of_error(error) is not Word.SAYS_NOTHING:
                    raise
                return await self._describe_by_reading(context, digest, permit, kind)
        context.cache = "miss"
        return found if kind is Kind.MANIFEST else replace(found, media_type=OCTET_STREAM)

    async def _describe_by_reading(
        self, context: RequestContext, digest: Digest, permit: Permit, kind: Kind
    ) -> Descriptor:
        """The descriptor of what is held here, or by other hosts. The GET that follows joins a download that begins."""
        async with self.open(context, digest, permit, kind, self._manifests.descriptor(digest)) as reader:
            blob = reader.blob
            if kind is Kind.MANIFEST:
                self._manifests.read(digest, blob.read(0, blob.size_bytes), blob.header.media_type)
            return Descriptor(self._type_of(digest, kind), digest, blob.size_bytes)

    def _type_of(self, digest: Digest, kind: Kind) -> str:
        return OCTET_STREAM if kind is Kind.BLOB else self._manifests.media_type(digest)


async def _whole_manifest(reader: BlobReader) -> None:
    size_bytes = reader.blob.size_bytes
    if size_bytes > MAX_MANIFEST_BYTES:
        raise OriginCorruptError(f"{reader.blob.digest} has {size_bytes} bytes, too many for a manifest")
    await reader.readable(max(0, size_bytes - 1), size_bytes)
