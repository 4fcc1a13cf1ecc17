"""Takes the images of an archive (`p2pd.site.archive`) into the store of a node that runs.

Rules:
1. A blob comes by a download whose only source is the archive: it is hashed before anything of it counts as whole, a
   client that wants it meanwhile waits for it, and what is held already is not read again.
2. Only what the named manifests lead to is read. An image has its name once all of it is here.
   Whoever writes a manifest may name any digest. So what is here because of another place, and is not known to be for
   anyone as of the image's, is to be in the archive all the same, and is hashed there: else an archive would open what
   only its digest was known of.
3. The operator who imports an image vouches for it: while its origin says nothing, the tag means what was imported, and
   whoever reaches the mirror may have it (`proxy.access`, `proxy.tags`). The origin's own word counts as soon as there
   is one.
4. What was imported is pinned, as what was preheated. It takes no room from what clients used in the last minutes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from p2pd.config.preheat_rules import PreheatRule
from p2pd.config.values import parse_duration
from p2pd.site.archive import ArchiveOrigin, listing_of, open_archive
from peer.errors import InvalidNameError, ManifestError, OriginError, OriginRefusedError, P2pdError
from peer.host import Host
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest, Digest
from peer.oci.layout_index import Listing
from peer.oci.manifest import MAX_MANIFEST_BYTES, Manifest, ManifestKind, parse_manifest
from peer.oci.reference import ImageReference, parse_image_reference
from peer.origin.api import ContentRef, Credential, Kind
from peer.origin_range import OriginSource
from peer.readers import Readers
from proxy.access import Access
from proxy.core.routing import Endpoint
from proxy.origins import Origins
from proxy.tags import Tags

NAMES: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
"""Annotations that may have an image's full name."""

SETTLES_WITHIN_S: Final = 10.0
LOOK_EVERY_S: Final = 0.01
MIB: Final = 1 << 20


class SiteError(P2pdError):
    """An archive, or one of its images, cannot be taken in."""


@dataclass(slots=True)
class Imported:
    """What came of one image. `error` is "" if all of it is here."""

    image: str
    digest: str = ""
    blobs: int = 0
    size_bytes: int = 0
    new_bytes: int = 0
    unpinned_bytes: int = 0
    error: str = ""


class SiteImport:
    """On the event loop."""

    def __init__(self, host: Host, origins: Origins, readers: Readers, access: Access, tags: Tags) -> None:
        self._host = host
        self._origins = origins
        self._readers = readers
        self._access = access
        self._tags = tags

    async def run(self, path: Path, images: Sequence[str], keep: str, rules: Sequence[PreheatRule]) -> list[Imported]:
        """Take in these images of the archive at `path` (none: all). Each is pinned for as long as the first rule says
        that matches it, else for `keep`.

        Raises SiteError if there is no archive that can be read, ConfigError for a `keep` that is no duration.
        """
        keep_s = parse_duration(keep)
        try:
            archive = await asyncio.to_thread(open_archive, path)
        except (OSError, ManifestError) as error:
            raise SiteError(_reason(path, error)) from None
        try:
            listing = await asyncio.to_thread(listing_of, archive)
            named = _named(listing, images)
            origin = ArchiveOrigin(archive)
            return [
                await self._image(image, root, origin, _keep_s(image, rules, keep_s)) for image, root in named.items()
            ]
        except (OSError, ManifestError) as error:
            raise SiteError(_reason(path, error)) from None
        finally:
            archive.close()

    async def _image(self, image: ImageReference, root: Descriptor, origin: ArchiveOrigin, keep_s: float) -> Imported:
        report = Imported(str(image), str(root.digest))
        try:
            await self._take_in(image, root, origin, keep_s, report)
        except P2pdError as error:
            report.error = str(error)
        return report

    async def _take_in(
        self, image: ImageReference, root: Descriptor, origin: ArchiveOrigin, keep_s: float, report: Imported
    ) -> None:
        upstream = image.repository.upstream
        if upstream not in self._origins.upstreams and self._origins.others is None:
            raise SiteError(f"{upstream} is no upstream of this node: add it with --upstream {upstream}=URL")
        manifests, blobs, left = dict[Digest, Descriptor](), dict[Digest, Descriptor](), [root]
        while left:
            said = left.pop()
            digest = _digest(said)
            if digest in manifests:
                continue
            manifest = await self._manifest(image, said, origin, report)
            manifests[digest] = said
            children = [child for child in manifest.children if not child.foreign]
            if manifest.kind is ManifestKind.INDEX:
                left += children
            else:
                blobs.update((_digest(child), child) for child in children)
        for each in blobs.values():
            await self._fetch(image, each, Kind.BLOB, origin, report)
        self._access.vouched(image.repository, Endpoint.BLOB, list(blobs))
        self._access.vouched(image.repository, Endpoint.MANIFEST, list(manifests))
        for held in (*manifests, *blobs):
            await self._keep(held, keep_s, report)
        if image.tag is not None:
            self._tags.vouched(image.repository, image.tag, root)

    async def _manifest(
        self, image: ImageReference, said: Descriptor, origin: ArchiveOrigin, report: Imported
    ) -> Manifest:
        if said.size_bytes > MAX_MANIFEST_BYTES:
            raise SiteError(f"{said.digest} has {said.size_bytes} bytes, too many for a manifest")
        return parse_manifest(await self._fetch(image, said, Kind.MANIFEST, origin, report), said.media_type)

    async def _fetch(
        self, image: ImageReference, said: Descriptor, kind: Kind, origin: ArchiveOrigin, report: Imported
    ) -> bytes:
        """Have a blob whole. Returns the bytes of a manifest. Raises OriginError, StoreError."""
        repository, digest = image.repository, _digest(said)
        ref, own = ContentRef(repository.name, digest, kind), Credential(own=True)
        source = OriginSource(origin, ref, own, repository.upstream, private=True)
        endpoint = Endpoint.MANIFEST if kind is Kind.MANIFEST else Endpoint.BLOB
        await asyncio.to_thread(_check_length, origin, ref, said)
        async with self._readers.open(digest, source, expected=said, background=True, preheats=True) as reader:
            position, size_bytes = 0, reader.blob.size_bytes
            _compare(said, size_bytes)
            arrival = self._host.arrivals.get(digest.raw)
            while position < size_bytes:
                position = await reader.readable(position, size_bytes)
            came_by_it = arrival is not None and arrival.is_only_for(source.place)
            if not came_by_it and not self._access.is_public(repository, endpoint, digest):
                await asyncio.to_thread(_prove, origin, ref, size_bytes)
            report.blobs += 1
            report.size_bytes += size_bytes
            report.new_bytes += 0 if reader.from_store else size_bytes
            return reader.blob.read(0, size_bytes) if kind is Kind.MANIFEST else b""

    async def _keep(self, digest: Digest, keep_s: float, report: Imported) -> None:
        """Pin a blob that has come, and give it to other hosts if they may have it."""
        async with asyncio.timeout(SETTLES_WITHIN_S):
            while digest.raw in self._host.arrivals:  # noqa: ASYNC110 # its download is about to hear that it has all
                await asyncio.sleep(LOOK_EVERY_S)
        info = self._host.store.peek(digest)
        if info is None or not info.complete:
            raise SiteError(f"{digest} was evicted while the rest came: is there room for the image?")
        self._host.share(info)
        if keep_s and not await asyncio.to_thread(partial(self._host.store.keep, digest, keep_s)):
            report.unpinned_bytes += info.size_bytes


