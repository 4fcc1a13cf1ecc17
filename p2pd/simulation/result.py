"""How close a pull came to the physical limit: the same figures for simulated and for real hosts.

The limits (Kumar and Ross, 2006; Mundinger, Weber and Weiss, 2008): no schedule can be faster than the larger of

    T1 = max(S / C, S / min d, N S / (C + sum u))        bytes that flow like a liquid
    T2 = (S / u) (1 + floor(log2 N) / M)                 whole pieces, for C = u: a piece is had before it is sent

for N hosts that want S bytes in M pieces, an origin that sends C bytes per second, uplinks u and downlinks d.
Efficiency is that limit over the time it took.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from p2pd.simulation.scenario import Scenario

UNPACK_BYTES_PER_S: Final = 25e6
"""The compressed bytes of a layer that a core unpacks in a second: `tar xzf` took 18 and 40 MB a second for two
directories of small files. Runtimes unpack the layers of an image one after the other."""


@dataclass(frozen=True, slots=True)
class SchedulerLoad:
    """What a scheduler had to do: events of its core, messages from and to hosts, and what these cost of a core."""

    events: int = 0
    messages: int = 0
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a scenario. Times are seconds from its start; only hosts that were to get the image count."""

    scenario: Scenario
    began_s: Mapping[str, float]
    done_s: Mapping[str, float]
    """When each host had the whole image, verified. One that never got it is not in it."""
    origin_bytes: float
    site_bytes: Mapping[str, float] = field(default_factory=dict)
    """What came into each site from elsewhere, origin included."""
    link_messages: int = 0
    scheduler_messages: int = 0
    """To and from all schedulers."""
    schedulers: Sequence[SchedulerLoad] = ()
    """Of each scheduler, that of the first blob first; empty if nobody counted."""
    alone_s: float = 0.0
    """The longest time that a host had no scheduler for a blob on its way, after it had one."""
    moved_blobs: int = 0
    """Blobs that some host has joined at another scheduler than before."""
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """How much of the image, 0 to 1, each host had at which time."""
    layers_s: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """When each host had each layer, in the scenario's order; empty if nobody noted it."""
    wrong_pieces: int = 0
    """Pieces with other bytes than the origin's that an honest host marked as held."""

    def failed(self) -> list[str]:
        """The hosts that were to get the image, and did not."""
        return [node.name for node in self.scenario.wanting() if node.name not in self.done_s]

    def took_s(self) -> list[float]:
        """How long each host took, from its own start, shortest first."""
        return sorted(self.done_s[name] - self.began_s[name] for name in self.done_s)

    def whole_s(self) -> float:
        """From the first host's start to the last one's end."""
        return max(self.done_s.values()) - min(self.began_s.values())

    def efficiency_last(self, *, goodput: float = 1.0) -> float:
        """The limit over the time of the last host."""
        return limit_s(self.scenario, goodput=goodput) / self.whole_s()

    def efficiency_p50(self, *, goodput: float = 1.0) -> float:
        """The limit over the median time; where hosts begin at their own times, of one that begins alone."""
        return limit_s(self.scenario, goodput=goodput) / median(self.took_s())

    def first_layers_s(self) -> list[float]:
        """How long each image's first layer took from the host's start, shortest first: then unpacking can begin."""
        layers = self.scenario.layers
        return sorted(s - self.began_s[name] for name, done_s in self.layers_s.items() for s in done_s[::layers])

    def starts_s(self) -> list[float]:
        """How long it took from each host's start until each image was unpacked, shortest first.

        A layer is unpacked when it is there and those before it are unpacked (`UNPACK_BYTES_PER_S`).
        """
        starts, layers = [], self.scenario.layers
        for name, done_s in self.layers_s.items():
            for first in range(0, len(done_s), layers):
                unpacked_s = 0.0
                for number in range(first, first + layers):
                    unpacked_s = max(unpacked_s, done_s[number]) + self.scenario.blobs[number] / UNPACK_BYTES_PER_S
                starts.append(unpacked_s - self.began_s[name])
        return sorted(starts)

    def images_in_order(self) -> float:
        """Of all pairs of images on a host, the part in which the image that was asked for first is whole first."""
        layers, pairs = self.scenario.layers, []
        for done_s in self.layers_s.values():
            whole = [max(done_s[first : first + layers]) for first in range(0, len(done_s), layers)]
            pairs += [older <= younger for older, younger in itertools.combinations(whole, 2)]
        return sum(pairs) / len(pairs) if pairs else 1.0

    def origin_copies(self) -> float:
        return self.origin_bytes / self.scenario.image_bytes

    def site_copies(self) -> float:
        """Copies of the image that crossed a site's line, for the site with the most."""
        return max(self.site_bytes.values(), default=0.0) / self.scenario.image_bytes

    def moved_share(self) -> float:
        """The part of the blobs that have moved to another scheduler."""
        return self.moved_blobs / len(self.scenario.blobs)

    def busiest(self) -> SchedulerLoad:
        """The scheduler with the most to do."""
        return max(self.schedulers, key=lambda each: each.busy_s, default=SchedulerLoad())

    def busiest_share(self) -> float:
        """The busiest scheduler's part of what all schedulers had to do."""
        return self.busiest().busy_s / (sum(each.busy_s for each in self.schedulers) or 1.0)

    def progress_share(self) -> float:
        """Links' messages for each piece that a host got."""
        return self.link_messages / max(1, len(self.done_s) * self.scenario.pieces)


