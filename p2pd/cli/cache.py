"""`p2pd cache`: shows and changes the cache, through the daemon or, if no daemon runs, in the daemon's directory."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click

from p2pd.admin.client import AdminClient, Collected, DaemonUnreachableError
from p2pd.cli.options import with_settings
from p2pd.config.values import show_duration, show_size
from peer.errors import P2pdError, StoreInUseError
from peer.store import BlobInfo, Store, VerifyReport

if TYPE_CHECKING:
    from p2pd.config.settings import Settings


class Cache(Protocol):
    """The operations on a cache that the commands use. `AdminClient` and `_Directory` implement them."""

    def blobs(self) -> list[BlobInfo]: ...

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
        store = Store.open(
            settings.data,
            max_bytes=settings.max_bytes,
            min_free_bytes=settings.min_free_bytes,
            ttl_s=settings.ttl_s,
        )
    except StoreInUseError:
        raise P2pdError(f"{unreachable}; a p2pd uses {settings.data} now") from None
    try:
        yield _Directory(store), store.blobs()
    finally:
        store.close()


def _digest_prefix(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if re.fullmatch(r"(sha256:)?[0-9a-f]{8,64}", value) is None:
            raise click.BadParameter(f"{value!r} is not a digest, nor its first 8 or more hexadecimal digits")
    return tuple(f"sha256:{value.removeprefix('sha256:')}" for value in values)


_json_flag = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_with_place = with_settings("admin", "data")


@click.group("cache")
def cache() -> None:
    """List, verify and remove what is cached."""


@cache.command("ls")
@_json_flag
@_with_place
def ls(settings: Settings, *, as_json: bool) -> None:
    """List the cached blobs."""
    with _opened(settings) as (_, blobs):
        pass
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(blob) for blob in blobs], indent=2))
        return
    now = time.time()
    line = "{:<19}  {:>9}  {:>5}  {:>5}  {:<6}  {}"
    click.echo(line.format("DIGEST", "SIZE", "HELD", "USED", "STATE", "TYPE"))
    for blob in blobs:
        held = blob.held_bytes / blob.size_bytes if blob.size_bytes else 1.0
        state = "in use" if blob.in_use else "whole" if blob.complete else "part"
        used = show_duration(max(0.0, now - blob.last_used))
        size = show_size(blob.size_bytes)
        click.echo(line.format(blob.digest[:19], size, f"{int(held * 100)}%", used, state, blob.media_type).rstrip())


@cache.command("rm")
@click.argument("digests", metavar="DIGEST...", nargs=-1, required=True, callback=_digest_prefix)
@_json_flag
@_with_place
def rm(settings: Settings, *, digests: tuple[str, ...], as_json: bool) -> None:
    """Remove blobs, each named by its digest or the first 8 or more digits of it."""
    removed: list[str] = []
    failed: dict[str, str] = {}
    with _opened(settings) as (opened, blobs):
        for prefix in digests:
            try:
                removed.append(_remove(opened, blobs, prefix))
            except P2pdError as error:
                failed[prefix] = str(error)
    if as_json:
        click.echo(json.dumps({"removed": removed, "failed": failed}, indent=2))
    else:
        for digest in removed:
            click.echo(f"removed {digest}")
    if failed:
        raise P2pdError("\n".join(failed.values()))


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
        click.echo(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        click.echo(f"checked {found.checked} blobs, {len(found.bad)} bad")
    if found.bad:
        raise P2pdError("\n".join(f"{digest} was damaged" for digest in found.bad))
