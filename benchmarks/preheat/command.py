"""`preheat`: real nodes in network namespaces, with and without a preheat before clients pull.

Rules:
1. Half of the nodes are preheated, selected by a label (their rack). Then the clients of all nodes pull at the same
   moment. Beside it, the same nodes pull another image of the same size that nobody has.
2. Bytes from the origin are all that the registry's access log has of the hosts' addresses in that time: layers,
   configs and manifests.
3. One client pulls alone, and then another image of the same size while all nodes, its own too, are being preheated
   with a third one. The two are measured in turns, and compared pair by pair. The preheat has to outlast the pull.
4. The rest is as in `cluster`: hosts with certificates, links of one rate, files in memory if there is room.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from benchmarks import programs
from benchmarks.arguments import bytes_per_s, size, within
from benchmarks.cluster.command import MAX_NODES, versions, workdir
from benchmarks.cluster.image import Image, got_bytes, make_images, require_room
from benchmarks.cluster.nodes import Setting, SwarmClients, setting
from benchmarks.cluster.player import POLL_INTERVAL_S
from benchmarks.command import Command, Measure, UnmeasurableError
from benchmarks.procfs import busy_share, machine_cpu_s
from benchmarks.report import Bar, Figure, ratios
from p2pd.admin.client import AdminClient
from p2pd.config.values import parse_address
from p2pd.simulation.scenario import Scenario, Shape, flash_crowd

ORIGIN_BAR: Final = Bar("<=", 0)
DURING_BAR: Final = Bar("<=", 1.1)

BOUND_S: Final = 120.0
"""Whatever takes longer is stuck."""

LOOK_EVERY_S: Final = 0.1
PREHEAT_SIZES: Final = 8
"""The image that is preheated beside a client's pull, in sizes of the client's: it comes later than that."""

PROBE_BYTES: Final = 1
OVER: Final = frozenset({"succeeded", "partly", "failed", "cancelled"})


class PreheatedSwarm(SwarmClients):
    """Nodes whose scheduler is asked for preheats."""

    bound_s = BOUND_S

    def preheat(self, tag: str, to: str, rate_bytes_per_s: float = 0) -> str:
        """Order a preheat, of which each host takes this rate at most (0: no limit); returns its id."""
        request = {
            "images": [f"{programs.REPOSITORY}:{tag}"],
            "to": to,
            "rate": round(rate_bytes_per_s),
            "within": f"{self.bound_s:.0f}s",
        }
        return str(self._asked(lambda client: client.preheat(request, secrets.token_hex(8)))["id"])

    def preheated(self, job: str) -> dict[str, Any]:
        """Wait for the end of a preheat. Raises UnmeasurableError if a host has not all of it."""
        ended = self._ended(job)
        if ended["state"] != "succeeded":
            reasons = sorted({each["reason"] for each in ended["results"]})
            raise UnmeasurableError(f"the preheat is {ended['state']}: {'; '.join(reasons)[:300]}")
        return ended

    def is_preheating(self, job: str) -> bool:
        return self._asked(lambda client: client.preheat_of(job))["state"] not in OVER

    def cancel(self, job: str) -> None:
        self._asked(lambda client: client.preheat_of(job, "cancel"))
        self._ended(job)
        _until(lambda: not any(self.is_downloading(name) for name in self._nodes), "the hosts stop preheating")

    def is_downloading(self, name: str) -> bool:
        said = self._place.hosts[name].call(programs.answer, self._nodes[name][1], "/status")
        return bool(said["downloads"]["active"])

    def pull(self, tag: str, names: Collection[str]) -> dict[str, float]:
        """Have the clients of these hosts pull at the same moment. Returns after how many seconds each had it all."""
        self.prepare(tag, names)
        return self.pull_prepared(names)

    def pull_prepared(self, names: Collection[str]) -> dict[str, float]:
        began_s = time.monotonic()
        for name in names:
            self._begin(name)
        took_s: dict[str, float] = {}
        while len(took_s) < len(names):
            now_s = time.monotonic() - began_s
            took_s |= dict.fromkeys(self.ended(), now_s)
            if now_s > self.bound_s:
                raise UnmeasurableError(
                    f"not within {self.bound_s:.0f} s: {len(names) - len(took_s)} clients have no image"
                )
            time.sleep(POLL_INTERVAL_S)
        return took_s

    def _ended(self, job: str) -> dict[str, Any]:
        _until(lambda: not self.is_preheating(job), "the preheat ends", self.bound_s)
        return self._asked(lambda client: client.preheat_of(job))

    def _asked(self, ask: Callable[[AdminClient], dict[str, Any]]) -> dict[str, Any]:
        """What the scheduler's admin port answers, which is on the loopback of its namespace."""
        client = AdminClient(parse_address(self._scheduler.address), self._place.directory / "scheduler")
        return self._scheduler_host.call(ask, client)


