"""A scenario, played: what clients ask for and what breaks are tasks of trio, on a mock clock that jumps ahead."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Final

import trio
import trio.testing

from scheduler.core.settings import Settings
from simulation.host import Host
from simulation.pull import Contents
from simulation.report import Played, limit_s
from simulation.scenario import LAYERS_AT_A_TIME, Node, Scenario
from simulation.world import World

SETTLED_S: Final = 3.0
"""When the scenario begins: all hosts have connected by then."""

CONNECTED_S: Final = 0.5
CURVE_POINTS: Final = 60
"""Points of each host's progress in the time that the limit allows for all."""

TOO_SLOW: Final = 60.0
"""Times the limit after which a scenario counts as one that never ends, and as many seconds more."""


def play(scenario: Scenario, *, settings: Settings | None = None, curves: bool = False, checks: bool = False) -> Played:
    """What comes of a scenario. Deterministic. Raises trio.TooSlowError if some host never gets its image."""
    collects = gc.isenabled()
    gc.disable()  # nothing is garbage before the end, and each collection would look at millions of objects
    try:
        scene = Scene(World(scenario, settings, checks=checks), curves=curves)
        trio.run(scene.run, clock=trio.testing.MockClock(autojump_threshold=0))
        return scene.played()
    finally:
        if collects:
            gc.enable()


class Scene:
    """One play of a scenario."""

    def __init__(self, world: World, *, curves: bool = False) -> None:
        self.world: Final = world
        self.scenario: Final = world.scenario
        self._draws: Final = curves
        self._began_s: Final[dict[str, float]] = {}
        self._done_s: Final[dict[str, float]] = {}
        self._curves: Final[dict[str, list[tuple[float, float]]]] = defaultdict(list)
        self._whole: Final[dict[tuple[str, bytes], trio.Event]] = defaultdict(trio.Event)
        self._expected: Final = {node.name: node.wave for node in self.scenario.wanting()}
        self._finished: Final[dict[int, trio.Event]] = {wave: trio.Event() for wave in self._expected.values()}
        self._missing: Final = {wave: list(self._expected.values()).count(wave) for wave in self._finished}
        world.on_completed = lambda host, blob: self._whole[host.name, blob.digest].set()

    async def run(self) -> None:
        """Until all that are to get the image have it."""
        self._set_up()
        with trio.fail_after(SETTLED_S + TOO_SLOW * (1 + limit_s(self.scenario))):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.world.timeline.drive)
                for node in self.scenario.nodes:
                    if not node.holds_image:
                        nursery.start_soon(self._client, node)
                for when_s, action in self._breakages():
                    nursery.start_soon(self._at, SETTLED_S + when_s, action)
                if self._draws:
                    nursery.start_soon(self._watch)
                for finished in self._finished.values():
                    await finished.wait()
                nursery.cancel_scope.cancel()

    def played(self) -> Played:
        """What came of it."""
        world = self.world
        return Played(
            self.scenario,
            began_s={name: began_s for name, began_s in self._began_s.items() if name in self._done_s},
            done_s=self._done_s,
            origin_bytes=world.origin.sent_bytes,
            site_bytes=dict(world.site_bytes),
            link_messages=world.link_messages,
            scheduler_messages=world.scheduler_messages,
            curves=self._curves,
            wrong_pieces=world.wrong_pieces,
        )

    def _set_up(self) -> None:
        world = self.world
        for host in world.hosts.values():
            if host.node.holds_image:
                host.hold(world.blobs.values())
            world.timeline.after(world.chance.uniform(0, CONNECTED_S), world.connect, host)

    def _breakages(self) -> list[tuple[float, Callable[[], None]]]:
        """What breaks or is mended, and when."""
        world, scenario = self.world, self.scenario
        breaks: list[tuple[float, Callable[[], None]]] = [
            (node.vanishes_s, partial(world.vanish, world.hosts[node.name]))
            for node in scenario.nodes
            if node.vanishes_s is not None
        ]
        if scenario.scheduler_gone is not None:
            begins_s, ends_s = scenario.scheduler_gone
            breaks += [(begins_s, world.stop_scheduler), (ends_s, world.start_scheduler)]
        if scenario.cut is not None:
            cut = scenario.cut
            breaks += [(cut.begins_s, partial(world.cut, cut.rack)), (cut.ends_s, world.mend)]
        return breaks

    async def _at(self, when_s: float, action: Callable[[], None]) -> None:
        await trio.sleep_until(when_s)
        self.world.timeline.catch_up()
        action()

    async def _client(self, node: Node) -> None:
        """Pulls the image, a few layers at a time."""
        for wave, finished in self._finished.items():
            if wave < node.wave:
                await finished.wait()
        await trio.sleep_until(max(SETTLED_S, trio.current_time()) + node.starts_s)
        self.world.timeline.catch_up()
        self._began_s[node.name] = self.world.timeline.now
        slots = trio.Semaphore(LAYERS_AT_A_TIME)
        async with trio.open_nursery() as layers:
            for blob in self.world.blobs.values():
                await slots.acquire()
                layers.start_soon(self._layer, self.world.hosts[node.name], blob, slots)
        if node.name in self._expected:
            self._missing[node.wave] -= 1
            if not self._missing[node.wave]:
                self._finished[node.wave].set()

    async def _layer(self, host: Host, blob: Contents, slots: trio.Semaphore) -> None:
        self.world.timeline.catch_up()
        whole = self._whole[host.name, blob.digest]
        host.pull(blob)
        await whole.wait()
        slots.release()
        if host.name in self._expected:
            self._done_s[host.name] = self.world.timeline.now

    async def _watch(self) -> None:
        """Notes how much of the image each host has."""
        total = self.scenario.image_bytes
        while True:
            for name in self._expected:
                host = self.world.hosts[name]
                self._curves[name].append((trio.current_time() - SETTLED_S, host.got_bytes / total))
            await trio.sleep(max(0.01, limit_s(self.scenario) / CURVE_POINTS))
