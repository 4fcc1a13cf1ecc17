"""A scenario, played: what clients ask for and what breaks, on a mock clock of trio that jumps ahead.

Clients are actions of the event queue and no tasks: trio runs tasks that are due at the same time in an order of its
own.
"""

from __future__ import annotations

import gc
import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final

import trio
import trio.testing

from p2pd.simulation.blobs import Contents
from p2pd.simulation.cluster import SimulatedCluster
from p2pd.simulation.host import SimulatedHost
from p2pd.simulation.result import RunResult, limit_s
from p2pd.simulation.scenario import LAYERS_AHEAD, LAYERS_AT_A_TIME, Scenario
from scheduler.core.settings import SchedulerSettings

SETTLED_S: Final = 3.0
"""When the scenario begins: all hosts have connected by then."""

CONNECTED_S: Final = 0.5
CURVE_POINTS: Final = 60
"""Points of each host's progress in the time that the limit allows for all."""

TOO_SLOW: Final = 60.0
"""Times the limit after which a scenario counts as one that never ends, and as many seconds more."""


def run(
    scenario: Scenario, *, settings: SchedulerSettings | None = None, curves: bool = False, checks: bool = False
) -> RunResult:
    """What comes of a scenario. Deterministic. Raises trio.TooSlowError if some host never gets its image."""
    collects = gc.isenabled()
    gc.disable()  # nothing is garbage before the end, and each collection would look at millions of objects
    try:
        one = Run(SimulatedCluster(scenario, settings, checks=checks), curves=curves)
        trio.run(one.run, clock=trio.testing.MockClock(autojump_threshold=0))
        return one.result()
    finally:
        if collects:
            gc.enable()


