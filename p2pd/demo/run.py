"""The demonstration: nodes that pull one image at the same moment from one registry, in three ways.

1. One node alone: the time of the image without any competition.
2. Nodes that do not know each other: each gets the whole image from the registry.
3. A swarm: a scheduler, and nodes that exchange pieces. Then once more on one node, from its cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from p2pd.config.values import show_size
from p2pd.demo.clients import pull_at_once
from p2pd.demo.image import DEFAULT_REFERENCE, BuiltImage, build_image
from p2pd.demo.node import DemoNode, running_nodes, running_scheduler
from p2pd.demo.progress import LiveView, Scene, summary
from p2pd.demo.registry import DemoRegistry
from p2pd.demo.shutdown import Shutdown


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """The size of the demonstration. `rate_bytes_per_s` limits the registry's uplink and three ways of each node.

    The ways are to other nodes, from other nodes, and from the registry; 0 is no limit. If nodes that do not know each
    other would take longer than `measured_up_to_s`, their time is computed and not measured.
    """

    nodes: int
    size_bytes: int
    rate_bytes_per_s: int
    measured_up_to_s: float = 20.0


def run_demo(plan: DemoPlan, console: Console, shutdown: Shutdown) -> dict[str, Any]:
    """Show the demonstration on `console`; returns the figures. Raises P2pdError, and EndedError after a signal."""
    with tempfile.TemporaryDirectory(prefix="p2pd-demo-") as name:
        layout = Path(name) / "registry"
        with console.status("Building an image out of this machine's files"):
            image = build_image(layout, size_bytes=plan.size_bytes, on_write=shutdown.check)
        registry = DemoRegistry(layout, image, plan.rate_bytes_per_s)
        console.print(_setting(plan, image), highlight=False)
        with registry.serving():
            return _Demonstration(plan, console, Path(name), image, registry, shutdown).run()


class _Demonstration:
    def __init__(
        self,
        plan: DemoPlan,
        console: Console,
        directory: Path,
        image: BuiltImage,
        registry: DemoRegistry,
        shutdown: Shutdown,
    ) -> None:
        self._plan = plan
        self._console = console
        self._directory = directory
        self._image = image
        self._registry = registry
        self._ending = shutdown

    def run(self) -> dict[str, Any]:
        count = self._plan.nodes
        with self._nodes(1) as nodes:
            alone = self._pull("one node alone", nodes)
        strangers = self._strangers()
        joining = running_scheduler(self._directory / "scheduler", self._ending)
        with joining as flags, self._nodes(count, flags) as nodes:
            swarm = self._pull(f"{count} nodes, a swarm", nodes)
            again = self._pull(f"{nodes[0].name} again", nodes[:1])
        title = f"{count} nodes, {show_size(self._image.size_bytes)}, {_rate(self._plan)}"
        scenes = (alone, strangers, swarm, again)
        figures = self._figures(*scenes)
        encrypted = sum(client.has_certificate for client in swarm.clients)
        self._console.print(summary(title, scenes, alone.seconds, self._image.size_bytes))
        self._console.print(
            f"The swarm had the image {figures['strangers_to_swarm']:.1f} times sooner than nodes that do not know "
            f"each other, and the registry gave {figures['origin_copies']:.2f} copies of it, not {count}. "
            f"{encrypted} of its {count} nodes joined with a token and have certificates: pieces went encrypted.",
            highlight=False,
        )
        return figures

    @contextmanager
    def _nodes(self, count: int, flags: Mapping[str, str] | None = None) -> Iterator[list[DemoNode]]:
        """Nodes with empty stores. Without `flags` each has a scheduler of its own, and knows no other node."""
        rate = str(self._plan.rate_bytes_per_s)
        rates = {"origin-rate": rate, "download-rate": rate, "upload-rate": rate}
        upstream = {"upstream": f"docker.io={self._registry.url}"}
        with ExitStack() as stack:
            with self._console.status(f"Starting {count} node{'s' * (count > 1)}"):
                stores = stack.enter_context(tempfile.TemporaryDirectory(dir=self._directory))
                all_flags = {**upstream, **rates, **(flags or {})}
                nodes = stack.enter_context(running_nodes(Path(stores), count, all_flags, self._ending))
            yield nodes

    def _pull(self, title: str, nodes: Sequence[DemoNode]) -> Scene:
        before = self._registry.sent_bytes
        with LiveView(title, self._image.size_bytes, self._console) as view:
            clients, seconds = pull_at_once(nodes, DEFAULT_REFERENCE, view.run_demo, self._ending)
        return Scene(title, seconds, self._registry.sent_bytes - before, clients)

    def _strangers(self) -> Scene:
        plan, title = self._plan, f"{self._plan.nodes} nodes, each for itself"
        origin_bytes = plan.nodes * self._image.size_bytes
        least_s = origin_bytes / plan.rate_bytes_per_s if plan.rate_bytes_per_s else 0.0
        if least_s > plan.measured_up_to_s:
            return Scene(title, least_s, origin_bytes)
        with self._nodes(plan.nodes) as nodes:
            return self._pull(title, nodes)

    def _figures(self, alone: Scene, strangers: Scene, swarm: Scene, again: Scene) -> dict[str, Any]:
        """The figures. Copies and bytes are the registry's counts; those of single nodes are the nodes' own."""
        return {
            "nodes": self._plan.nodes,
            "image_bytes": self._image.size_bytes,
            "rate_bytes_per_s": self._plan.rate_bytes_per_s,
            "alone_s": round(alone.seconds, 3),
            "strangers_s": round(strangers.seconds, 3),
            "strangers_measured": strangers.measured,
            "swarm_s": round(swarm.seconds, 3),
            "swarm_to_alone": round(swarm.seconds / alone.seconds, 3),
            "strangers_to_swarm": round(strangers.seconds / swarm.seconds, 3),
            "origin_bytes": swarm.origin_bytes,
            "origin_copies": round(swarm.origin_bytes / self._image.size_bytes, 3),
            "again_s": round(again.seconds, 3),
            "again_origin_bytes": again.origin_bytes,
            "swarm": [
                {
                    "node": client.name,
                    "seconds": round(client.seconds or 0.0, 3),
                    "received_bytes": client.received_bytes,
                    "origin_bytes": client.origin_bytes,
                    "peer_bytes": client.peer_bytes,
                    "cache_bytes": client.cache_bytes,
                    "has_certificate": client.has_certificate,
                }
                for client in swarm.clients
            ],
        }


def _setting(plan: DemoPlan, image: BuiltImage) -> str:
    return (
        f"[bold]{image.reference}[/], made of this machine's files: {len(image.layers)} layers, "
        f"{show_size(image.size_bytes)}.\nThe registry is a thread of this process that serves them over HTTP: at most "
        f"{_rate(plan)}, for all nodes together.\nEach node is a process, p2pd as it is: at most {_rate(plan)} "
        "to other nodes, from them, and from the registry.\n"
    )


def _rate(plan: DemoPlan) -> str:
    return f"{show_size(plan.rate_bytes_per_s)}/s" if plan.rate_bytes_per_s else "what it can"
