"""A node of the demonstration: the daemon as it is, in a process of its own, on free ports of loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from p2pd.admin_client import AdminClient
from p2pd.notation import Address, parse_address
from peer.errors import P2pdError

_STOP_WITHIN_S: Final = 10.0


class NodeFailedError(P2pdError):
    """The daemon ended before it was ready; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Node:
    """A daemon that is ready."""

    mirror: Address
    admin: AdminClient


@contextmanager
def running_node(directory: Path, upstream: str, flags: Mapping[str, str] | None = None) -> Iterator[Node]:
    """`p2pd run` with its store in `directory`, for the length of the block. Raises NodeFailedError."""
    settings = {
        "data": str(directory / "store"),
        "mirror": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "upstream": upstream,
        "log-format": "json",
        **(flags or {}),
    }
    command = [sys.executable, "-m", "p2pd", "run", *(part for key in settings for part in (f"--{key}", settings[key]))]
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "log").open("w+b") as log, subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            ready = _first_ready(process.stderr, log)
            yield Node(parse_address(ready["mirror"]), AdminClient(parse_address(ready["admin"])))
        finally:
            process.terminate()
            try:
                process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _first_ready(stream: Any, log: Any) -> dict[str, Any]:
    """The daemon's `ready` event, which has the addresses."""
    said: list[str] = []
    for line in stream:
        log.write(line)
        said.append(line.decode(errors="replace").strip())
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("event") == "ready":
            return dict(event)
    raise NodeFailedError("the demonstration's daemon did not start: " + " / ".join(said[-3:]))
