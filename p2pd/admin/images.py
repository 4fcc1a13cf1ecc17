"""The names of what is cached: images, by the tags that origins told and the manifests that the store holds.

All of it is read beside the daemon's own work: nothing counts as a use, and the catalog is opened for reading alone.
Blocks: call it in a thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

from msgspec import Struct

from peer.errors import ManifestError, P2pdError
from peer.oci.manifest import KIND_BY_MEDIA_TYPE, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from peer.store import Store

CATALOG: Final = "catalog.db"
_MANIFESTS: Final = "manifests/"


class CachedImage(Struct, frozen=True):
    """An image by one of its names, `REPOSITORY:TAG`, or `REPOSITORY@DIGEST` if no tag of it is known.

    `blobs` are the media types of what belongs to it, by digest: manifests, configs and layers, also those that are
    not in the cache now.
    """

    name: str
    digest: str
    blobs: Mapping[str, str]


def images_of(store: Store) -> list[CachedImage]:
    """The images whose manifests are held, by name. Without a catalog that can be read there are none."""
    manifests = dict(_manifests(store))
    tagged, known = _names(store.directory / CATALOG)
    named = {digest for _, digest in tagged}
    inside = {each for digest in named & manifests.keys() for each in _below(digest, manifests)}
    names = [*tagged, *((name, digest) for name, digest in known if digest not in named | inside)]
    found = {name: digest for name, digest in names if digest in manifests}
    return [CachedImage(name, digest, dict(_closure(digest, manifests))) for name, digest in sorted(found.items())]


def _manifests(store: Store) -> Iterator[tuple[str, Manifest]]:
    for blob in store.whole_blobs():
        media_type = blob.header.media_type
        if media_type not in KIND_BY_MEDIA_TYPE or blob.size_bytes > MAX_MANIFEST_BYTES:
            continue
        try:
            blob.acquire()
            try:
                yield blob.digest, parse_manifest(blob.read(0, blob.size_bytes), media_type)
            finally:
                blob.release()
        except (ManifestError, P2pdError):  # it is no manifest, or was removed meanwhile
            continue


def _below(digest: str, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """The digests in a manifest, and in those that it names."""
    seen, left = {digest}, [digest]
    while left:
        manifest = manifests.get(left.pop())
        for child in manifest.children if manifest is not None else ():
            if child.digest not in seen:
                seen.add(child.digest)
                left.append(child.digest)
                yield child.digest


def _closure(digest: str, manifests: Mapping[str, Manifest]) -> Iterator[tuple[str, str]]:
    types = {str(child.digest): child.media_type for manifest in manifests.values() for child in manifest.children}
    yield digest, manifests[digest].media_type
    for each in _below(digest, manifests):
        yield each, types[each]


def _names(catalog: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Names and digests: those with tags, and those of manifests that are known by digest."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(catalog))}?mode=ro", uri=True)) as database:
            tags = database.execute("SELECT upstream, repository, tag, digest FROM tags").fetchall()
            known = database.execute(
                "SELECT upstream, repository, digest FROM known WHERE digest >= ? AND digest < ?",
                (_MANIFESTS, f"{_MANIFESTS}~"),
            ).fetchall()
    except sqlite3.Error:
        return [], []
    by_digest = [(upstream, repository, digest.removeprefix(_MANIFESTS)) for upstream, repository, digest in known]
    return (
        [(f"{upstream}/{repository}:{tag}", str(digest)) for upstream, repository, tag, digest in tags],
        [(f"{upstream}/{repository}@{digest}", digest) for upstream, repository, digest in by_digest],
    )