class Run:
    """One play of a scenario."""

    def __init__(self, cluster: SimulatedCluster, *, curves: bool = False) -> None:
        self.cluster: Final = cluster
        self.scenario: Final = cluster.scenario
        self._draws: Final = curves
        self._began_s: Final[dict[str, float]] = {}
        self._done_s: Final[dict[str, float]] = {}
        self._curves: Final[dict[str, list[tuple[float, float]]]] = defaultdict(list)
        self._waiting: Final[dict[tuple[str, int], deque[Contents]]] = {}
        """The layers that a host's client has still to ask for, by the number of their image."""
        self._going: Final[dict[str, set[bytes]]] = defaultdict(set)
        self._numbers: Final = {digest: number for number, digest in enumerate(cluster.blobs)}
        self._layers_s: Final[dict[str, list[float]]] = {}
        self._layers_missing: Final[dict[str, int]] = {}
        self._expected: Final = {node.name: node.wave for node in self.scenario.wanting()}
        self._finished: Final[dict[int, trio.Event]] = {wave: trio.Event() for wave in self._expected.values()}
        self._missing: Final = Counter(self._expected.values())
        cluster.on_completed = self._completed

    async def run(self) -> None:
        """Until all that are to get the image have it."""
        self._set_up()
        with trio.fail_after(SETTLED_S + TOO_SLOW * (1 + limit_s(self.scenario))):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.cluster.event_queue.drive)
                if self._draws:
                    nursery.start_soon(self._watch)
                for finished in self._finished.values():
                    await finished.wait()
                nursery.cancel_scope.cancel()

    def result(self) -> RunResult:
        """What came of it."""
        cluster = self.cluster
        return RunResult(
            self.scenario,
            began_s={name: began_s - SETTLED_S for name, began_s in self._began_s.items() if name in self._done_s},
            done_s={name: done_s - SETTLED_S for name, done_s in self._done_s.items()},
            origin_bytes=cluster.origin_bytes,
            site_bytes=dict(cluster.site_bytes),
            link_messages=cluster.link_messages,
            scheduler_messages=cluster.schedulers.messages,
            schedulers=[each.load() for each in cluster.schedulers.all],
            alone_s=cluster.schedulers.alone_s,
            moved_blobs=len(cluster.schedulers.moved),
            curves=self._curves,
            layers_s={name: [s - SETTLED_S for s in self._layers_s[name]] for name in self._done_s},
            wrong_pieces=cluster.wrong_pieces,
        )

    def _set_up(self) -> None:
        cluster = self.cluster
        for host in cluster.hosts.values():
            if host.node.holds_image:
                host.hold(cluster.blobs.values())
            cluster.event_queue.after(cluster.chance.uniform(0, CONNECTED_S), cluster.connect, host)
        for when_s, action in self._breakages():
            cluster.event_queue.at(SETTLED_S + when_s, action)
        cluster.event_queue.at(SETTLED_S, self._begin, min(self._finished, default=0))

    def _breakages(self) -> list[tuple[float, Callable[[], None]]]:
        """What breaks or is mended, and when."""
        cluster, scenario = self.cluster, self.scenario
        breaks: list[tuple[float, Callable[[], None]]] = [
            (node.vanishes_s, partial(cluster.vanish, cluster.hosts[node.name]))
            for node in scenario.nodes
            if node.vanishes_s is not None
        ]
        if scenario.scheduler_gone is not None:
            begins_s, ends_s = scenario.scheduler_gone
            breaks += [(begins_s, cluster.schedulers.stop)] if begins_s >= 0 else []
            breaks += [(ends_s, cluster.schedulers.start)] if ends_s < math.inf else []
        if scenario.cut is not None:
            cut = scenario.cut
            breaks += [(cut.begins_s, partial(cluster.cut, cut.rack)), (cut.ends_s, cluster.mend)]
        return breaks

    def _begin(self, wave: int) -> None:
        """The clients of a wave start, each at its own time."""
        for node in self.scenario.nodes:
            if node.wave == wave and not node.holds_image:
                self.cluster.event_queue.after(node.starts_s, self._client, self.cluster.hosts[node.name])

    def _client(self, host: SimulatedHost) -> None:
        """Pulls the images, a few layers of each at a time."""
        self._began_s[host.name] = self.cluster.event_queue.now
        blobs, layers = list(self.cluster.blobs.values()), self.scenario.layers
        self._layers_s[host.name] = [0.0] * len(blobs)
        self._layers_missing[host.name] = len(blobs)
        for image in range(self.scenario.images):
            self._waiting[host.name, image] = deque(blobs[image * layers : (image + 1) * layers])
            for _ in range(LAYERS_AT_A_TIME):
                self._ask(host, image)

    def _ask(self, host: SimulatedHost, image: int) -> None:
        """A client asks for the next layer, and p2pd fetches some more ahead."""
        waiting = self._waiting[host.name, image]
        if waiting:
            blob = waiting.popleft()
            self._going[host.name].add(blob.digest)
            if blob.digest in host.whole:
                self._completed(host, blob)
            for ahead in (blob, *islice(waiting, LAYERS_AHEAD)):
                host.pull(ahead)

    def _completed(self, host: SimulatedHost, blob: Contents) -> None:
        going, now = self._going[host.name], self.cluster.event_queue.now
        if blob.digest not in going:
            return
        going.remove(blob.digest)
        number = self._numbers[blob.digest]
        self._layers_s[host.name][number] = now
        self._layers_missing[host.name] -= 1
        self.cluster.event_queue.after(0, self._ask, host, number // self.scenario.layers)
        if host.name in self._expected and not self._layers_missing[host.name]:
            self._done_s[host.name] = now
            self._finish(host.node.wave)

    def _finish(self, wave: int) -> None:
        self._missing[wave] -= 1
        if not self._missing[wave]:
            self._finished[wave].set()
            later = [other for other in self._finished if other > wave]
            if later:
                self.cluster.event_queue.after(0, self._begin, min(later))

    async def _watch(self) -> None:
        """Notes how much of the image each host has."""
        total = self.scenario.image_bytes
        await trio.sleep_until(SETTLED_S)
        while True:
            for name in self._expected:
                host = self.cluster.hosts[name]
                self._curves[name].append((trio.current_time() - SETTLED_S, host.got_bytes / total))
            await trio.sleep(max(0.01, limit_s(self.scenario) / CURVE_POINTS))
