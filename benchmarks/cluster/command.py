"""`cluster`: N real nodes on this machine, each in a network namespace with links of one rate, pull one image.

Rules:
1. The time is from the first client's start to the last client's end: each client then has the whole image, verified.
   The limit is computed from the links' goodput, which one plain transfer through a link measures first.
2. The same scenario is played with p2pd, with all clients at the registry, and with all clients at one pull-through
   cache that has a host's link. The last two take N S / C seconds, so they are played at the same time, in networks of
   their own: they are bound by links and hardly by processors.
3. All nodes share this machine (`cpu_share` counts all cores and all processes). If the share comes near 1, the machine
   was measured and not p2pd.
4. Files are in memory if there is room: a host of a real cluster does not share its disk with all others. The memory is
   written to just before, because a virtual machine may get memory page by page at the first touch. That costs one to
   two seconds of a core for each GiB, and is no work of the nodes.
5. The swarm is as users run it: hosts with certificates, pieces encrypted. `--open` plays one without, for what that
   costs and for figures from before there were certificates. The bars are for both.
6. Malicious hosts exist only in the simulator: no real process plays them.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Final

from benchmarks import programs
from benchmarks.arguments import GIB, bytes_per_s, size, within
from benchmarks.cluster.image import Image, make_image, require_room
from benchmarks.cluster.nodes import (
    REGISTRY_PORT,
    Clients,
    Setting,
    SwarmClients,
    counted_since,
    goodput,
    latency_s,
    setting,
)
from benchmarks.cluster.player import Playing, play
from benchmarks.command import Command, Measure
from benchmarks.procfs import machine_cpu_s
from benchmarks.report import Bar, Figure
from p2pd.simulation.result import RunResult, limit_s, median, registry_s
from p2pd.simulation.scenario import SCENARIOS, Scenario, Shape

BARS: Final = {
    "efficiency_last": Bar(">=", 0.9),
    "cpu_s_per_node": Bar("<=", 1.2),
    "origin_copies": Bar("<=", 1.02),
    "speedup_vs_registry": Bar(">=", 10),
    "vs_simulated": Bar(">=", 0.85),
}
"""The bars of a flash crowd for an image of one layer; other scenarios have no bars here."""

LAYERS_BARS: Final = {
    "efficiency_last": Bar(">=", 0.85),
    "cpu_s_per_node": Bar("<=", 1.0),
    "cpu_share": Bar("<=", 0.5),
}
"""The bars that are others for an image of several layers: they were set for 20 layers of 8 MiB."""

MEMORY: Final = Path("/dev/shm")  # noqa: S108 (files there are in a directory of their own)
"""A directory in memory, on most machines."""

MAX_NODES: Final = 200
"""All addresses are of one /24, of which switches, scheduler and registries need some."""

MAX_LAYERS: Final = 127
"""The most that docker allows."""

HOSTS_PER_RACK: Final = 4
PROBE_S: Final = 3.0
"""The duration of the plain transfer that measures goodput: the start of a connection is a small part of it."""

CHUNK_BYTES: Final = 2**20

SLACK: Final = 3.0
SLACK_S: Final = 120.0
"""A scenario counts as stuck after `SLACK` times the time with the registry alone, and `SLACK_S` more."""

UNPLAYABLE: Final = {"malicious", "misled", "misled-together", "scheduler-lost", "scheduler-added"}
PLAYABLE: Final = [name for name in SCENARIOS if name not in UNPLAYABLE]


@dataclass(frozen=True, slots=True)
class Link:
    """The measured values of a link: goodput in bytes per second, and one-way latency."""

    goodput: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class ClusterRun:
    """A scenario played with p2pd, and its costs."""

    played: RunResult
    cpu_share: float
    nodes_cpu_s: float
    clients_cpu_s: float
    reread_bytes: int


class ClusterTestbed:
    """One scenario. `runs` are with p2pd, made at the first use; `wanted` names the figures, all if it is empty."""

    def __init__(
        self, directory: Path, scenario: Scenario, base_rate: float, runs: int, wanted: Sequence[str], *, is_open: bool
    ) -> None:
        self.scenario = scenario
        self.is_open = is_open
        self._directory = directory
        self._base_rate = base_rate
        self._count = runs
        self._wanted = wanted

    def wants(self, name: str) -> bool:
        return not self._wanted or name in self._wanted

    @property
    def bars(self) -> dict[str, Bar]:
        """By figure."""
        if self.scenario.name != "flash-crowd":
            return {}
        return BARS if len(self.scenario.blobs) == 1 else {**BARS, **LAYERS_BARS}

    @property
    def goodput_share(self) -> float:
        """The part of a link's rate that carries the image's bytes."""
        return self.link.goodput / self._base_rate

    @property
    def limit_s(self) -> float:
        return limit_s(self.scenario, goodput=self.goodput_share)

    @property
    def bound_s(self) -> float:
        return SLACK * registry_s(self.scenario) / self.goodput_share + SLACK_S

    @cached_property
    def image(self) -> Image:
        require_room(self._directory, files_bytes(self.scenario))
        return make_image(self._directory, self.scenario.blobs, round(PROBE_S * self._base_rate))

    @cached_property
    def link(self) -> Link:
        """The link between a registry and one host, measured at the requested rate."""
        [node] = SCENARIOS["flash-crowd"](Shape(1, (1,), self._base_rate)).nodes
        alone = replace(self.scenario, nodes=(node,), origin_bytes_per_s=self._base_rate, cut=None)
        with setting(alone, self.image, self._directory / "link") as place:
            return Link(goodput(place), latency_s(place))

    @cached_property
    def runs(self) -> list[ClusterRun]:
        return [self._run() for _ in range(self._count)]

    def _run(self) -> ClusterRun:
        bound_s = self.bound_s
        with setting(self.scenario, self.image, self._directory / "p2pd") as place:
            with ExitStack() as stack:
                swarm = SwarmClients(place, stack, is_open=self.is_open)
                swarm.prepare()
                swarm.fill(bound_s)
                touch_memory(self._directory / "touched", len(self.scenario.wanting()) * self.scenario.image_bytes)
                sent_before, entered_before, before = place.origin_bytes(), place.site_bytes(), swarm.counts()
                machine_before, clients_before = machine_cpu_s(), _clients_cpu_s()
                playing = Playing(self.scenario, swarm, bound_s)
                play(playing)
                machine, clients_cpu_s = machine_cpu_s(), _clients_cpu_s() - clients_before
                counts, entered = counted_since(before, swarm.counts()), place.site_bytes()
            busy_s, idle_s = (now - then for now, then in zip(machine, machine_before, strict=True))
            played = playing.played(
                origin_bytes=place.origin_bytes() - sent_before,
                site_bytes={site: entered[site] - entered_before[site] for site in entered},
                link_messages=counts.link_messages,
                scheduler_messages=counts.scheduler_messages,
            )
        return ClusterRun(played, busy_s / (busy_s + idle_s), counts.cpu_s, clients_cpu_s, counts.reread_bytes)

    def others(self, names: Sequence[str]) -> dict[str, RunResult]:
        """The scenario without p2pd, in each of these ways, all of them at the same time."""
        with ExitStack() as stack:
            playings = {}
            for name in names:
                place = stack.enter_context(setting(self.scenario, self.image, self._directory / name))
                crowd = Clients(place, OTHERS[name](place, stack), stack)
                crowd.prepare()
                playings[name] = (place, Playing(self.scenario, crowd, self.bound_s))
            play(*(playing for _, playing in playings.values()))
            return {
                name: playing.played(origin_bytes=place.origin_bytes()) for name, (place, playing) in playings.items()
            }

    def simulated(self) -> RunResult:
        """The same scenario in virtual time, over links with the measured values."""
        from p2pd.simulation.run import run as simulate

        return simulate(as_measured(self.scenario, self.goodput_share, self.link.latency_s))


def files_bytes(scenario: Scenario) -> int:
    """The bytes that nodes, registry and cache write."""
    return (len(scenario.nodes) + 2) * scenario.image_bytes


def touch_memory(file: Path, size_bytes: int) -> None:
    """Write `size_bytes` to a new file, and remove the file (rule 4)."""
    chunk = bytes(CHUNK_BYTES)
    with file.open("wb", buffering=0) as stream:
        for _ in range(-(-size_bytes // CHUNK_BYTES)):
            stream.write(chunk)
    file.unlink()


def workdir(needed_bytes: int) -> Path | None:
    """The default directory of files: in memory, unless they would take more than half of its free space."""
    free_bytes = min(shutil.disk_usage(MEMORY).free, programs.available_bytes()) if MEMORY.is_dir() else 0
    return MEMORY if needed_bytes < free_bytes // 2 else None


def as_measured(scenario: Scenario, goodput_share: float, latency: float) -> Scenario:
    """The scenario with the links' goodput as rates, and with their latency."""

    def scaled(bytes_per_s: float) -> float:
        return goodput_share * bytes_per_s

    return replace(
        scenario,
        nodes=tuple(
            replace(node, up_bytes_per_s=scaled(node.up_bytes_per_s), down_bytes_per_s=scaled(node.down_bytes_per_s))
            for node in scenario.nodes
        ),
        origin_bytes_per_s=scaled(scenario.origin_bytes_per_s),
        latency_s=latency,
        far_latency_s=latency,
    )


