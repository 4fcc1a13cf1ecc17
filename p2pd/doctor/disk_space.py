"""Is there room for the cache, also in the kubelet's eyes, and do only its user and root have access?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from p2pd.admin.reading import number, section
from p2pd.config.settings import Settings
from p2pd.config.values import show_size
from p2pd.configure.runtime import ConfigureError
from p2pd.doctor.environment import DiskSpace, Environment
from p2pd.doctor.result import CheckResult, Level
from p2pd.doctor.running import status_of
from peer.core.eviction import Bounds, DiskShare, Quota, Room

KUBELET: Final = Path("/var/lib/kubelet")
KUBELET_COLLECTS_AT: Final = 0.15
"""The part of a disk below which the kubelet removes images: `imageGCHighThresholdPercent` is 85 by default. It evicts
pods below a tenth (`nodefs.available`)."""


LEAST_ROOM_BYTES: Final = 2 * 1024**3
"""Room for an image or two of some size."""


def check_disk(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """Compare the free room with `min_free_bytes`, and the file system's size with the cache's limit."""
    space = around.space(settings.data)
    if space is None:
        yield CheckResult(Level.WARN, "disk", f"the disk under {settings.data} could not be examined", "run it as root")
        return
    bounds = _bounds(settings, space, around)
    free = f"{show_size(space.free_bytes)} ({_percent(space.free_bytes, space)}) are free under {settings.data}"
    if is_full(settings, around):
        kept = f", and min_free_bytes keeps {show_size(bounds.min_free_bytes)} free" if bounds.min_free_bytes else ""
        title = f"{free}{kept}: nothing new is stored, and pulls pass through uncached"
        yield CheckResult(Level.FAIL, "disk", title, _how_to_make_room(settings, bounds, space, around))
        return
    yield CheckResult(Level.OK, "disk", free)
    if bounds.max_bytes > space.total_bytes - bounds.min_free_bytes:
        title = f"max_bytes is {show_size(bounds.max_bytes)}, but the file system has {show_size(space.total_bytes)}"
        advice = "lower max_bytes; until then min_free_bytes decides when something is evicted"
        yield CheckResult(Level.WARN, "disk", title, advice)
    elif _left_bytes(bounds, space, settings, around) < LEAST_ROOM_BYTES:
        left = show_size(_left_bytes(bounds, space, settings, around))
        title = f"other files leave {left} to the cache: larger images pass through uncached"
        yield CheckResult(Level.WARN, "disk", title, _how_to_make_room(settings, bounds, space, around))
    yield from _kubelet(settings, bounds, space, around)


def is_full(settings: Settings, around: Environment) -> bool:
    """Whether no room is left for new blobs."""
    space = around.space(settings.data)
    return space is not None and space.free_bytes <= _bounds(settings, space, around).min_free_bytes


def _left_bytes(bounds: Bounds, space: DiskSpace, settings: Settings, around: Environment) -> int:
    """What the cache may take, with what it has."""
    return space.free_bytes + _used_bytes(settings, around) - bounds.min_free_bytes


def _used_bytes(settings: Settings, around: Environment) -> int:
    return int(number(section(status_of(settings, around), "cache"), "used_bytes") or 0)


def _bounds(settings: Settings, space: DiskSpace, around: Environment) -> Bounds:
    """What the cache may use of that disk. Its blobs are taken to be there."""
    kept = settings.min_free_bytes
    if isinstance(kept, DiskShare) and _has_kubelet(around):
        kept = DiskShare(kept.percent)  # what `auto` means there
    room = Room(space.free_bytes, space.total_bytes)
    return Quota(settings.max_bytes, kept, settings.ttl_s).on(room, _used_bytes(settings, around))


def _has_kubelet(around: Environment) -> bool:
    """Whether one is seen; another check says so if that may not be seen."""
    try:
        return bool(around.files.names(str(KUBELET)))
    except ConfigureError:
        return False


def _how_to_make_room(settings: Settings, bounds: Bounds, space: DiskSpace, around: Environment) -> str:
    used_bytes = _used_bytes(settings, around)
    others = max(0, space.total_bytes - space.free_bytes - used_bytes)
    shares = f"the cache takes {show_size(used_bytes)} there, all other files {show_size(others)}"
    lower = "; or lower min_free_bytes" if bounds.min_free_bytes else ""
    return f"{shares}: remove what is not needed (p2pd cache rm), or move data to a larger disk{lower}"


def _kubelet(settings: Settings, bounds: Bounds, space: DiskSpace, around: Environment) -> Iterator[CheckResult]:
    """A full cache must not make the kubelet take action: it is the cache that gives way."""
    if not around.files.names(str(KUBELET)):
        return
    its = around.space(KUBELET)
    if its is None or its.total_bytes != space.total_bytes:  # another disk
        return
    used_bytes = _used_bytes(settings, around)
    left = max(bounds.min_free_bytes, space.free_bytes + used_bytes - bounds.max_bytes)
    if left >= KUBELET_COLLECTS_AT * space.total_bytes:
        return
    yield CheckResult(
        Level.WARN,
        "kubelet",
        f"the cache may fill the kubelet's disk until {_percent(left, space)} are free; "
        "the kubelet removes images below 15 % and evicts pods below 10 %",
        "set min_free_bytes to 20% or more, or lower max_bytes",
    )


def _percent(size_bytes: int, space: DiskSpace) -> str:
    return f"{100 * size_bytes / space.total_bytes:.0f} %" if space.total_bytes else "0 %"


def check_directory(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """A user with write access could plant content for other clients; a reader of the cache has every private image."""
    owner = around.owner(settings.data)
    if owner is None:
        title = f"there is no {settings.data} yet, or it cannot be examined"
        yield CheckResult(Level.WARN, "cache directory", title, "p2pd run makes it; run p2pd doctor as root")
    elif owner.mode & 0o022:
        title = f"{settings.data} (of user {owner.uid}) may be written to by others (mode {owner.mode:o})"
        yield CheckResult(Level.FAIL, "cache directory", title, f"chmod go-w {settings.data}")
    elif owner.mode & 0o005 == 0o005:
        title = f"{settings.data} (of user {owner.uid}) may be read by every user (mode {owner.mode:o})"
        yield CheckResult(
            Level.WARN, "cache directory", title, f"chmod o-rx {settings.data}: private images are in it, too"
        )
    else:
        yield CheckResult(
            Level.OK, "cache directory", f"{settings.data} is private to user {owner.uid} (mode {owner.mode:o})"
        )
