"""The daemons of the demonstration: as they are, each in a process of its own, on free ports of loopback.

They read no configuration of this machine, and end with the block that starts them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from p2pd.admin_client import AdminClient
from p2pd.notation import Address, parse_address
from peer.errors import P2pdError

_STOP_WITHIN_S: Final = 10.0
_JOIN_WITHIN_S: Final = 15.0
_LOOK_EVERY_S: Final = 0.05


class NodeFailedError(P2pdError):
    """A daemon did not start, or found no scheduler; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is ready, and has found its scheduler."""

    name: str
    mirror: Address
    admin: AdminClient


@contextmanager
def running_nodes(directory: Path, count: int, flags: Mapping[str, str]) -> Iterator[list[Node]]:
    """`count` times `p2pd run`, with the stores in `directory`. Raises NodeFailedError."""
    commands = []
    for number in range(1, count + 1):
        (data := directory / f"node-{number}").mkdir()
        own = {"data": str(data), "mirror": "127.0.0.1:0", "admin": "127.0.0.1:0"}
        # What is left of a pull when a node is to stop is of no use to anybody.
        always = {"min-free-bytes": "0", "shutdown-grace-s": "0"}
        commands.append(_command("run", {**own, **always, **flags}))
    with _running(commands) as ready:
        nodes = [
            Node(f"node {number}", parse_address(each["mirror"]), AdminClient(parse_address(each["admin"])))
            for number, each in enumerate(ready, 1)
        ]
        for node in nodes:
            _wait_for_scheduler(node)
        yield nodes


@contextmanager
def running_scheduler() -> Iterator[str]:
    """`p2pd scheduler`; yields its URL. Raises NodeFailedError."""
    with _running([_command("scheduler", {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"})]) as (ready,):
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
def _running(commands: list[list[str]]) -> Iterator[list[dict[str, Any]]]:
    """Start them all at once; yields the `ready` event of each, which has its addresses."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            process = subprocess.Popen(command, env=_environ(), stderr=subprocess.PIPE)
            processes.append(process)
        yield [_ready(process.stderr) for process in processes if process.stderr is not None]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(log: IO[bytes]) -> dict[str, Any]:
    said: deque[str] = deque(maxlen=3)
    for line in log:
        said.append(line.decode(errors="replace").strip())
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("event") == "ready":
            # The rest is read too, for a daemon waits when nobody does.
            threading.Thread(target=_drain, args=(log,), daemon=True).start()
            return dict(event)
    raise NodeFailedError(f"a daemon of the demonstration did not start: {' / '.join(said)}")


def _drain(log: IO[bytes]) -> None:
    with log:
        for _ in log:
            pass


def _wait_for_scheduler(node: Node) -> None:
    give_up_at = time.monotonic() + _JOIN_WITHIN_S
    while not node.admin.status()["swarm"]["scheduler_connected"]:
        if time.monotonic() > give_up_at:
            raise NodeFailedError(f"{node.name} found no scheduler within {_JOIN_WITHIN_S:g} s")
        time.sleep(_LOOK_EVERY_S)
