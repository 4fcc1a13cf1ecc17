"""`background`: what a preheat leaves to others on its line, by HTTP and by the background transport.

Rules:
1. Two sites have one line between them, of one rate each way, with a queue before it. One node is at each end; the one
   that is preheated has the image from the other, not from the registry. `--in-site`: both nodes are in one site, and
   the line is the one of the node that is preheated.
2. The foreground is one TCP connection between two other hosts, over the same line. Its share is what it carries beside
   a preheat over what it carried just before without one. The preheat has to outlast it.
3. The line is free: the preheat alone, from the order to its end, over what the foreground carried alone.
4. A client takes over: it asks for the image when a part of it is there. Its speed is that of what was left, over what
   the foreground carried alone. What came twice are the verified bytes beyond the image.
5. Both transports play the same in networks of their own, one after the other.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import programs
from benchmarks.arguments import bytes_per_s, size
from benchmarks.background.foreground import throughput
from benchmarks.cluster.command import versions, workdir
from benchmarks.cluster.image import make_images, require_room
from benchmarks.cluster.nodes import Setting, setting
from benchmarks.command import Command, Measure, UnmeasurableError
from benchmarks.preheat.command import PreheatedSwarm
from benchmarks.report import Bar, Figure
from p2pd.simulation.scenario import Node, Scenario

FOREGROUND_BAR: Final = Bar(">=", 0.9)
FREE_BAR: Final = Bar(">=", 0.8)
AGAIN_BAR: Final = Bar("<=", 64 * 1024)
"""Less than a piece: the manifest and the config are counted too."""

LAN_BYTES_PER_S: Final = 125e6
HERE: Final = "hub"
THERE: Final = "edge"
BEGUN_SHARE: Final = 0.05
"""The foreground begins, and a client comes, when this part of the image is there."""

PROBE_BYTES: Final = 1
LOOK_EVERY_S: Final = 0.1
SLACK_S: Final = 300.0
TRANSPORTS: Final = ("bittorrent", "http")


class Line(PreheatedSwarm):
    """Two nodes at the ends of a line."""

    def received_bytes(self, source: str = "peer") -> int:
        """Verified bytes that the node at the other end has had."""
        return self._metric(f'p2pd_download_bytes_total{{source="{source}"}}')

    def background_bytes(self) -> int:
        """Of these, what the background transport brought."""
        return self._metric('p2pd_background_bytes_total{direction="received"}')

    def _metric(self, sample: str) -> int:
        return self._place.hosts[THERE].call(programs.metric, self._nodes[THERE][1], sample)

    def until_received(self, least: int) -> None:
        """Wait for so many verified bytes. Raises UnmeasurableError."""
        ends_s = time.monotonic() + self.bound_s
        while self.received_bytes() < least:
            if time.monotonic() > ends_s:
                raise UnmeasurableError(f"not within {self.bound_s:.0f} s: the first bytes of the preheat")
            time.sleep(LOOK_EVERY_S)


@dataclass(frozen=True, slots=True)
class Played:
    """What one transport did once. Shares are of what the foreground carries alone."""

    alone_bytes_per_s: float
    foreground_share: float
    beside_share: float
    """What the preheat had meanwhile."""
    free_share: float
    takeover_share: float
    again_bytes: int
    by_transport_share: float
    """Of the preheat on the free line."""


class BackgroundTestbed:
    """Plays each transport once a run, and remembers it."""

    def __init__(self, directory: Path, options: argparse.Namespace) -> None:
        self.runs: int = options.runs
        self._directory = directory
        self._size_bytes: int = options.size
        self._rate: float = options.rate
        self._queue: str = options.queue
        self._seconds: float = options.seconds
        self._site = {"site": HERE} if options.in_site else {}
        """Of both nodes; else each has its own."""
        self._played: dict[str, list[Played]] = {}

    def played(self, transport: str) -> list[Played]:
        if transport not in self._played:
            self._played[transport] = [self._play(transport, run) for run in range(self.runs)]
        return self._played[transport]

    def _play(self, transport: str, run: int) -> Played:
        directory = self._directory / f"{transport}-{run}"
        directory.mkdir()
        tags = ("free", "beside", "taken")
        require_room(self._directory, 4 * len(tags) * self._size_bytes)
        images = make_images(directory, dict.fromkeys(tags, (self._size_bytes,)), PROBE_BYTES)
        nodes = tuple(Node(name, LAN_BYTES_PER_S, LAN_BYTES_PER_S, site=name, rack=name) for name in (HERE, THERE))
        scenario = Scenario("background", nodes, (self._size_bytes,), LAN_BYTES_PER_S)
        with setting(scenario, images["free"], directory / "p2pd") as place, ExitStack() as stack:
            place.network.limit(THERE, self._rate, self._queue)
            flags = {"background-transport": transport, **self._site}
            return self._measure(place, Line(place, stack, is_open=False, more_flags=flags))

    def _measure(self, place: Setting, line: Line) -> Played:
        sender, receiver = place.network.host(at=HERE), place.network.host(at=THERE)
        line.bound_s = SLACK_S + 4 * self._size_bytes / self._rate
        begun = round(BEGUN_SHARE * self._size_bytes)
        for tag in ("free", "beside", "taken"):
            line.pull(tag, [HERE])
        alone = throughput(sender, receiver, self._seconds)

        began_s, by_transport = time.monotonic(), line.background_bytes()
        line.preheated(line.preheat("free", f"rack={THERE}"))
        free = self._size_bytes / (time.monotonic() - began_s)
        by_transport = line.background_bytes() - by_transport

        before = line.received_bytes()
        job = line.preheat("beside", f"rack={THERE}")
        line.until_received(before + begun)
        came = line.received_bytes()
        beside = throughput(sender, receiver, self._seconds)
        meanwhile = (line.received_bytes() - came) / self._seconds
        if not line.is_preheating(job):
            raise UnmeasurableError("the preheat ended before the foreground did: give a larger --size")
        line.cancel(job)

        before = line.received_bytes()
        line.preheat("taken", f"rack={THERE}")
        line.until_received(before + begun)
        line.prepare("taken", [THERE])
        left = self._size_bytes - (line.received_bytes() - before)
        took_s = line.pull_prepared([THERE])[THERE]
        again = line.received_bytes() - before - self._size_bytes
        return Played(
            alone,
            beside / alone,
            meanwhile / alone,
            free / alone,
            left / took_s / alone,
            max(0, again),
            by_transport / self._size_bytes,
        )


def play(transport: str) -> Measure[BackgroundTestbed]:
    """One transport; only the background transport has bars."""
    has_bars = transport == TRANSPORTS[0]

    def figures(bed: BackgroundTestbed) -> Sequence[Figure]:
        played = bed.played(transport)
        alone = {"alone_mbit_per_s": sum(each.alone_bytes_per_s * 8e-6 for each in played) / len(played)}
        beside = {"preheat_meanwhile": sum(each.beside_share for each in played) / len(played)}
        by_transport = {"by_transport": sum(each.by_transport_share for each in played) / len(played)}
        return [
            Figure(
                f"foreground.{transport}",
                [each.foreground_share for each in played],
                FOREGROUND_BAR if has_bars else None,
                alone | beside,
            ),
            Figure(
                f"free_line.{transport}",
                [each.free_share for each in played],
                FREE_BAR if has_bars else None,
                by_transport,
            ),
            Figure(f"takeover.{transport}", [each.takeover_share for each in played], FREE_BAR if has_bars else None),
            Figure(
                f"takeover_again_bytes.{transport}",
                [each.again_bytes for each in played],
                AGAIN_BAR if has_bars else None,
                {"load_1m": os.getloadavg()[0]},
            ),
        ]

    names = ("foreground", "free_line", "takeover", "takeover_again_bytes")
    return Measure(tuple(f"{name}.{transport}" for name in names), figures)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=bytes_per_s, default="50mbit", help="of the line (default %(default)s)")
    parser.add_argument("--size", type=size, default="256MiB", help="of each image (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=15.0, help="the foreground's duration (default %(default)s)")
    parser.add_argument("--queue", default="100ms", help="before the line, in time (default %(default)s)")
    parser.add_argument("--in-site", action="store_true", help="both nodes are in one site; the line is one node's own")
    parser.set_defaults(runs=1)


@contextmanager
def open_testbed(options: argparse.Namespace) -> Iterator[BackgroundTestbed]:
    below = options.workdir or workdir(4 * 3 * options.size)
    with tempfile.TemporaryDirectory(prefix="p2pd-benchmarks-", dir=below) as directory:
        yield BackgroundTestbed(Path(directory), options)


COMMAND = Command(
    name="background",
    summary="a preheat over a line between two sites, or of a node, by HTTP and by uTP, and what it leaves to others",
    measures=tuple(play(transport) for transport in TRANSPORTS),
    add_arguments=add_arguments,
    testbed=open_testbed,
    versions=versions,
)
