"""The tables of the demonstration: a live table while nodes pull, and a table of the results.

Without a terminal, the live table is printed once, when the pulls are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from rich import box
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from p2pd.config.values import show_size

if TYPE_CHECKING:
    from rich.console import Console

    from p2pd.demo.clients import Client

_BAR_COLUMNS = 16


@dataclass(frozen=True, slots=True)
class Scene:
    """One way to pull: the seconds of the last node, and the bytes that left the registry.

    `clients` are the clients that pulled; there are none if the figures are computed.
    """

    title: str
    seconds: float
    origin_bytes: int
    clients: Sequence[Client] = ()

    @property
    def measured(self) -> bool:
        return bool(self.clients)


class LiveView:
    """The table of each node's progress, while the block runs."""

    def __init__(self, title: str, image_bytes: int, console: Console) -> None:
        self._title = title
        self._image_bytes = image_bytes
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def run_demo(self, clients: Sequence[Client]) -> None:
        """Show the clients' progress."""
        table = _table(self._title, "node", "", "received", "registry", "peers", "cache", "seconds")
        for client in clients:
            table.add_row(
                client.name,
                ProgressBar(self._image_bytes, client.received_bytes, width=_BAR_COLUMNS),
                show_size(client.received_bytes),
                show_size(client.origin_bytes),
                show_size(client.peer_bytes),
                show_size(client.cache_bytes),
                "" if client.seconds is None else f"{client.seconds:.2f}",
            )
        self._live.update(table, refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()
        if not self._console.is_terminal:  # rich leaves the last line open there
            self._console.line()


def summary(title: str, scenes: Sequence[Scene], alone_s: float, image_bytes: int) -> Table:
    """The table of results: the time of each scene, and the copies of the image that left the registry."""
    table = _table(title, "who pulls", "seconds", "to one alone", "from registry", "copies")
    for scene in scenes:
        table.add_row(
            scene.title if scene.measured else f"{scene.title} (computed)",
            f"{scene.seconds:.2f}",
            f"{scene.seconds / alone_s:.2f} x",
            show_size(scene.origin_bytes),
            f"{scene.origin_bytes / image_bytes:.2f}",
        )
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
