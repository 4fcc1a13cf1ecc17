"""One pull-through cache in front of the origin: a docker-registry (distribution) with `proxy.remoteurl`.

The cache has the link of the scenario's first host, is in that host's site, and sends to all clients at once, to each
at the same rate. It sends while it fetches: no client has a piece before the cache has it. If some host holds the image
at the start, it got the image from the cache, so the cache holds it too.

Favourable: each layer is fetched once. distribution 2.8 passes requests that come during a fetch on to the origin, with
a fetch for each (`registry/proxy/proxyblobstore.go`). Also, the cache's disk and machine keep up with its link, and no
client is refused.
"""

from __future__ import annotations

from typing import Final

from benchmarks.policies.sharing import SharedServer
from benchmarks.policies.stage import Layer, Policy, PolicyHost, Stage
from p2pd.simulation.scenario import Node


class PullThrough(Policy):
    """`_held` has the number of pieces that the cache holds of each requested layer, in order."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        first = stage.scenario.nodes[0]
        self._cache: Final = PolicyHost(Node("cache", first.up_bytes_per_s, first.down_bytes_per_s, first.site))
        self._line: Final = SharedServer(
            stage.event_queue, first.up_bytes_per_s, site_rate=stage.scenario.site_bytes_per_s
        )
        self._held: Final = {layer: layer.count for layer in stage.layers} if stage.holders else {}
        self._early: Final[dict[Layer, list[tuple[int, PolicyHost]]]] = {}
        """Pieces for clients that passed the line, in the model, before the cache holds them."""

    def pull(self, host: PolicyHost, layer: Layer) -> None:
        if layer not in self._held:
            self._held[layer] = 0
            self._early[layer] = []
            self.stage.fetch(self._cache, layer, self._fetched, layer)
        self.stage.event_queue.after(self.stage.request_s(host, self._cache), self._send, host, layer)

    def _send(self, host: PolicyHost, layer: Layer) -> None:
        site = host.node.site if host.node.site != self._cache.node.site else None
        for index in range(layer.count):
            size = layer.bytes_of(index)
            self._line.send(host.name, site, host.node.down_bytes_per_s, size, self._sent, index, host, layer)

    def _fetched(self, index: int, layer: Layer) -> None:
        self._held[layer] = index + 1
        early, self._early[layer] = self._early[layer], []
        for waits, host in early:
            self._sent(waits, host, layer)

    def _sent(self, index: int, host: PolicyHost, layer: Layer) -> None:
        if index >= self._held[layer]:
            self._early[layer].append((index, host))
            return
        size = layer.bytes_of(index)
        self.stage.crossed(self._cache, host, size)
        took_s = self.stage.taken_in_s(self._cache, host, size)
        self.stage.event_queue.after(took_s, self.stage.landed, self, host, layer, size)
