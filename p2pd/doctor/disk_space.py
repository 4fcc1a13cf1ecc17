"""Is there room for the cache, and do only its user and root have access?"""

from __future__ import annotations

from collections.abc import Iterator

from p2pd.config.settings import Settings
from p2pd.config.values import show_size
from p2pd.doctor.environment import Environment
from p2pd.doctor.result import CheckResult, Level


def check_disk(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """Compare the free room with `min_free_bytes`, and the file system's size with the cache's limit."""
    space = around.space(settings.data)
    if space is None:
        yield CheckResult(Level.WARN, "disk", f"the disk under {settings.data} could not be examined", "run it as root")
        return
    free = show_size(space.free_bytes)
    if space.free_bytes <= settings.min_free_bytes:
        title = f"{free} are free under {settings.data}, and {show_size(settings.min_free_bytes)} have to stay free"
        yield CheckResult(Level.FAIL, "disk", title, "make room (p2pd cache gc), or lower min_free_bytes")
        return
    yield CheckResult(Level.OK, "disk", f"{free} are free under {settings.data}")
    if settings.max_bytes > space.total_bytes - settings.min_free_bytes:
        title = f"max_bytes is {show_size(settings.max_bytes)}, but the file system has {show_size(space.total_bytes)}"
        advice = "lower max_bytes; until then min_free_bytes decides when something is evicted"
        yield CheckResult(Level.WARN, "disk", title, advice)


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