def _registry(place: Setting, _stack: ExitStack) -> str:
    return place.registry.address


def _pull_through(place: Setting, stack: ExitStack) -> str:
    """A docker-registry as a pull-through cache of the other, at a host with a link like the others'."""
    link = place.scenario.nodes[0].up_bytes_per_s
    host = place.network.host(link, link)
    cache = programs.docker_registry(
        place.directory / "cache", pull_through_from=place.registry, address=f"{host.address}:{REGISTRY_PORT}"
    )
    return host.call(stack.enter_context, cache).address


OTHERS: Final = {"speedup_vs_registry": _registry, "speedup_vs_pull_through": _pull_through}
"""The other ways of distribution: each gives the address that every client asks."""


def _clients_cpu_s() -> float:
    """CPU seconds of all ended child processes. While a scenario is played those are clients, with their start."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def swarm(bed: ClusterTestbed) -> list[Figure]:
    """The figures of the real swarm."""
    limit, runs, pulls = bed.limit_s, bed.runs, len(bed.scenario.wanting())
    gib = pulls * bed.scenario.image_bytes / GIB
    times = {"limit_s": limit, "last_s": statistics.median(run.played.whole_s() for run in runs)}
    sites = len({node.site for node in bed.scenario.nodes})
    link = {"goodput_mbit": 8e-6 * bed.link.goodput, "latency_ms": 1000 * bed.link.latency_s}

    def figure(name: str, samples: Sequence[float], sides: dict[str, float] | None = None) -> Figure:
        return Figure(name, samples, bed.bars.get(name), sides or {})

    return [
        figure("goodput_share", [bed.goodput_share], link),
        figure("hosts_with_certificate", [0 if bed.is_open else len(bed.scenario.nodes)]),
        figure("efficiency_p50", [limit / median(run.played.took_s()) for run in runs]),
        figure("efficiency_last", [limit / run.played.whole_s() for run in runs], times),
        figure("origin_copies", [run.played.origin_copies() for run in runs]),
        *([figure("site_copies", [run.played.site_copies() for run in runs])] if sites > 1 else []),
        figure("messages_per_piece", [run.played.progress_share() for run in runs]),
        figure("scheduler_messages_per_host", [run.played.scheduler_messages / pulls for run in runs]),
        figure("cpu_share", [run.cpu_share for run in runs]),
        figure("cpu_s_per_node", [run.nodes_cpu_s / pulls for run in runs]),
        figure("cpu_s_per_gib.nodes", [run.nodes_cpu_s / gib for run in runs]),
        figure("reread_share", [run.reread_bytes / (gib * GIB) for run in runs]),
        figure("cpu_s_per_gib.clients", [run.clients_cpu_s / gib for run in runs]),
    ]


def vs_simulated(bed: ClusterTestbed) -> list[Figure]:
    """The simulator's figures for the same scenario over the measured ones."""
    expected_s = bed.simulated().whole_s()
    ratios = [expected_s / run.played.whole_s() for run in bed.runs]
    return [Figure("vs_simulated", ratios, bed.bars.get("vs_simulated"), {"simulated_s": expected_s})]


