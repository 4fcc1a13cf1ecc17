"""The stage of every policy: the hosts of a scenario and their lines, the origin, clients, and the result.

A policy defines how a layer gets to a host (`Policy.pull`), and reports landed bytes to the stage. The rest is the same
for all policies. Clients request the image's layers a few at a time, as with p2pd (`p2pd.simulation.run`); lines are
those of `p2pd.simulation.bandwidth`, and the machines' costs those of `p2pd.simulation.costs`.

Favourable to all policies: no machine, line or message fails, and a manifest costs nothing.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any, Final

from benchmarks.policies.sharing import SharedServer
from p2pd.simulation.bandwidth import Line, Lines
from p2pd.simulation.costs import ANSWER_S, VERIFY_BYTES_PER_S
from p2pd.simulation.event_queue import EventQueue
from p2pd.simulation.result import RunResult, limit_s, registry_s
from p2pd.simulation.scenario import LAYERS_AT_A_TIME, Node, Scenario
from scheduler.protocol.geometry import piece_count, piece_length

CURVE_STEP: Final = 1 / 60
"""The part of the image between two points of a host's curve."""

TOO_SLOW: Final = 60.0
"""A scenario counts as endless after the registry's own time and this many times the limit."""


class UnplayableError(Exception):
    """A policy's model does not cover an event of the scenario."""


class StuckError(Exception):
    """Hosts that want the image do not get it."""


class Layer:
    """A blob in pieces of the policy's length."""

    __slots__ = ("count", "length", "number", "size_bytes")

    def __init__(self, number: int, size_bytes: int, length: int) -> None:
        self.number = number
        self.size_bytes = size_bytes
        self.length = length
        self.count = piece_count(size_bytes, length)

    def bytes_of(self, index: int) -> int:
        """The length of a piece."""
        return min(self.length, self.size_bytes - index * self.length)


class PolicyHost:
    """A node's two lines, and its client's progress."""

    __slots__ = ("down", "going", "got_bytes", "name", "node", "up", "waiting")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.name = node.name
        self.up = Line(node.up_bytes_per_s)
        self.down = Line(node.down_bytes_per_s)
        self.got_bytes = 0
        self.waiting: deque[Layer] = deque()
        self.going = 0


class Policy(ABC):
    """A policy. `piece_length` gives the length of a blob's pieces: p2pd's own if the policy does not care."""

    piece_length: Callable[[int], int] = staticmethod(piece_length)

    def __init__(self, stage: Stage) -> None:
        self.stage: Final = stage

    @abstractmethod
    def pull(self, host: PolicyHost, layer: Layer) -> None:
        """A client requests a layer. The policy reports each landed byte by `Stage.landed`."""


