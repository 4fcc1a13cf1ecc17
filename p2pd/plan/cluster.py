"""A cluster that pulls an image, and the lower bounds of its time: arithmetic, without the simulator.

Times are in seconds, rates in bytes per second. The image counts as one layer: most images have most of their bytes in
a few layers, which clients pull at the same time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scheduler.protocol.geometry import piece_count, piece_length

JOINS_PER_S = 2_000
"""Hosts that one scheduler takes into a swarm in a second (`python -m benchmarks scheduler`)."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster. `link` is the rate of each node's link, each way; `upload` the rate at which it may send, if lower.

    `site_uplink` is the rate of each site's uplink, each way, to the origin and to other sites; None: no limit.
    `cache_link` is the rate of the pull-through cache that p2pd is compared with; None: as a node's.
    """

    nodes: int
    image_bytes: int
    link: float
    origin: float
    sites: int = 1
    site_uplink: float | None = None
    upload: float | None = None
    cache_link: float | None = None

    @property
    def send(self) -> float:
        """The rate at which a node can send."""
        return min(self.link, self.upload or math.inf)

    @property
    def piece_bytes(self) -> int:
        return piece_length(self.image_bytes)

    @property
    def pieces(self) -> int:
        return piece_count(self.image_bytes, self.piece_bytes)

    @property
    def doublings(self) -> int:
        """The number of doublings until all nodes have a piece."""
        return int(math.log2(self.nodes))

    def terms_s(self) -> dict[str, float]:
        """The least time of each part of the cluster for the bytes that it has to carry (limit T1, and the sites')."""
        size = self.image_bytes
        return {
            "origin": size / self.origin,
            "node links": size / self.link,
            "node uploads": self.nodes * size / (self.origin + self.nodes * self.send),
            "site uplinks": size / (self.site_uplink or math.inf),
        }

    def fluid_s(self) -> float:
        """The least time if bytes flowed like a liquid."""
        return max(self.terms_s().values())

    def joins_s(self) -> float:
        """The time between the first pieces at all other hosts and the last host's join."""
        return max(0.0, self.nodes / JOINS_PER_S - self.doublings * self.piece_bytes / self.send)

    def registry_s(self) -> float:
        """The least time when every node gets everything from the registry."""
        at_site = math.ceil(self.nodes / self.sites)
        through_uplink_s = at_site * self.image_bytes / (self.site_uplink or math.inf)
        return max(self.nodes * self.image_bytes / self.origin, self.image_bytes / self.link, through_uplink_s)

    def pull_through_s(self) -> float:
        """The least time with a pull-through cache in each site that forwards bytes at once."""
        at_site = math.ceil(self.nodes / self.sites)
        cache_link = self.cache_link or self.link
        filled_s = max(self.sites * self.image_bytes / self.origin, self.terms_s()["site uplinks"])
        return max(filled_s, at_site * self.image_bytes / cache_link, self.image_bytes / self.link)