def vs_others(bed: ClusterTestbed) -> list[Figure]:
    """The time without p2pd over the time with p2pd. Each way is played once: it is long, and bound by links."""
    runs = bed.runs
    return [
        Figure(
            name,
            [other.whole_s() / run.played.whole_s() for run in runs],
            bed.bars.get(name),
            {"other_s": other.whole_s(), "other_origin_copies": other.origin_copies()},
        )
        for name, other in bed.others([name for name in OTHERS if bed.wants(name)]).items()
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nodes", type=within(2, MAX_NODES), default=16, help="nodes that there are (default %(default)s)"
    )
    parser.add_argument("--rate", type=bytes_per_s, default="100mbit", help="of every link (default %(default)s)")
    parser.add_argument(
        "--size", "--layer-size", type=size, default="256MiB", help="of each layer of the image (default %(default)s)"
    )
    parser.add_argument("--layers", type=within(1, MAX_LAYERS), default=1, help="of the image (default %(default)s)")
    parser.add_argument(
        "--sites", type=within(1, MAX_NODES), default=1, help="in which the nodes are (default %(default)s)"
    )
    parser.add_argument(
        "--scenario", choices=PLAYABLE, default="flash-crowd", help="what happens (default %(default)s)"
    )
    parser.add_argument("--open", action="store_true", help="without certificates, pieces in the clear (rule 5)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn by chance (default %(default)s)")
    parser.set_defaults(runs=1)


