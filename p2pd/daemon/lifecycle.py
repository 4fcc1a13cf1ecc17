"""The life of a daemon: it starts, says that it is ready, waits for a signal, and ends in order.

SIGTERM and SIGINT end it as its own `serve` says; a second signal ends it at once. SIGHUP has it read its settings
again (`p2pd.daemon.control`), and never ends it. The service manager is told of each step, and meanwhile that the loop
turns.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import NoReturn

from msgspec import Struct, field

from p2pd.admin.server import NotReady
from p2pd.daemon import logs
from p2pd.daemon.control import Control
from p2pd.daemon.sdnotify import Notifier
from peer.tasks import BackgroundTasks


class Daemon(Struct, frozen=True):
    """What lives. `serve` is its whole work, and yields the addresses that it listens on, by the names of their keys.

    `control` is what may be asked of it. `headline` names the address that `systemctl status` shows. `facts` are logged
    beside the addresses when it is ready, `end_facts` when it begins to stop.
    """

    name: str
    control: Control
    serve: Callable[[NotReady], AbstractAsyncContextManager[Mapping[str, str]]]
    headline: str
    facts: Mapping[str, object] = field(default_factory=dict)
    end_facts: Mapping[str, object] = field(default_factory=dict)


def live(daemon: Daemon, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> NoReturn:
    """Run it until a signal ends it, and end the process. Raises P2pdError when it cannot start.

    The interpreter's own end is left out. A connection over TLS waits for the other side's last word; where the loop
    has ended before, the interpreter fails at the connection while it takes itself apart, and says so to nobody.
    """
    raise_file_limit()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is a loop: the settings have just been read
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        code = runner.run(_live(daemon))
    logs.close()
    os._exit(code)


def raise_file_limit() -> None:
    """Allow this process as many open files as the system lets it have, as Go's programs do.

    The usual 1,024 are meant for programs that call select(2).
    """
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < most:
        with suppress(OSError, ValueError):  # a system may have a lower bound of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _live(daemon: Daemon) -> int:
    log = logs.get(daemon.name)
    stop = daemon.control.stop
    notifier = Notifier(os.environ)
    async with (
        daemon.serve(daemon.control.not_ready) as addresses,
        BackgroundTasks() as tasks,
    ):
        _on_signals(stop)
        hang_up = partial(_on_hang_up, daemon.control, tasks)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
        notifier.ready()
        notifier.status(f"{daemon.headline} at {addresses[daemon.headline]}")
        log.info("ready", **addresses, **daemon.facts)
        await _until(stop, notifier)
        notifier.stopping()
        log.info("stopping", **daemon.end_facts)
    log.info("stopped")
    return 0


def _on_signals(stop: asyncio.Event) -> None:
    """The first signal ends the daemon in order, the second at once."""

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)


def _on_hang_up(control: Control, tasks: BackgroundTasks) -> None:
    tasks.start(control.reload_by_signal())


async def _until(stop: asyncio.Event, notifier: Notifier) -> None:
    """Wait for `stop`, and tell the service manager meanwhile that the loop turns."""
    while not stop.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(notifier.watchdog_interval_s):
                await stop.wait()
        notifier.alive()