@dataclass(frozen=True, slots=True)
class Pulls:
    """The pulls of all hosts, seconds by host, and the bytes that hosts took from the origin meanwhile."""

    cold_s: Mapping[str, float]
    warm_s: Mapping[str, float]
    preheat_s: float
    preheated: Collection[str]
    from_origin_bytes: int
    from_origin_others_bytes: int
    """By the hosts that were not preheated."""

    def last_s(self) -> float:
        """Until the last of the hosts that were preheated has it all."""
        return max(self.warm_s[name] for name in self.preheated)


class PreheatTestbed:
    """One network for all measures: what one of them pulls, no other one does."""

    def __init__(
        self, directory: Path, scenario: Scenario, runs: int, stack: ExitStack, preheat_bytes_per_s: float
    ) -> None:
        self.scenario = scenario
        self.runs = runs
        self._preheat_bytes_per_s = preheat_bytes_per_s
        self._directory = directory
        self._stack = stack

    @cached_property
    def _images(self) -> dict[str, Image]:
        one, large = self.scenario.blobs, (PREHEAT_SIZES * self.scenario.image_bytes,)
        sizes: dict[str, Sequence[int]] = {}
        for run in range(self.runs):
            sizes |= {f"{kind}{run}": one for kind in ("cold", "warm", "alone", "during")} | {f"beside{run}": large}
        written = sum(sum(each) for each in sizes.values())
        require_room(self._directory, (len(self.scenario.nodes) + 1) * written)
        return make_images(self._directory, sizes, PROBE_BYTES)

    @cached_property
    def _place(self) -> Setting:
        image = next(iter(self._images.values()))
        return self._stack.enter_context(setting(self.scenario, image, self._directory / "p2pd"))

    @cached_property
    def swarm(self) -> PreheatedSwarm:
        place = self._place
        return PreheatedSwarm(place, self._stack.enter_context(ExitStack()), is_open=False)

    def pulls(self, run: int) -> Pulls:
        swarm, place = self.swarm, self._place
        rack = self.scenario.nodes[0].rack
        preheated = {node.name for node in self.scenario.nodes if node.rack == rack}
        cold_s = swarm.pull(f"cold{run}", list(place.hosts))
        began_s = time.monotonic()
        swarm.preheated(swarm.preheat(f"warm{run}", f"rack={rack}"))
        preheat_s = time.monotonic() - began_s
        swarm.prepare(f"warm{run}")
        before = place.origin_log()
        warm_s = swarm.pull_prepared(list(place.hosts))
        log = place.origin_log()[len(before) :]
        addresses = {name: host.address for name, host in place.hosts.items()}
        warm = {addresses[name] for name in preheated}
        others = got_bytes(log, {*addresses.values()} - warm)
        return Pulls(cold_s, warm_s, preheat_s, preheated, got_bytes(log, warm), others)

    def alone_s(self, run: int) -> float:
        """One client's pull, while nothing else is pulled."""
        client = self.scenario.nodes[-1].name
        return self.swarm.pull(f"alone{run}", [client])[client]

    def during_s(self, run: int) -> float:
        """The same with another image, while all are preheated with a third one. Raises UnmeasurableError."""
        swarm, client = self.swarm, self.scenario.nodes[-1].name
        swarm.prepare(f"during{run}", [client])
        job = swarm.preheat(f"beside{run}", "all", self._preheat_bytes_per_s)
        _until(lambda: swarm.is_downloading(client), "the preheat begins")
        took_s = swarm.pull_prepared([client])[client]
        if not swarm.is_preheating(job):
            raise UnmeasurableError("the preheat ended before the client's pull did: is the machine busy?")
        swarm.cancel(job)
        return took_s


