"""What happens in a cluster: who is where, who asks for what and when, what breaks.

A scenario is plain data, so that the simulator and a cluster of real processes can play the same one. Times are seconds
from the start, sizes and rates in bytes and bytes per second. Everything that is drawn by chance comes from the seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from scheduler.protocol.geometry import MAX_PIECE_BYTES, MIN_PIECE_BYTES, piece_count, piece_length

MIB: Final = 1024 * 1024

LAYERS_AT_A_TIME: Final = 3
"""How many layers of an image a client pulls at a time: what dockerd and containerd do unless told otherwise."""


LAYERS_AHEAD: Final = 3
"""How many more p2pd fetches ahead of those: the default of `prefetch_layers`."""


SEVERAL_SCHEDULERS: Final = 3
"""As the Helm chart runs, where a scenario needs several and the shape has one."""


class Misbehaviour(Enum):
    """What a malicious host does."""

    CORRUPTS = "sends other bytes than it was asked for"
    CLAIMS = "says that it holds everything, and serves nothing"
    HOARDS = "takes leases, and fetches nothing"
    MISLEADS = "says wrong digests of what it has from the origin, each its own, and sends bytes that match them"
    CONSPIRES = "as MISLEADS, and all that do it say the same wrong digests"


MISLEADING: Final = (Misbehaviour.MISLEADS, Misbehaviour.CONSPIRES)
"""Hosts whose harm shows only when the SHA-256 of a whole blob is wrong, unless it is found before."""


@dataclass(frozen=True, slots=True)
class Node:
    """A host and its client. `wave`: its client begins `starts_s` after all hosts of earlier waves are done."""

    name: str
    up_bytes_per_s: float
    down_bytes_per_s: float
    site: str = ""
    rack: str = ""
    starts_s: float = 0.0
    wave: int = 0
    holds_image: bool = False
    vanishes_s: float | None = None
    misbehaviour: Misbehaviour | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """For a while, what is in `rack` reaches nothing outside of it."""

    rack: str
    begins_s: float
    ends_s: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """`blobs` are the sizes of the image's layers, in the order in which clients ask for them.

    If `images` is more than 1, they are the layers of so many images, the first image's first, with equal numbers of
    layers. Each client pulls all images at once.
    `site_bytes_per_s` is what a site's own line to the others and to the origin carries, each way; None: no limit.
    `latency_s` is one way between hosts of a site, `far_latency_s` between sites and to the origin, and
    `scheduler_latency_s` to the scheduler.
    `schedulers` divide the blobs. `scheduler_gone` is from when until when the first blob's one is not there: it has
    not been there before if that begins before 0, and never returns if it has no end.
    """

    name: str
    nodes: tuple[Node, ...]
    blobs: tuple[int, ...]
    origin_bytes_per_s: float
    origin_connections: int = 1024
    site_bytes_per_s: float | None = None
    latency_s: float = 0.00025
    far_latency_s: float = 0.005
    scheduler_latency_s: float = 0.0005
    schedulers: int = 1
    scheduler_gone: tuple[float, float] | None = None
    cut: Cut | None = None
    images: int = 1
    seed: int = 0

    @property
    def layers(self) -> int:
        """The number of layers of an image."""
        return len(self.blobs) // self.images

    @property
    def image_bytes(self) -> int:
        return sum(self.blobs)

    @property
    def pieces(self) -> int:
        return sum(piece_count(size, piece_length(size)) for size in self.blobs)

    def wanting(self) -> tuple[Node, ...]:
        """The hosts that are expected to get the image: those that want it, are honest, and stay."""
        return tuple(
            node
            for node in self.nodes
            if not node.holds_image and node.misbehaviour is None and node.vanishes_s is None
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a cluster and of what it pulls, from which a scenario is made. Every host has the same link.

    `blobs` are the layers of all `images`. `rate_bytes_per_s` is what a host sends at most, and `down_bytes_per_s` what
    it receives; None: as much. `origin_bytes_per_s` None: the origin's line is as fast as a host's, which is what the
    limit is best known for.
    """

    nodes: int
    blobs: tuple[int, ...]
    rate_bytes_per_s: float = 125e6
    down_bytes_per_s: float | None = None
    origin_bytes_per_s: float | None = None
    sites: int = 1
    site_bytes_per_s: float | None = None
    hosts_per_rack: int = 32
    latency_s: float = 0.00025
    far_latency_s: float = 0.005
    images: int = 1
    schedulers: int = 1
    seed: int = 0

    def one_pull_s(self) -> float:
        """How long one host alone would take at the speed of its link: the measure of time for what happens when."""
        return sum(self.blobs) / self.rate_bytes_per_s