class Stage:
    """One play of a scenario by one policy. `holders` had the image before; the others of `hosts` want it."""

    def __init__(self, scenario: Scenario, cut: Callable[[int], int], *, curves: bool = False) -> None:
        _require_playable(scenario)
        self.scenario: Final = scenario
        self.event_queue: Final = EventQueue()
        self.chance: Final = random.Random(scenario.seed)
        self.lines: Final = Lines(self.event_queue)
        self.layers: Final = [Layer(number, size, cut(size)) for number, size in enumerate(scenario.blobs)]
        self.hosts: Final = [PolicyHost(node) for node in scenario.nodes]
        self.holders: Final = [host for host in self.hosts if host.node.holds_image]
        self.origin: Final = SharedServer(
            self.event_queue,
            scenario.origin_bytes_per_s,
            streams=scenario.origin_connections,
            site_rate=scenario.site_bytes_per_s,
        )
        self.link_messages = 0
        self.scheduler_messages = 0
        self._draws: Final = curves
        self._site_bytes: Final[dict[str, float]] = defaultdict(float)
        self._sites_in: Final[dict[str, Line]] = {}
        self._sites_out: Final[dict[str, Line]] = {}
        if scenario.site_bytes_per_s is not None:
            for node in scenario.nodes:
                self._sites_in.setdefault(node.site, Line(scenario.site_bytes_per_s))
                self._sites_out.setdefault(node.site, Line(scenario.site_bytes_per_s))
        self._began_s: Final[dict[str, float]] = {}
        self._done_s: Final[dict[str, float]] = {}
        self._layers_s: Final[dict[str, list[float]]] = defaultdict(lambda: [0.0] * len(scenario.blobs))
        self._curves: Final[dict[str, list[tuple[float, float]]]] = defaultdict(list)
        self._missing_bytes: Final[dict[tuple[PolicyHost, int], int]] = {}
        self._unfinished: Final = Counter(node.wave for node in scenario.wanting())

    def play(self, policy: Policy) -> RunResult:
        """The result of the play. Raises StuckError if some host never gets the image."""
        scenario = self.scenario
        bound_s = registry_s(scenario) + TOO_SLOW * (1 + limit_s(scenario))
        self._begin(policy)
        while self._unfinished:
            due = self.event_queue.next()
            if due is None or due > bound_s:
                raise StuckError(f"{len(scenario.wanting()) - len(self._done_s)} hosts did not get the image")
            self.event_queue.step()
        return RunResult(
            scenario,
            began_s=self._began_s,
            done_s=self._done_s,
            origin_bytes=self.origin.sent_bytes,
            site_bytes=dict(self._site_bytes),
            link_messages=self.link_messages,
            scheduler_messages=self.scheduler_messages,
            curves=self._curves,
            layers_s={name: self._layers_s[name] for name in self._done_s},
        )

    # -- clients ---------------------------------------------------------------------------------------------------

    def _begin(self, policy: Policy) -> None:
        """Start the clients of the first unfinished wave, each at its own time."""
        wave = min(self._unfinished, default=None)
        for host in self.hosts:
            if host.node.wave == wave and not host.node.holds_image:
                self.event_queue.after(host.node.starts_s, self._client, host, policy)

    def _client(self, host: PolicyHost, policy: Policy) -> None:
        self._began_s[host.name] = self.event_queue.now
        host.waiting.extend(self.layers)
        for _ in range(LAYERS_AT_A_TIME):
            self._ask(host, policy)

    def _ask(self, host: PolicyHost, policy: Policy) -> None:
        if host.waiting:
            layer = host.waiting.popleft()
            host.going += 1
            self._missing_bytes[host, layer.number] = layer.size_bytes
            policy.pull(host, layer)

    def landed(self, policy: Policy, host: PolicyHost, layer: Layer, size: int) -> bool:
        """A host has `size` more verified bytes of a layer. Returns whether the layer is whole."""
        now = self.event_queue.now
        host.got_bytes += size
        if self._draws:
            self._draw(host, now)
        self._missing_bytes[host, layer.number] -= size
        if self._missing_bytes[host, layer.number]:
            return False
        self._layers_s[host.name][layer.number] = now
        host.going -= 1
        self._ask(host, policy)
        if not host.going:
            self._done_s[host.name] = now
            self._finish(host.node.wave, policy)
        return True

    def _finish(self, wave: int, policy: Policy) -> None:
        self._unfinished[wave] -= 1
        if not self._unfinished[wave]:
            del self._unfinished[wave]
            self._begin(policy)

    def _draw(self, host: PolicyHost, now: float) -> None:
        curve, share = self._curves[host.name], host.got_bytes / self.scenario.image_bytes
        if not curve:
            curve.append((self._began_s[host.name], 0.0))
        if share >= min(1.0, curve[-1][1] + CURVE_STEP):
            curve.append((now, share))

    # -- ways ------------------------------------------------------------------------------------------------------

    def latency_s(self, one: PolicyHost, other: PolicyHost) -> float:
        """The one-way latency from host to host."""
        scenario = self.scenario
        return scenario.latency_s if one.node.site == other.node.site else scenario.far_latency_s

    def request_s(self, one: PolicyHost, other: PolicyHost) -> float:
        """The time from a request to the first byte of the answer, without the way back."""
        return self.latency_s(one, other) + ANSWER_S

    def send(
        self, sender: PolicyHost, receiver: PolicyHost, size: int, sent: Callable[..., object], *args: Any
    ) -> None:
        """Send bytes from host to host; `sent` is called when the last byte has left."""
        way: tuple[Line, ...] = (sender.up, receiver.down)
        if self._sites_in and sender.node.site != receiver.node.site:
            way = (sender.up, self._sites_out[sender.node.site], self._sites_in[receiver.node.site], receiver.down)
        self.crossed(sender, receiver, size)
        self.lines.send(size, way, sent, *args)

    def crossed(self, sender: PolicyHost, receiver: PolicyHost, size: int) -> None:
        """Count bytes from host to host."""
        if sender.node.site != receiver.node.site:
            self._site_bytes[receiver.node.site] += size

    def taken_in_s(self, sender: PolicyHost, receiver: PolicyHost, size: int) -> float:
        """The time from the last byte's leaving until the piece is verified and written."""
        return self.latency_s(sender, receiver) + size / VERIFY_BYTES_PER_S

    def fetch(self, host: PolicyHost, layer: Layer, landed: Callable[..., object], *args: Any) -> None:
        """Get a layer from the origin in one stream. `landed(index, *args)` is called for each piece."""
        self.event_queue.after(2 * self.scenario.far_latency_s + ANSWER_S, self._fetch, host, layer, landed, args)

    def _fetch(self, host: PolicyHost, layer: Layer, landed: Callable[..., object], args: tuple[Any, ...]) -> None:
        site, most = host.node.site, host.node.down_bytes_per_s
        for index in range(layer.count):
            size = layer.bytes_of(index)
            self.origin.send(host.name, site, most, size, self._fetched, host, size, landed, (index, *args))

    def _fetched(self, host: PolicyHost, size: int, landed: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._site_bytes[host.node.site] += size
        self.event_queue.after(self.scenario.far_latency_s + size / VERIFY_BYTES_PER_S, landed, *args)


def _require_playable(scenario: Scenario) -> None:
    """Raises UnplayableError for a scenario with failures or several images."""
    broken = [
        what
        for what, happens in {
            "hosts that vanish": any(node.vanishes_s is not None for node in scenario.nodes),
            "malicious hosts": any(node.misbehaviour is not None for node in scenario.nodes),
            "a rack that is cut off": scenario.cut is not None,
            "a scheduler that is gone": scenario.scheduler_gone is not None,
            "several images": scenario.images > 1,
        }.items()
        if happens
    ]
    if broken:
        raise UnplayableError(f"{scenario.name} has {' and '.join(broken)}, which only p2pd is simulated with")
