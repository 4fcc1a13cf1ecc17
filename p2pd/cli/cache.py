"""`p2pd cache`: shows and changes the cache, through the daemon or, if no daemon runs, in the daemon's directory."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import click
from msgspec import structs

from p2pd.admin.client import AdminClient, Collected, DaemonUnreachableError
from p2pd.admin.images import CachedImage, images_of
from p2pd.cli.options import with_settings
from p2pd.cli.suggest import SuggestingGroup
from p2pd.config.room import quota_of
from p2pd.config.values import show_duration, show_size
from p2pd.daemon import logs
from peer.errors import InvalidNameError, P2pdError, StoreInUseError
from peer.oci.descriptor import OCTET_STREAM
from peer.oci.digest import Digest
from peer.oci.manifest import KIND_BY_MEDIA_TYPE, ManifestKind
from peer.oci.reference import ImageReference, parse_image_reference
from peer.store import BlobInfo, Store, VerifyReport
from peer.store.adopter import Adopter

if TYPE_CHECKING:
    from p2pd.config.settings import Settings


class Cache(Protocol):
    """The operations on a cache that the commands use. `AdminClient` and `_Directory` implement them."""

    def blobs(self) -> list[BlobInfo]: ...

    def images(self) -> list[CachedImage]: ...

    def remove(self, digest: str) -> bool:
        """False if there is no such blob. Raises BlobInUseError."""
        ...

    def collect(self) -> Collected: ...

    def verify(self) -> VerifyReport: ...


class _Directory:
    """A store that no daemon uses."""

    def __init__(self, store: Store) -> None:
        self.blobs = store.blobs
        self.remove = store.remove
        self.verify = store.verify
        self._store = store

    def images(self) -> list[CachedImage]:
        return images_of(self._store)

    def collect(self) -> Collected:
        removed = self._store.collect()
        return Collected(tuple(blob.digest for blob in removed), sum(blob.size_bytes for blob in removed))


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[Cache, list[BlobInfo]]]:
    """The cache, and a name for it."""
    daemon = AdminClient(settings.admin, settings.data)
    try:
        blobs = daemon.blobs()
    except DaemonUnreachableError as error:
        unreachable = str(error)
    else:
        yield daemon, blobs
        return
    if not (settings.data / "blobs").is_dir():  # Store.open would make a store of an empty directory
        raise P2pdError(f"{unreachable}; nor is there a cache in {settings.data}")
    try:
        quota = quota_of(settings)
        store = Store.open(
            settings.data,
            max_bytes=quota.max_bytes,
            min_free_bytes=quota.min_free_bytes,
            ttl_s=quota.ttl_s,
        )
    except StoreInUseError:
        raise P2pdError(f"{unreachable}; a p2pd uses {settings.data} now") from None
    try:
        Adopter(store, settings.adopt).load()
        yield _Directory(store), store.blobs()
    finally:
        store.close()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be removed: blobs by the beginning of their digest (`sha256:…`), or an image."""

    given: str
    prefix: str = ""
    image: ImageReference | None = None


