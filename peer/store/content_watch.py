"""Changes in the content stores of container runtimes, as the system tells of them (inotify).

It may tell of none: a limit on watches is reached, or the file system knows none. So nobody is to depend on it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger("peer.store")

DEBOUNCE_MS: Final = 400
"""Changes within this time are told once."""
WATCHED_BY_MS: Final = 1000
"""The watch has begun by then."""
AGAIN_AFTER_S: Final = 30.0


async def watch(
    directories: Sequence[Path], on_change: Callable[[], None], sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Call `on_change` after each change in the directories, and once when watching begins. Until it is cancelled.

    A directory that comes later, or is another one, is watched from then on.
    """
    from watchfiles import awatch  # only where something is adopted: 6 MiB

    told = ""
    while True:
        inodes = {each: _inode(each) for each in directories}
        if not any(inodes.values()):
            await sleep(WATCHED_BY_MS / 1000)
            continue
        begun = False
        try:
            async for changes in awatch(
                *(path for path, inode in inodes.items() if inode),
                watch_filter=None,
                debounce=DEBOUNCE_MS,
                step=DEBOUNCE_MS // 2,
                recursive=False,
                yield_on_timeout=True,
                rust_timeout=WATCHED_BY_MS,
                ignore_permission_denied=True,
            ):
                if changes or not begun:  # what was changed before the watch began is seen once it has
                    on_change()
                begun, told = True, ""
                if any(_inode(path) != inode for path, inode in inodes.items()):
                    break
        except (OSError, RuntimeError) as error:
            if told != str(error):
                told = str(error)
                log.warning(
                    "changes of what runtimes hold are noticed later: raise fs.inotify.max_user_watches"
                    " and max_user_instances if they are used up",
                    cause=told,
                    within_s=AGAIN_AFTER_S,
                )
            await sleep(AGAIN_AFTER_S)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
