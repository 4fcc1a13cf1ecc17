"""Blobs: served from the store, or while they arrive from other hosts and from their origin.

A manifest is stored and fetched as a blob, so `open` and `describe` serve both. `proxy.manifests` is above this file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import structlog
from aiohttp import web
from msgspec import structs

from peer.errors import (
    OriginCorruptError,
    OriginError,
    OriginResizedError,
    OriginTimeoutError,
    OriginUnreachableError,
    P2pdError,
    StoreError,
    StoreFullError,
)
from peer.oci.descriptor import OCTET_STREAM, Descriptor
from peer.oci.digest import AnyDigest, Digest
from peer.oci.manifest import MAX_MANIFEST_BYTES
from peer.origin.api import Kind
from peer.origin_range import OriginSource
from peer.readers import BlobReader, Confirm, Readers
from proxy.access import Access, Permit
from proxy.blob_response import INLINE_BYTES, Begin, BlobSender, Content
from proxy.core.conditional import range_applies
from proxy.core.lazy_reads import LazyReads
from proxy.core.origin_answers import Word, word_of_error
from proxy.core.ranges import ByteSpan, parse_ranges
from proxy.core.reasons import Relayed
from proxy.known_manifests import KnownManifests
from proxy.origins import Origins
from proxy.prefetch import Prefetch
from proxy.relay import Relay
from proxy.request import RequestContext
from proxy.whole_response import WholeResponse
from scheduler.protocol.geometry import MAX_BLOB_BYTES

log = structlog.get_logger("proxy.blobs")


class Blobs:
    """The endpoint `/v2/<name>/blobs/<digest>`, and the ways to content that manifests share.

    How long a client waits: for a blob, and for a manifest in an index that was served here, as long as the download
    goes on. Some runtimes take a whole image from where its manifest came from: they have nowhere else to go. A
    download ends by itself: its origin refuses it or answers too late (`peer.origin.upstream`), or nobody is left to
    ask. After `headers_within_s` the headers are sent, if a manifest has told the length. Any other manifest comes
    within `answer_within_s`, or the client is sent to the registry.
    """

    def __init__(
        self, origins: Origins, readers: Readers, access: Access, manifests: KnownManifests, prefetch: Prefetch
    ) -> None:
        self._origins = origins
        self._readers = readers
        self._access = access
        self._manifests = manifests
        self._prefetch = prefetch
        self._relay = Relay(origins.headers_within_s)
        self._lazy = LazyReads()

    async def answer(self, context: RequestContext) -> web.StreamResponse:
        """Answer GET or HEAD of a blob. Raises OriginError, StoreError."""
        digest = context.route.digest
        describes = context.head or context.not_modified(digest)
        permit = await self._access.check(context.route, context.authorization, fetches=not describes)
        if describes:
            return context.head_response(await self.describe(context, digest, permit, Kind.BLOB))
        asked = context.request.headers
        ranges = parse_ranges(asked.get("Range") if range_applies(asked.get("If-Range"), digest) else None)
        expected = self._manifests.descriptor(context.route.repository, digest) or permit.described
        headers = context.content_headers(Descriptor(OCTET_STREAM, digest, 0))
        content = Content(context.request, ranges, headers, context.sent)
        if ranges.are_closed and (answer := await self._answer_lazy_read(context, permit, content, expected)):
            return answer
        whole = False
        self._prefetch.blob_asked(context, permit)
        try:
            response = await self._answer(context, permit, content, expected)
            whole = context.sent.error is None
        except P2pdError as error:
            response = content.cut(error)
        finally:
            self._prefetch.blob_ended(context, permit)
            if not whole:
                self._lazy.ended_early(digest)
        if context.sent.error is not None:
            log.warning("cut a client's blob short", digest=digest, error=str(context.sent.error))
        return response

    async def _answer(
        self, context: RequestContext, permit: Permit, content: Content, expected: Descriptor | None
    ) -> web.StreamResponse:
        """From the store, or while it arrives; or relayed, if the store cannot take it."""
        digest = context.route.digest
        if not isinstance(digest, Digest):
            context.relayed = Relayed.ALGORITHM
            return await self._relayed(context, permit, content, expected, f"it is named by its {digest.algorithm}")
        if expected is not None and expected.size_bytes > MAX_BLOB_BYTES:
            context.relayed = Relayed.TOO_LARGE
            return await self._relayed(context, permit, content, expected, "it is too large to keep")
        try:
            if answer := await self._small(context, digest, permit, content):
                return answer
            async with self._opened_in_time(context, digest, permit, content, expected) as reader:
                sender = BlobSender(content, reader, partial(self._go_on, context, permit, reader))
                return await sender.answer()
        except StoreError as error:
            context.relayed = Relayed.NO_ROOM if isinstance(error, StoreFullError) else Relayed.STORE
            return await self._relayed(context, permit, content, expected, str(error))

    async def _small(
        self, context: RequestContext, digest: Digest, permit: Permit, content: Content
    ) -> WholeResponse | None:
        """The answer in one `write`, if the bytes are few, and held. Raises OriginError, StoreError."""
        size_bytes = self._readers.whole_length(digest)
        span = None if size_bytes is None else content.small_span(size_bytes)
        body = None if span is None else await self._read_held(context, digest, permit, span)
        if size_bytes is None or span is None or body is None:
            return None
        return content.in_one_write(body, span, size_bytes)

    async def _read_held(self, context: RequestContext, digest: Digest, permit: Permit, span: ByteSpan) -> bytes | None:
        """The bytes of a short span, if the blob is held whole. Raises OriginError, StoreError."""
        body = await self._readers.read(digest, span.start, span.stop)
        if body is not None:
            await self._confirmation(context, digest, permit)()
            context.cache = "hit"
        return body

    @asynccontextmanager
    async def _opened_in_time(
        self,
        context: RequestContext,
        digest: Digest,
        permit: Permit,
        content: Content,
        expected: Descriptor | None,
    ) -> AsyncIterator[BlobReader]:
        """A reader of the blob. If its first byte is late, the headers of `content` are sent before."""
        source = self._source(context, digest, permit)
        at = content.ranges.first_bytes(expected.size_bytes) if expected else (0, None)
        confirm = self._confirmation(context, digest, permit)
        opened = partial(self._readers.open, digest, source, expected=expected, at=at, confirm=confirm)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._origins.headers_within_s if expected else None):
                    reader = await stack.enter_async_context(opened())
            except TimeoutError:
                assert expected is not None
                await content.begin(expected.size_bytes)
                reader = await stack.enter_async_context(opened())
            await confirm()  # before the headers; the reader asks again before each part of the body
            context.cache = "hit" if reader.from_store else "miss"
            yield reader

    # -- relayed ---------------------------------------------------------------------------------------------------

    async def _relayed(
        self, context: RequestContext, permit: Permit, content: Content, expected: Descriptor | None, reason: str
    ) -> web.StreamResponse:
        """Pass the blob on from its origin, since the store cannot have it. Raises OriginError."""
        digest = context.route.digest
        if expected is None or not expected.size_bytes:
            expected = await self._look(context, digest, permit)
        log.info("relaying a blob, it is not kept", digest=digest, reason=reason)
        context.cache = "none"
        source = self._source(context, digest, permit)
        return await content.send(expected.size_bytes, self._relay.sender(source, expected.size_bytes, context.sent))

    async def _go_on(
        self, context: RequestContext, permit: Permit, reader: BlobReader, begin: Begin, rest: ByteSpan
    ) -> None:
        """The store has failed in the middle of an answer: relay the rest. Raises OriginError, StoreError."""
        blob, context.relayed = reader.blob, Relayed.STORE
        log.warning("the store failed while a client was served, the rest is relayed", digest=blob.digest)
        source = self._source(context, blob.digest, permit)
        await self._relay.sender(source, blob.size_bytes, context.sent, begun=blob)(begin, rest)

    async def _answer_lazy_read(
        self, context: RequestContext, permit: Permit, content: Content, expected: Descriptor | None
    ) -> web.StreamResponse | None:
        """Relay what a lazy snapshotter asks for of a layer that is not here. None: it is no lazy read."""
        digest = context.route.digest
        if expected is None or not expected.size_bytes:
            return None
        spans = content.ranges.spans_or_none(expected.size_bytes) or []
        if isinstance(digest, Digest) and self._readers.holds(digest, [(each.start, each.stop) for each in spans]):
            return None
        if not self._lazy.take(digest, content.ranges, expected.size_bytes):
            return None
        context.relayed = Relayed.LAZY_READ
        log.debug("relaying a lazy read", digest=digest, range=context.request.headers.get("Range"))
        source = self._source(context, digest, permit)
        sender = self._relay.sender(source, expected.size_bytes, context.sent, verified=False)
        try:
            return await content.send(expected.size_bytes, sender)
        except OriginUnreachableError:  # other hosts may have it
            context.relayed = None
            return None

    # -- for manifests too -----------------------------------------------------------------------------------------

    async def manifest(
        self, context: RequestContext, digest: AnyDigest, permit: Permit, expected: Descriptor | None
    ) -> tuple[bytes, str]:
        """A manifest, whole, and its media type as the origin gave it. Raises OriginError."""
        repository = context.route.repository
        patience_s = None if self._manifests.descriptor(repository, digest) else self._origins.answer_within_s
        source = self._origins.source(repository, digest, permit.credential, Kind.MANIFEST, private=permit.private)
        try:
            async with asyncio.timeout(patience_s):
                if isinstance(digest, Digest):
                    with suppress(StoreError):
                        return await self._read_manifest(context, digest, permit, source, expected)
                context.cache = "none"
                return await self._relay.whole(source, MAX_MANIFEST_BYTES)
        except TimeoutError:
            raise OriginTimeoutError(f"{repository.upstream} did not send {digest} within {patience_s:g} s") from None

    async def _read_manifest(
        self,
        context: RequestContext,
        digest: Digest,
        permit: Permit,
        source: OriginSource,
        expected: Descriptor | None,
    ) -> tuple[bytes, str]:
        """A manifest that the store keeps. Its length is what GET says, if HEAD said another."""
        held_bytes = self._readers.whole_length(digest)
        media_type = (expected and expected.media_type) or self._type_of(context, digest, Kind.MANIFEST)
        if held_bytes is not None and held_bytes <= INLINE_BYTES and media_type:
            body = await self._read_held(context, digest, permit, ByteSpan(0, held_bytes))
            if body is not None:
                return body, media_type
        confirm = self._confirmation(context, digest, permit)
        for said in (expected, None):
            try:
                async with self._readers.open(digest, source, expected=said, confirm=confirm) as reader:
                    context.cache = "hit" if reader.from_store else "miss"
                    told = expected.media_type if expected else ""  # there; the store has another place's word
                    return await _whole_manifest(reader), told or reader.blob.header.media_type
            except OriginResizedError:
                if said is None:
                    raise
        raise AssertionError("the last time returns or raises")

    async def describe(self, context: RequestContext, digest: AnyDigest, permit: Permit, kind: Kind) -> Descriptor:
        """The descriptor of `digest`: of the stored blob, else by the origin's headers, else of the other hosts' blob.

        Raises OriginError, StoreError, ManifestError (what is held is no manifest).
        """
        held_bytes = self._readers.whole_length(digest)
        if held_bytes is not None and isinstance(digest, Digest):
            media_type = self._type_of(context, digest, kind)
            if not media_type:
                return await self._describe_by_reading(context, digest, permit, kind)
            context.cache = "hit"
            return Descriptor(media_type, digest, held_bytes)
        found = self._manifests.descriptor(context.route.repository, digest) if kind is Kind.BLOB else None
        try:
            found = found or await self._look(context, digest, permit)
        except OriginError as error:
            if word_of_error(error) is not Word.SAYS_NOTHING or not isinstance(digest, Digest):
                raise
            return await self._describe_by_reading(context, digest, permit, kind)
        context.cache = "miss"
        return found if kind is Kind.MANIFEST else replace(found, media_type=OCTET_STREAM)

    async def _look(self, context: RequestContext, digest: AnyDigest, permit: Permit) -> Descriptor:
        """What the origin says, or has just said. Raises OriginError."""
        return permit.described or await self._origins.look(
            structs.replace(context.route, reference=digest), permit.credential
        )

    async def _describe_by_reading(
        self, context: RequestContext, digest: Digest, permit: Permit, kind: Kind
    ) -> Descriptor:
        """The descriptor of what is held here, or by other hosts. The GET that follows joins a download that begins."""
        expected = self._manifests.descriptor(context.route.repository, digest)
        if kind is Kind.MANIFEST:
            body, media_type = await self.manifest(context, digest, permit, expected)
            self._manifests.read(context.route.repository, digest, body, media_type)
            return Descriptor(self._type_of(context, digest, kind), digest, len(body))
        source, within_s = self._source(context, digest, permit), self._origins.answer_within_s
        try:
            async with asyncio.timeout(within_s), self._readers.open(digest, source, expected=expected) as reader:
                context.cache = "hit" if reader.from_store else "miss"
                return Descriptor(OCTET_STREAM, digest, reader.blob.size_bytes)
        except TimeoutError:
            raise OriginTimeoutError(f"nobody sent {digest} within {within_s:g} s") from None

    def _confirmation(self, context: RequestContext, digest: AnyDigest, permit: Permit) -> Confirm:
        """Says whether the client may have the bytes that are here (`Access.confirm`)."""
        route = context.route
        of_digest = route if route.reference == digest else structs.replace(route, reference=digest)
        return partial(self._access.confirm, permit, of_digest, context.authorization)

    def _source(self, context: RequestContext, digest: AnyDigest, permit: Permit) -> OriginSource:
        return self._origins.source(context.route.repository, digest, permit.credential, private=permit.private)

    def _type_of(self, context: RequestContext, digest: AnyDigest, kind: Kind) -> str:
        return OCTET_STREAM if kind is Kind.BLOB else self._manifests.media_type(context.route.repository, digest)


async def _whole_manifest(reader: BlobReader) -> bytes:
    size_bytes = reader.blob.size_bytes
    if size_bytes > MAX_MANIFEST_BYTES:
        raise OriginCorruptError(f"{reader.blob.digest} has {size_bytes} bytes, too many for a manifest")
    await reader.readable(max(0, size_bytes - 1), size_bytes)
    return reader.blob.read(0, size_bytes)