def _wanted(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> list[_Wanted]:
    found: list[_Wanted] = []
    for value in values:
        if re.fullmatch(r"(sha256:)?[0-9a-f]{8,64}", value):
            prefix = f"sha256:{value.removeprefix('sha256:')}"
            found.append(_Wanted(prefix, prefix=prefix))
            continue
        try:
            if re.match(r"sha[0-9]+:", value):
                raise InvalidNameError("a digest begins with sha256: and has 8 or more hexadecimal digits")
            found.append(_Wanted(value, image=parse_image_reference(value)))
        except InvalidNameError as error:
            raise click.BadParameter(f"{value!r} is neither an image nor a digest: {error}") from None
    return found


_json_flag = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_with_place = with_settings("admin", "data")


@click.group("cache", cls=SuggestingGroup)
def cache() -> None:
    """List, verify and remove what is cached."""
    if not logging.getLogger().handlers:
        logs.setup("warning")  # to stderr: what the store logs is no part of the output


@cache.command("ls")
@_json_flag
@_with_place
def ls(settings: Settings, *, as_json: bool) -> None:
    """List the cached blobs, and the images that they belong to.

    What is adopted lies in a container runtime's content store, and takes no room of the cache's.
    """
    with _opened(settings) as (opened, blobs):
        images = opened.images()
    names: dict[str, list[str]] = {}
    types: dict[str, str] = {}
    for image in images:
        for digest, media_type in image.blobs.items():
            names.setdefault(digest, []).append(image.name)
            types[digest] = media_type
    if as_json:
        rows = [{**structs.asdict(blob), "images": names.get(blob.digest, [])} for blob in blobs]
        click.echo(json.dumps(rows, indent=2))
        return
    now = time.time()
    line = "{:<19}  {:>9}  {:>5}  {:>5}  {:<10}  {:<10}  {}"
    click.echo(line.format("DIGEST", "SIZE", "HELD", "USED", "STATE", "TYPE", "IMAGE"))
    for blob in blobs:
        held = blob.held_bytes / blob.size_bytes if blob.size_bytes else 1.0
        state = "in use" if blob.in_use else "whole" if blob.complete else "part"
        if blob.pinned_s and blob.complete and not blob.in_use:
            state = f"pinned {show_duration(blob.pinned_s)}"
        if blob.adopted and not blob.in_use:
            state = "adopted"
        used = show_duration(max(0.0, now - blob.last_used))
        size, kind = show_size(blob.size_bytes), kind_of(types.get(blob.digest, blob.media_type))
        first, *others = names.get(blob.digest, ["-"])
        image_name = f"{first} and {len(others)} more" if others else first
        click.echo(line.format(blob.digest[:19], size, f"{int(held * 100)}%", used, state, kind, image_name))


def kind_of(media_type: str) -> str:
    """A media type in a word."""
    known = KIND_BY_MEDIA_TYPE.get(media_type)
    if known is not None:
        return "index" if known is ManifestKind.INDEX else "manifest"
    if "layer" in media_type or "rootfs.diff" in media_type:
        return "layer"
    if "config" in media_type or "container.image.v1" in media_type:
        return "config"
    return "-" if media_type in ("", OCTET_STREAM) else media_type.rpartition("/")[2][:24]


@cache.command("rm")
@click.argument("wanted", metavar="IMAGE|DIGEST...", nargs=-1, required=True, callback=_wanted)
@_json_flag
@_with_place
def rm(settings: Settings, *, wanted: list[_Wanted], as_json: bool) -> None:
    """Remove images, or blobs by their digest or the first 8 or more digits of it.

    Of an image, what other cached images need as well is kept, and what a container runtime holds (adopted): remove it
    there.
    """
    removed: list[str] = []
    failed: dict[str, str] = {}
    with _opened(settings) as (opened, blobs):
        for each in wanted:
            try:
                if each.image is None:
                    removed.append(_remove(opened, blobs, each.prefix))
                else:
                    removed += _remove_image(opened, each.image, {blob.digest for blob in blobs if blob.adopted})
            except P2pdError as error:
                failed[each.given] = str(error)
    if as_json:
        click.echo(json.dumps({"removed": removed, "failed": failed}, indent=2))
    else:
        for digest in removed:
            click.echo(f"removed {digest}")
    if failed:
        raise P2pdError("\n".join(failed.values()))


def _remove_image(opened: Cache, image: ImageReference, adopted: set[Digest]) -> list[str]:
    """Remove what only this image needs, and is not a runtime's; returns the digests."""
    images = opened.images()
    of_repository = [each for each in images if re.split(r":(?!.*/)|@", each.name)[0] == str(image.repository)]
    if image.digest is None:
        mine = [each for each in of_repository if each.name == str(image)]
    else:  # by all its names
        mine = [each for each in of_repository if each.digest == image.digest]
    if not mine:
        raise P2pdError(f"{image} is not in the cache: p2pd cache ls has its images")
    kept = {digest for each in images if each not in mine for digest in each.blobs}
    wanted = dict.fromkeys(digest for each in mine for digest in each.blobs if digest not in kept)
    if not wanted:
        others = sorted(each.name for each in images if each not in mine and mine[0].digest in each.blobs)
        raise P2pdError(f"{image} is kept: {', '.join(others)} needs all of it")
    if adopted.issuperset(wanted):
        raise P2pdError(f"{image} is held by a container runtime alone (adopted): remove it there")
    return [digest for digest in wanted if digest not in adopted and opened.remove(digest)]


def _remove(opened: Cache, blobs: list[BlobInfo], prefix: str) -> str:
    """Remove the one blob that is meant; returns its digest."""
    found = [blob.digest for blob in blobs if blob.digest.startswith(prefix)]
    if len(found) > 1:
        raise P2pdError(f"{prefix} is the beginning of {len(found)} digests: give more of it")
    if not found or not opened.remove(found[0]):
        raise P2pdError(f"{prefix} is not in the cache")
    return found[0]


@cache.command("gc")
@_json_flag
@_with_place
def gc(settings: Settings, *, as_json: bool) -> None:
    """Remove what is older than ttl_s, and what the cache has beyond its limits."""
    with _opened(settings) as (opened, _):
        found = opened.collect()
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        click.echo(f"removed {len(found.removed)} blobs, {show_size(found.freed_bytes)}")


@cache.command("verify")
@_json_flag
@_with_place
def verify(settings: Settings, *, as_json: bool) -> None:
    """Read the whole cache again and remove what is not what its digest says. Ends with 1 if there was any."""
    with _opened(settings) as (opened, _):
        found = opened.verify()
    if as_json:
        click.echo(json.dumps(structs.asdict(found), indent=2))
    else:
        click.echo(f"checked {found.checked} blobs, {len(found.bad)} bad")
    if found.bad:
        raise P2pdError("\n".join(f"{digest} was damaged" for digest in found.bad))