def blob_of(pieces: int) -> int:
    """The largest size in bytes that makes so many pieces. Raises ValueError if none does."""
    length = MAX_PIECE_BYTES
    while length >= MIN_PIECE_BYTES:
        if piece_length(pieces * length) == length:
            return pieces * length
        length //= 2
    raise ValueError(f"no blob has {pieces} pieces")


def flash_crowd(shape: Shape) -> Scenario:
    """Everybody asks at the same moment, and nobody has anything."""
    return Scenario(
        name="flash-crowd",
        nodes=tuple(_nodes(shape)),
        blobs=shape.blobs,
        origin_bytes_per_s=shape.origin_bytes_per_s or shape.rate_bytes_per_s,
        site_bytes_per_s=shape.site_bytes_per_s,
        latency_s=shape.latency_s,
        far_latency_s=shape.far_latency_s,
        images=shape.images,
        schedulers=shape.schedulers,
        seed=shape.seed,
    )


def rolling_update(shape: Shape) -> Scenario:
    """A fifth of the hosts at a time; the next fifth when the one before has the image."""
    base = flash_crowd(shape)
    size = -(-shape.nodes // 5)
    return _with(base, "rolling-update", lambda index, node: replace(node, wave=index // size))


def late_joiners(shape: Shape) -> Scenario:
    """Half of the hosts ask at once, the others over the time of one and a half pulls."""
    base, chance = flash_crowd(shape), random.Random(shape.seed)
    end = 1.5 * shape.one_pull_s()
    return _with(
        base, "late-joiners", lambda index, node: replace(node, starts_s=chance.uniform(0, end)) if index % 2 else node
    )


def warm_newcomers(shape: Shape) -> Scenario:
    """Nine in ten hold the image; the others ask for it at the same moment."""
    return _with(flash_crowd(shape), "warm-newcomers", lambda index, node: replace(node, holds_image=bool(index % 10)))


def mixed_speeds(shape: Shape) -> Scenario:
    """A third of the hosts have half the rate, a third the double."""
    factors = (1.0, 0.5, 2.0)

    def changed(index: int, node: Node) -> Node:
        factor = factors[index % 3]
        return replace(
            node, up_bytes_per_s=factor * node.up_bytes_per_s, down_bytes_per_s=factor * node.down_bytes_per_s
        )

    return _with(flash_crowd(shape), "mixed-speeds", changed)


def churn(shape: Shape) -> Scenario:
    """One host in ten vanishes during the pull."""
    base, chance = flash_crowd(shape), random.Random(shape.seed)
    pull_s = shape.one_pull_s()
    return _with(
        base,
        "churn",
        lambda index, node: replace(node, vanishes_s=chance.uniform(0.1, 0.9) * pull_s) if index % 10 == 5 else node,
    )


def rack_cut_off(shape: Shape) -> Scenario:
    """The hosts of one rack reach nothing outside of it for a quarter of the pull."""
    base = flash_crowd(shape)
    pull_s = shape.one_pull_s()
    return replace(base, name="rack-cut-off", cut=Cut(base.nodes[-1].rack, 0.3 * pull_s, 0.55 * pull_s))


def scheduler_gone(shape: Shape) -> Scenario:
    """The first blob's scheduler is gone for a quarter of the pull, and then there again, and knows nothing."""
    pull_s = shape.one_pull_s()
    return replace(flash_crowd(shape), name="scheduler-gone", scheduler_gone=(0.3 * pull_s, 0.55 * pull_s))


def scheduler_lost(shape: Shape) -> Scenario:
    """The first blob's scheduler of several is gone in the middle of the pull, for good."""
    gone = (0.3 * shape.one_pull_s(), math.inf)
    return replace(flash_crowd(_with_several(shape)), name="scheduler-lost", scheduler_gone=gone)


def scheduler_added(shape: Shape) -> Scenario:
    """One scheduler more is there from the middle of the pull on. The first blob is at it from then on."""
    gone = (-math.inf, 0.3 * shape.one_pull_s())
    return replace(flash_crowd(_with_several(shape)), name="scheduler-added", scheduler_gone=gone)


def _with_several(shape: Shape) -> Shape:
    return shape if shape.schedulers > 1 else replace(shape, schedulers=SEVERAL_SCHEDULERS)


def malicious(shape: Shape) -> Scenario:
    """One host in ten is malicious, of each kind as many, but for those of `misled`."""
    vices = tuple(misbehaviour for misbehaviour in Misbehaviour if misbehaviour not in MISLEADING)
    return _with(
        flash_crowd(shape),
        "malicious",
        lambda index, node: replace(node, misbehaviour=vices[index // 10 % len(vices)]) if index % 10 == 5 else node,
    )


def misled(shape: Shape) -> Scenario:
    """One host in ten says wrong digests of pieces, and has them confirmed by nobody."""
    return _misled_by(Misbehaviour.MISLEADS, "misled", shape)


def misled_together(shape: Shape) -> Scenario:
    """One host in ten says wrong digests of pieces, all of them the same, and confirms those of the others."""
    return _misled_by(Misbehaviour.CONSPIRES, "misled-together", shape)


def _misled_by(vice: Misbehaviour, name: str, shape: Shape) -> Scenario:
    return _with(
        flash_crowd(shape), name, lambda index, node: replace(node, misbehaviour=vice) if index % 10 == 5 else node
    )


def many_layers(shape: Shape) -> Scenario:
    """The bytes of the image are in thirty layers, each somewhat smaller than the one before."""
    total = sum(shape.blobs)
    weights = [0.85**index for index in range(30)]
    sizes = tuple(max(1, round(total * weight / sum(weights))) for weight in weights)
    return replace(flash_crowd(replace(shape, blobs=sizes)), name="many-layers")


def size_mix(shape: Shape) -> Scenario:
    """As many bytes in layers as real registries have them.

    Of the requests in IBM's registry traces 65 % are for less than 1 MB, 80 % for less than 10 MB, and the largest 6 %
    carry 65 % of the bytes (Anwar et al., FAST '18, and a recount of the whole trace).
    """
    chance, total = random.Random(shape.seed), sum(shape.blobs)
    sizes: list[int] = []
    largest = max(64 * MIB, total // 12)
    while sum(sizes) < total:
        share = chance.random()
        low, high = (
            (1_000, 10**6) if share < 0.65 else (10**6, 10**7) if share < 0.8 else (10**7, largest)
            if share < 0.94 else (largest, 4 * largest)
        )  # fmt: skip
        sizes.append(round(low * (high / low) ** chance.random()))
    return replace(flash_crowd(replace(shape, blobs=tuple(sizes))), name="size-mix")


SCENARIOS: Final[dict[str, Callable[[Shape], Scenario]]] = {
    "flash-crowd": flash_crowd,
    "rolling-update": rolling_update,
    "late-joiners": late_joiners,
    "warm-newcomers": warm_newcomers,
    "mixed-speeds": mixed_speeds,
    "churn": churn,
    "rack-cut-off": rack_cut_off,
    "scheduler-gone": scheduler_gone,
    "scheduler-lost": scheduler_lost,
    "scheduler-added": scheduler_added,
    "malicious": malicious,
    "misled": misled,
    "misled-together": misled_together,
    "many-layers": many_layers,
    "size-mix": size_mix,
}
"""By the name that the command line has for each."""


def _nodes(shape: Shape) -> Iterator[Node]:
    """Hosts in racks, racks in sites: the same number of each in every site, but for the last."""
    per_site = -(-shape.nodes // shape.sites)
    sites = [f"s{site}" for site in range(shape.sites)]  # one object for each: hosts are compared by it at every turn
    for index in range(shape.nodes):
        site, place = divmod(index, per_site)
        yield Node(
            name=f"n{index:05}",
            up_bytes_per_s=shape.rate_bytes_per_s,
            down_bytes_per_s=shape.down_bytes_per_s or shape.rate_bytes_per_s,
            site=sites[site],
            rack=f"s{site}r{place // shape.hosts_per_rack}",
        )


def _with(base: Scenario, name: str, change: Callable[[int, Node], Node]) -> Scenario:
    return replace(base, name=name, nodes=tuple(change(index, node) for index, node in enumerate(base.nodes)))