def limit_s(scenario: Scenario, *, goodput: float = 1.0) -> float:
    """The least time from start to end in which all that want the image can have it.

    A wave begins when those before it have ended, and none is faster than one pull, or than the uplinks of all hosts of
    it and of the waves before. `goodput` is what part of a link's rate carries the image's bytes, as one link was
    measured to have it.
    """
    wanting, size = scenario.wanting(), scenario.image_bytes
    if not wanting:
        return 0.0
    serving = [node for node in scenario.nodes if node.misbehaviour is None]
    cold = not any(node.holds_image for node in serving)
    rate = scenario.origin_bytes_per_s + sum(node.up_bytes_per_s for node in serving)
    pull_s = size / min(node.down_bytes_per_s for node in wanting)
    if scenario.site_bytes_per_s is not None and cold:
        pull_s = max(pull_s, size / scenario.site_bytes_per_s)
    waves = sorted({node.wave for node in wanting})
    first = [node for node in wanting if node.wave == waves[0]]
    first_s = max(pull_s, len(first) * size / rate)
    if cold:
        fastest = max(scenario.origin_bytes_per_s, *(node.up_bytes_per_s for node in serving))
        ramp = math.floor(math.log2(len(first))) / max(1, scenario.pieces)
        first_s = max(first_s, size / scenario.origin_bytes_per_s, size / fastest * (1 + ramp))
    later_s = sum(_wave_s(scenario, wave, pull_s) for wave in waves[1:])
    last_start_s = max(node.starts_s for node in wanting)
    whole_s = max(first_s + later_s, len(wanting) * size / rate, last_start_s + pull_s)
    return whole_s / goodput


def _wave_s(scenario: Scenario, wave: int, pull_s: float) -> float:
    """The least time for a wave after the first: hosts of later waves neither hold the image nor want it yet."""
    taking_part = [node for node in scenario.nodes if node.misbehaviour is None and node.wave <= wave]
    rate = scenario.origin_bytes_per_s + sum(node.up_bytes_per_s for node in taking_part)
    count = sum(node.wave == wave for node in scenario.wanting())
    return max(pull_s, count * scenario.image_bytes / rate)


def registry_s(scenario: Scenario) -> float:
    """How long it takes when every host gets everything from the origin (limit L0)."""
    wanting, size = scenario.wanting(), scenario.image_bytes
    slowest = min(node.down_bytes_per_s for node in wanting)
    return max(len(wanting) * size / scenario.origin_bytes_per_s, size / slowest)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of `values` lie; they are sorted."""
    return values[min(len(values) - 1, math.ceil(share * len(values)) - 1)] if share else values[0]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
