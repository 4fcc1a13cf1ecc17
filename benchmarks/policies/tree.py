"""A balanced tree for each layer, down which pieces flow in order: a host forwards landed pieces to its children.

Fan-out 2: a host with k children takes k times as long for each piece, so the last of N hosts has M pieces after about
k (M + log_k N) piece times. With many hosts k = 2 is best (a chain, k = 1, takes M + N), unless there are very few
pieces. FaaSNet (Wang et al., ATC '21) distributes images down balanced binary trees.

The first host that requests a layer is the root, and gets the layer from the origin. Each further host becomes the
child of the highest host with the fewest children, in any site. Hosts that held the image before are roots.
N = 2^(D+1) - 1 hosts take 2 (M + D) - 1 times the time of a piece on a line.

Favourable: a host's place is known at once, at no cost; pieces are forwarded without a request; both children are
served at the same time, so an uplink is never idle while there is something to send.
"""

from __future__ import annotations

import heapq
from typing import Final

from benchmarks.policies.stage import Layer, Policy, PolicyHost, Stage

FAN_OUT: Final = 2


class _Place:
    """A host in the tree of a layer. `held` and `sent` count, in order, its pieces and those that were sent to it."""

    __slots__ = ("below", "busy", "depth", "held", "host", "sent")

    def __init__(self, host: PolicyHost, depth: int, held: int = 0) -> None:
        self.host = host
        self.depth = depth
        self.held = held
        self.sent = 0
        self.busy = False
        self.below: list[_Place] = []


class Tree(Policy):
    """`_free` is a heap of each layer's hosts that can take a child, the best first."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._order = 0
        self._free: Final[dict[Layer, list[tuple[int, int, int, _Place]]]] = {layer: [] for layer in stage.layers}
        for layer in stage.layers:
            for host in stage.holders:
                self._offer(layer, _Place(host, 0, layer.count))

    def pull(self, host: PolicyHost, layer: Layer) -> None:
        free = self._free[layer]
        if not free:
            root = _Place(host, 0)
            self._offer(layer, root)
            self.stage.fetch(host, layer, self._landed, root, layer)
            return
        above = heapq.heappop(free)[-1]
        place = _Place(host, above.depth + 1)
        above.below.append(place)
        if len(above.below) < FAN_OUT:
            self._offer(layer, above)
        self._offer(layer, place)
        self.stage.event_queue.after(self.stage.request_s(host, above.host), self._pass_on, above, place, layer)

    def _offer(self, layer: Layer, place: _Place) -> None:
        self._order += 1
        heapq.heappush(self._free[layer], (place.depth, len(place.below), self._order, place))

    def _landed(self, index: int, place: _Place, layer: Layer) -> None:
        place.held = index + 1
        for below in place.below:
            self._pass_on(place, below, layer)
        self.stage.landed(self, place.host, layer, layer.bytes_of(index))

    def _pass_on(self, above: _Place, place: _Place, layer: Layer) -> None:
        if not place.busy and place.sent < above.held:
            place.busy = True
            size = layer.bytes_of(place.sent)
            self.stage.send(above.host, place.host, size, self._sent, above, place, layer)

    def _sent(self, above: _Place, place: _Place, layer: Layer) -> None:
        index, place.busy = place.sent, False
        place.sent += 1
        took_s = self.stage.taken_in_s(above.host, place.host, layer.bytes_of(index))
        self.stage.event_queue.after(took_s, self._landed, index, place, layer)
        self._pass_on(above, place, layer)