def _compare(said: Descriptor, size_bytes: int) -> None:
    if size_bytes != said.size_bytes:
        raise SiteError(f"{said.digest} has {size_bytes} bytes, and {said.size_bytes} in what names it")


def _check_length(origin: ArchiveOrigin, ref: ContentRef, said: Descriptor) -> None:
    """Raise SiteError if the archive has the blob with another length. No download is begun with that length: a client,
    or the next import, could join it.
    """
    try:
        with origin.open(ref, 0, 0, credential=Credential(own=True)) as body:
            size_bytes = body.size_bytes
    except OriginError:  # the download says so, if it needs the archive
        return
    _compare(said, size_bytes)


def _prove(origin: ArchiveOrigin, ref: ContentRef, size_bytes: int) -> None:
    """Raise SiteError unless the archive has the blob, with these bytes and no others (rule 2). Raises OriginError."""
    sha256, buffer = hashlib.sha256(), memoryview(bytearray(MIB))
    try:
        with origin.open(ref, 0, None, credential=Credential(own=True)) as body:
            is_right = body.size_bytes == size_bytes
            while is_right and (count := body.readinto(buffer)):
                sha256.update(buffer[:count])
    except OriginRefusedError as error:
        raise SiteError(f"{error}: that it is here already is no proof that the image may have it") from None
    if not is_right or sha256.digest() != Digest(ref.digest).raw:
        raise SiteError(f"the bytes of {ref.digest} in the archive have another SHA-256")


def _named(listing: Listing, wanted: Sequence[str]) -> dict[ImageReference, Descriptor]:
    """The images of a layout by their full names, or those of them that are wanted. Raises SiteError."""
    found: dict[ImageReference, Descriptor] = {}
    unnamed = 0
    for each in listing.manifests:
        names = [name for key in NAMES if "/" in (name := each.annotations.get(key, ""))]
        images = [image for name in names if (image := _image_of(name)) is not None]
        unnamed += not images
        if images:
            found[images[0]] = each
    if not wanted:
        if unnamed or not found:
            raise SiteError(
                f"{unnamed or 'all'} of its images have no full name, such as registry.example/team/app:v1, in the "
                f"annotation {NAMES[0]}: write it with p2pd site export, or name the images that have one"
            )
        return found
    chosen: dict[ImageReference, Descriptor] = {}
    for text in wanted:
        image = parse_image_reference(text)
        if image not in found:
            raise SiteError(f"{image} is not in it; it has {', '.join(map(str, list(found)[:20])) or 'no images'}")
        chosen[image] = found[image]
    return chosen


def _image_of(name: str) -> ImageReference | None:
    """The image of a name that has its registry and its tag."""
    try:
        image = parse_image_reference(name)
    except InvalidNameError:
        return None
    return image if image.tag is not None and image.digest is None and str(image) == name else None


def _digest(said: Descriptor) -> Digest:
    digest: AnyDigest = said.digest
    if not isinstance(digest, Digest):
        raise SiteError(f"{digest} is named by another algorithm than SHA-256: it is never kept")
    return digest


def _keep_s(image: ImageReference, rules: Sequence[PreheatRule], keep_s: float) -> float:
    keep = next((rule.keep for rule in rules if rule.matches(str(image))), None)
    return keep_s if keep is None else parse_duration(keep)


def _reason(path: Path, error: OSError | ManifestError) -> str:
    if isinstance(error, OSError):
        return f"{path}: {error.strerror or error}; the daemon reads it, as its own user: may it?"
    return str(error) if str(path) in str(error) else f"{path}: {error}"