@contextmanager
def open_testbed(options: argparse.Namespace) -> Iterator[ClusterTestbed]:
    shape = Shape(
        nodes=options.nodes,
        blobs=(options.size,) * options.layers,
        rate_bytes_per_s=options.rate,
        sites=options.sites,
        hosts_per_rack=HOSTS_PER_RACK,
        seed=options.seed,
    )
    scenario = SCENARIOS[options.scenario](shape)
    below = options.workdir or workdir(files_bytes(scenario))
    with tempfile.TemporaryDirectory(prefix="p2pd-benchmarks-", dir=below) as directory:
        yield ClusterTestbed(Path(directory), scenario, options.rate, options.runs, options.only, is_open=options.open)


def versions() -> dict[str, str]:
    return {"p2pd": metadata.version("p2pd")} | programs.versions()


COMMAND = Command(
    name="cluster",
    summary="real nodes in network namespaces with links of one rate, beside the limit and other ways",
    measures=(
        Measure(
            (
                "goodput_share",
                "hosts_with_certificate",
                "efficiency_p50",
                "efficiency_last",
                "origin_copies",
                "site_copies",
                "messages_per_piece",
                "scheduler_messages_per_host",
                "cpu_share",
                "cpu_s_per_node",
                "cpu_s_per_gib.nodes",
                "reread_share",
                "cpu_s_per_gib.clients",
            ),
            swarm,
        ),
        Measure(("speedup_vs_registry", "speedup_vs_pull_through"), vs_others),
        Measure(("vs_simulated",), vs_simulated),
    ),
    add_arguments=add_arguments,
    testbed=open_testbed,
    versions=versions,
)
