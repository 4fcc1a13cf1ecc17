"""The daemons of the demonstration: as they are, each in a process of its own, on free ports of loopback.

They read no configuration of this machine, and end with the block that starts them.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from p2pd.admin.client import AdminClient
from p2pd.config.values import Address, parse_address
from peer.errors import P2pdError

if TYPE_CHECKING:
    from p2pd.demo.shutdown import Shutdown

_STOP_WITHIN_S: Final = 10.0
_JOIN_WITHIN_S: Final = 15.0
_LOOK_EVERY_S: Final = 0.05


class NodeFailedError(P2pdError):
    """A daemon did not start, or found no scheduler; the text is what it said."""


@dataclass(frozen=True, slots=True)
class DemoNode:
    """A node that is ready, and has found its scheduler."""

    name: str
    mirror: Address
    admin: AdminClient


@contextmanager
def running_nodes(
    directory: Path, count: int, flags: Mapping[str, str], shutdown: Shutdown
) -> Iterator[list[DemoNode]]:
    """`count` times `p2pd run`, with the stores in `directory`. Raises NodeFailedError and EndedError."""
    commands = []
    for number in range(1, count + 1):
        (data := directory / f"node-{number}").mkdir()
        own = {"data": str(data), "mirror": "127.0.0.1:0", "admin": "127.0.0.1:0"}
        # What is left of a pull when a node is to stop is of no use to anybody.
        always = {"min-free-bytes": "0", "shutdown-grace-s": "0"}
        commands.append(_command("run", {**own, **always, **flags}))
    with _running(commands, shutdown) as ready:
        nodes = [
            DemoNode(f"node {number}", parse_address(each["mirror"]), AdminClient(parse_address(each["admin"])))
            for number, each in enumerate(ready, 1)
        ]
        for node in nodes:
            _wait_for_scheduler(node, shutdown)
        yield nodes


@contextmanager
def running_scheduler(shutdown: Shutdown) -> Iterator[str]:
    """`p2pd scheduler`; yields its URL. Raises NodeFailedError and EndedError."""
    command = _command("scheduler", {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"})
    with _running([command], shutdown) as (ready,):
        yield f"http://{ready['listen']}"


def _command(name: str, flags: Mapping[str, str]) -> list[str]:
    settings = {"config": os.devnull, "log-format": "json", **flags}
    return [sys.executable, "-m", "p2pd", name, *(f"--{key}={value}" for key, value in settings.items())]


def _environ() -> dict[str, str]:
    """This process's, without settings of p2pd's and proxies: all traffic stays on loopback."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("P2PD_") and not name.lower().endswith("_proxy")
    }


@contextmanager
def _running(commands: list[list[str]], shutdown: Shutdown) -> Iterator[list[dict[str, Any]]]:
    """Start them all at once; yields the `ready` event of each, which has its addresses."""
    daemons: list[_Daemon] = []
    try:
        for command in commands:
            daemons.append(_Daemon(command))  # noqa: PERF401 # those that have started count, should one not start
        yield [daemon.ready(shutdown) for daemon in daemons]
    finally:
        for daemon in daemons:
            daemon.process.terminate()
        for daemon in daemons:
            daemon.wait()


class _Daemon:
    """A process, and what it logs: all of it is read, for a daemon waits when nobody does."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, env=_environ(), stderr=subprocess.PIPE)
        self._said: deque[str] = deque(maxlen=3)
        self._ready: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ready(self, shutdown: Shutdown) -> dict[str, Any]:
        """The `ready` event, when it has come. Raises NodeFailedError and EndedError."""
        while True:
            try:
                event = self._ready.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                shutdown.check()
                continue
            if event is None:
                raise NodeFailedError(f"a daemon of the demonstration did not start: {' / '.join(self._said)}")
            return event

    def wait(self) -> None:
        """Wait until it has ended, and see to it that it does."""
        try:
            self.process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(_STOP_WITHIN_S)

    def _read(self) -> None:
        assert self.process.stderr is not None
        try:
            with self.process.stderr as log:
                for line in log:
                    self._said.append(line.decode(errors="replace").strip())
                    event = _event(line)
                    if event.get("event") == "ready":
                        self._ready.put(event)
        finally:
            self._ready.put(None)


def _event(line: bytes) -> dict[str, Any]:
    """What a line of the log has; nothing, where it is a traceback's."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _wait_for_scheduler(node: DemoNode, shutdown: Shutdown) -> None:
    give_up_at = time.monotonic() + _JOIN_WITHIN_S
    while not node.admin.status()["swarm"]["scheduler_connected"]:
        if time.monotonic() > give_up_at:
            raise NodeFailedError(f"{node.name} found no scheduler within {_JOIN_WITHIN_S:g} s")
        shutdown.wait(_LOOK_EVERY_S)
