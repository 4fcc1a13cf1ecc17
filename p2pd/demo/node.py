"""The daemons of the demonstration: unmodified, each in a process of its own, on free ports of loopback.

The daemons read no configuration of this machine, and end with the block that starts them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from p2pd.admin.client import AdminClient
from p2pd.config.values import Address, parse_address
from p2pd.demo.process import DaemonProcess, NodeFailedError, command, join_token

if TYPE_CHECKING:
    from p2pd.demo.shutdown import Shutdown

_JOIN_WITHIN_S: Final = 15.0
_LOOK_EVERY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class DemoNode:
    """A node that is ready, and has found its scheduler, if it has one."""

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
        # Nobody needs the rest of a pull when a node stops.
        always = {"min-free-bytes": "0", "shutdown-grace-s": "0"}
        commands.append(command("run", {**own, **always, **flags}))
    with _running(commands, shutdown) as ready:
        nodes = [
            DemoNode(f"node {number}", parse_address(each["mirror"]), AdminClient(parse_address(each["admin"])))
            for number, each in enumerate(ready, 1)
        ]
        for node in nodes:
            _wait_for_scheduler(node, shutdown)
        yield nodes


@contextmanager
def running_scheduler(directory: Path, shutdown: Shutdown) -> Iterator[dict[str, str]]:
    """`p2pd scheduler`, with its files in `directory`; yields the flags with which nodes join its cluster.

    Raises NodeFailedError and EndedError.
    """
    flags = {"data": str(directory), "listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
    with _running([command("scheduler", flags)], shutdown) as (ready,):
        (token := directory / "join-token").write_text(join_token(directory))
        shutdown.check()
        yield {"scheduler": f"https://{ready['listen']}", "join-file": str(token)}


@contextmanager
def _running(commands: list[list[str]], shutdown: Shutdown) -> Iterator[list[dict[str, Any]]]:
    """Start all commands at once; yields the `ready` event of each daemon, which has its addresses."""
    daemons: list[DaemonProcess] = []
    try:
        for each in commands:
            daemons.append(DaemonProcess(each))  # noqa: PERF401 # if a later daemon fails to start, the list has those to stop
        yield [daemon.wait_for_event("ready", shutdown.check) for daemon in daemons]
    finally:
        for daemon in daemons:
            daemon.process.terminate()
        for daemon in daemons:
            daemon.wait()


def _wait_for_scheduler(node: DemoNode, shutdown: Shutdown) -> None:
    give_up_at = time.monotonic() + _JOIN_WITHIN_S
    while (status := node.admin.status())["scheduler"] and not status["swarm"]["scheduler_connected"]:
        if time.monotonic() > give_up_at:
            raise NodeFailedError(f"{node.name} found no scheduler within {_JOIN_WITHIN_S:g} s")
        shutdown.wait(_LOOK_EVERY_S)
