"""The bars that `p2pd pull` shows on a terminal: one for each layer.

They have a file of their own because rich is slow to import."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

if TYPE_CHECKING:
    from rich.progress import TaskID

_SHOWN_DIGITS = 12
"""Digits of a digest in a bar's name: as many as docker shows."""


class PullBars:
    """A `PullProgress` on standard error."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TextColumn("{task.fields[verdict]}"),
            console=Console(stderr=True),
        )
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}

    def on_layer(self, digest: str, size_bytes: int, media_type: str) -> None:  # noqa: ARG002 (a bar has no room for it)
        """Start a bar."""
        name = digest.partition(":")[2][:_SHOWN_DIGITS]
        task = self._bars.add_task(name, total=size_bytes, verdict="")
        with self._lock:
            self._tasks[digest] = task

    def on_bytes(self, digest: str, count: int) -> None:
        """Move the bar."""
        self._bars.advance(self._tasks[digest], count)

    def on_verdict(self, digest: str, ok: bool, seconds: float) -> None:  # noqa: ARG002 (the bar has shown it)
        """Write the verdict behind the bar."""
        task = self._tasks[digest]
        if ok:
            self._bars.update(task, completed=next(bar.total for bar in self._bars.tasks if bar.id == task))
        self._bars.update(task, verdict="[green]ok[/]" if ok else "[red]bad[/]")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bars.stop()
