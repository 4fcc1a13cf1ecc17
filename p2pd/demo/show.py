"""The demonstration: a real image pulled twice through a daemon, and where each byte came from."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from p2pd.cli.pull_bars import PullBars
from p2pd.demo.image import BuiltImage, build_image
from p2pd.demo.node import Node, running_node
from p2pd.notation import show_size
from p2pd.pull import PullReport, PullRequest, pull
from peer.core.names import parse_image_reference
from peer.errors import P2pdError

REFERENCE = "docker.io/library/demo:1"


class DemoFailedError(P2pdError):
    """A pull of the demonstration was not right."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One pull: what the client got, and what the origin had to give for it."""

    name: str
    report: PullReport
    origin_bytes: int


def show(size_bytes: int, console: Console) -> None:
    """Build the image, run the daemon, pull twice, print the table. Raises P2pdError."""
    with tempfile.TemporaryDirectory(prefix="p2pd-demo-") as name:
        directory = Path(name)
        with console.status("Building an image out of this machine's files"):
            image = build_image(directory / "registry", size_bytes=size_bytes, reference=REFERENCE)
        console.print(
            f"Built [bold]{image.reference}[/]: {len(image.layers)} layers, {show_size(image.size_bytes)}, "
            "served by an embedded registry (an OCI image layout)"
        )
        with running_node(directory / "node", f"docker.io=oci-layout://{directory / 'registry'}") as node:
            console.print(f"p2pd runs: mirror at {node.mirror}\n")
            rows = [_pull(node, name, console) for name in ("first, cold", "second, warm")]
        console.print(_table(rows, image))


def _pull(node: Node, name: str, console: Console) -> _Row:
    console.print(f"[bold]{name}[/]")
    before = node.admin.status()["downloads"]["origin_bytes"]
    with PullBars() as bars:
        report = pull(PullRequest(parse_image_reference(REFERENCE), node.mirror), bars)
    if not report.ok:
        wrong = [verdict for verdict in report.verdicts if not verdict.ok]
        raise DemoFailedError(f"{len(wrong)} blobs did not come right, the first because: {wrong[0].error}")
    return _Row(name, report, node.admin.status()["downloads"]["origin_bytes"] - before)


def _table(rows: list[_Row], image: BuiltImage) -> Table:
    table = Table(title=f"Where each byte came from, of {show_size(image.size_bytes)} in {len(image.layers)} layers")
    for heading in ("pull", "seconds", "registry", "cache", "digests right"):
        table.add_column(heading, justify="left" if heading == "pull" else "right")
    for row in rows:
        right = sum(verdict.ok for verdict in row.report.verdicts)
        table.add_row(
            row.name,
            f"{row.report.seconds:.2f}",
            show_size(row.origin_bytes),
            show_size(max(0, image.size_bytes - row.origin_bytes)),
            f"{right} of {len(row.report.verdicts)}",
        )
    return table