def warm(bed: PreheatTestbed) -> list[Figure]:
    """Pulls after a preheat, beside pulls without one."""
    pulls = [bed.pulls(run) for run in range(bed.runs)]
    cold_s = [max(each.cold_s.values()) for each in pulls]
    preheated_s = [each.last_s() for each in pulls]
    all_s = [max(each.warm_s.values()) for each in pulls]
    of = {"cold_s": statistics.median(cold_s)}
    copies = [each.from_origin_others_bytes / bed.scenario.image_bytes for each in pulls]
    return [
        Figure("origin_bytes.preheated", [each.from_origin_bytes for each in pulls], ORIGIN_BAR),
        Figure("origin_copies.others", copies),
        Figure("cold_over_preheated", ratios(cold_s, preheated_s), None, of | {"s": statistics.median(preheated_s)}),
        Figure("cold_over_all", ratios(cold_s, all_s), None, of | {"s": statistics.median(all_s)}),
        Figure("preheat_s", [each.preheat_s for each in pulls]),
    ]


def beside(bed: PreheatTestbed) -> list[Figure]:
    """A client's pull during a preheat, over the same alone."""
    alone_s, during_s, cpu_shares = [], [], []
    for run in range(bed.runs):
        alone_s.append(bed.alone_s(run))
        before = machine_cpu_s()
        during_s.append(bed.during_s(run))
        cpu_shares.append(busy_share(before))
    sides = {"during_s": statistics.median(during_s), "alone_s": statistics.median(alone_s)}
    return [
        Figure("pull_during_preheat", ratios(during_s, alone_s), DURING_BAR, sides),
        Figure("cpu_share", cpu_shares),
    ]


def _until(holds: Callable[[], bool], what: str, bound_s: float = BOUND_S) -> None:
    deadline_s = time.monotonic() + bound_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise UnmeasurableError(f"not within {bound_s:.0f} s: {what}")
        time.sleep(LOOK_EVERY_S)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=within(2, MAX_NODES), default=16, help="nodes (default %(default)s)")
    parser.add_argument("--rate", type=bytes_per_s, default="25mbit", help="of every link (default %(default)s)")
    parser.add_argument("--origin-rate", type=bytes_per_s, help="of the registry's link (default as --rate)")
    parser.add_argument(
        "--preheat-rate", type=bytes_per_s, default=0, help="of each host in the preheat beside a pull (default: any)"
    )
    parser.add_argument("--size", type=size, default="8MiB", help="of the images (default %(default)s)")
    parser.set_defaults(runs=1)


@contextmanager
def open_testbed(options: argparse.Namespace) -> Iterator[PreheatTestbed]:
    shape = Shape(
        nodes=options.nodes,
        blobs=(options.size,),
        rate_bytes_per_s=options.rate,
        origin_bytes_per_s=options.origin_rate,
        hosts_per_rack=max(1, options.nodes // 2),
    )
    written = options.runs * (4 + PREHEAT_SIZES) * (options.nodes + 1) * options.size
    below = options.workdir or workdir(written)
    with tempfile.TemporaryDirectory(prefix="p2pd-benchmarks-", dir=below) as directory, ExitStack() as stack:
        yield PreheatTestbed(Path(directory), flash_crowd(shape), options.runs, stack, options.preheat_rate)


COMMAND = Command(
    name="preheat",
    summary="real nodes in network namespaces that are preheated, and what that costs a client beside it",
    measures=(
        Measure(
            ("origin_bytes.preheated", "origin_copies.others", "cold_over_preheated", "cold_over_all", "preheat_s"),
            warm,
        ),
        Measure(("pull_during_preheat", "cpu_share"), beside),
    ),
    add_arguments=add_arguments,
    testbed=open_testbed,
    versions=versions,
)
