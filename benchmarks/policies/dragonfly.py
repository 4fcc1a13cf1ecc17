"""Dragonfly's published policy, as of its scheduler v2.5.1 and client v1.5.1 (github.com/dragonflyoss).

1. Every host fetches blobs of up to 4 MiB from the registry (`resource/task.rs`). For a longer blob, each host asks the
   registry for the length. Pieces are a 500th of the length, rounded up to a power of two from 4 to 64 MiB.
2. A host registers after a delay that doubles with its downloads under way (`scheduler/service/service_v2.go`). The
   first host goes to the source. Of 15 random registered hosts, the candidates are those that have parents, go to the
   source, or have the whole blob. The 3 candidates with the best score become permanent parents. A host without
   candidates asks again after half a second, and at the fifth time goes to the source, as up to 200 hosts may.
3. A host requests 8 pieces at a time, in order among its parents' pieces, each over a new connection to a parent that
   holds the piece, drawn by idle bandwidth (`resource/parent_selector.rs`). Parents announce their pieces to the host,
   and the host announces its own to the scheduler.
4. A host sends at most 200 pieces at a time.

Pieces only flow from parents to children. A host asks for parents before it can have children, so there are no cycles,
and the model does not look for them. Not modelled: seed peers (the first host is the source for the others), and
requests for new parents, which only failures cause.

The deciding effect in a cold flash crowd: of N hosts that come at once, about 3 ln N have the first host as a parent,
and each of them requests every piece from it, because the first host alone has the next pieces.

Not good enough for a claim. Of a user's figures (Volcano Engine, d7y.io/blog of 2023-04-13: an image of 3 GB to hosts
at 6 Gbit/s, the registry at 10, until the pods run: 40 s for 50 and 55 s for 500) the model has 29 s and 69 s. But with
16 hosts, 256 MiB and 100 Mbit/s each way the real program with a seed peer took 74 to 119 s, and the model takes 134 to
195 s. With a seed peer the model took 71 to 93 s, or 344 s with the score's term for a host's type (docs/measured.md).

Favourable: the source sends one stream, so its pieces come one after the other and not eight at the end; the score uses
the present load, and production's is up to 300 s old; announcements reach the children within a site's latency; a host
does not wait (up to 100 ms) for announcements of all parents before it chooses; the limit of 200, which is configured
but not enforced (dragonfly#3128), holds.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from typing import Final

from benchmarks.policies.stage import Layer, Policy, PolicyHost, Stage
from p2pd.simulation.costs import ANSWER_S
from p2pd.simulation.scenario import MIB

MIN_PIECE_BYTES: Final = 4 * MIB
MAX_PIECE_BYTES: Final = 64 * MIB
PIECES: Final = 500
PIECES_AT_A_TIME: Final = 8
UPLOADS: Final = 200
CANDIDATES: Final = 15
PARENTS: Final = 3
SOURCES: Final = 200
TRIES: Final = 4
RETRY_S: Final = 0.5
REGISTER_S: Final = 0.03
MAX_REGISTER_S: Final = 1.0
SCORED_PIECE_BYTES: Final = 16 * MIB
SCORED_S: Final = 60.0


def piece_length(size_bytes: int) -> int:
    """The length of a blob's pieces in bytes (`resource/piece.rs`)."""
    length = MIN_PIECE_BYTES
    while length < MAX_PIECE_BYTES and length * PIECES < size_bytes:
        length *= 2
    return length


class _Peer:
    """A host and one layer. `held` and `asked` have a bit for each piece; held pieces are also in `asked`."""

    __slots__ = ("asked", "children", "going", "held", "host", "layer", "parents", "source")

    def __init__(self, host: PolicyHost, layer: Layer) -> None:
        self.host = host
        self.layer = layer
        self.parents: list[_Peer] = []
        self.children: list[_Peer] = []
        self.source = False
        self.held = 0
        self.asked = 0
        self.going = 0

    def is_candidate(self) -> bool:
        return bool(self.parents) or self.source


class Dragonfly(Policy):
    """`_peers` are the registered peers of each layer."""

    piece_length = staticmethod(piece_length)

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._peers: Final[dict[Layer, list[_Peer]]] = {layer: [] for layer in stage.layers}
        self._sources: Final[Counter[Layer]] = Counter()
        self._registering: Final[Counter[PolicyHost]] = Counter()
        self._uploads: Final[Counter[PolicyHost]] = Counter()
        self._queues: Final[dict[PolicyHost, deque[tuple[_Peer, _Peer, int]]]] = defaultdict(deque)
        for layer, peers in self._peers.items():
            for host in stage.holders:
                peer = _Peer(host, layer)
                peer.held = peer.asked = (1 << layer.count) - 1
                peer.source = True
                peers.append(peer)

    def pull(self, host: PolicyHost, layer: Layer) -> None:
        peer = _Peer(host, layer)
        if layer.size_bytes <= MIN_PIECE_BYTES:
            self.stage.fetch(host, layer, self._landed, peer)
            return
        self._registering[host] += 1
        delay_s = min(MAX_REGISTER_S, REGISTER_S * 2 ** self._registering[host]) * self.stage.chance.uniform(0.5, 1.5)
        length_s = 2 * self.stage.scenario.far_latency_s + ANSWER_S
        self.stage.event_queue.after(length_s + delay_s, self._register, peer)

    # -- the scheduler ---------------------------------------------------------------------------------------------

    def _register(self, peer: _Peer) -> None:
        peers = self._peers[peer.layer]
        self._registering[peer.host] -= 1
        peers.append(peer)
        if len(peers) == 1:
            self._go_to_source(peer)
        else:
            self._find_parents(peer, 0)

    def _find_parents(self, peer: _Peer, tries: int) -> None:
        stage, peers = self.stage, self._peers[peer.layer]
        sample = stage.chance.sample(peers, min(CANDIDATES, len(peers)))
        candidates = [other for other in sample if other.is_candidate()]
        if candidates:
            candidates.sort(key=lambda other: self._score(other, peer), reverse=True)
            peer.parents = candidates[:PARENTS]
            for parent in peer.parents:
                parent.children.append(peer)
            stage.scheduler_messages += 2
            stage.event_queue.after(stage.scenario.scheduler_latency_s, self._ask, peer)
        elif tries == TRIES and self._sources[peer.layer] < SOURCES:
            self._go_to_source(peer)
        else:
            again_s = RETRY_S * stage.chance.uniform(0.75, 1.25)
            stage.event_queue.after(again_s, self._find_parents, peer, min(TRIES, tries + 1))

    def _go_to_source(self, peer: _Peer) -> None:
        self._sources[peer.layer] += 1
        self.stage.scheduler_messages += 2
        peer.source = True
        self.stage.fetch(peer.host, peer.layer, self._landed, peer)

    def _score(self, parent: _Peer, child: _Peer) -> float:
        """A parent's score (`scheduler/scheduling/evaluator/evaluator_default.go`), without terms equal for all."""
        line, going = parent.host.up, self._uploads[parent.host]
        at_once = line.rate / SCORED_PIECE_BYTES
        idle = 1 - line.used / line.rate
        lasting = max(0.0, 1 - going * parent.layer.length / line.rate / SCORED_S)
        spread = 0.0 if at_once <= 1 else 1.0 if going <= at_once else at_once / going
        one, other = parent.host.node, child.host.node
        near = 0.2 * (one.site == other.site) + 0.1 * ((one.site == other.site) + (one.rack == other.rack)) / 5
        return 0.6 * (0.5 * idle + 0.3 * lasting + 0.2 * spread) + near

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _ask(self, peer: _Peer) -> None:
        """Request pieces from parents, up to the limit of requests under way."""
        chance, event_queue = self.stage.chance, self.stage.event_queue
        there = 0
        for parent in peer.parents:
            there |= parent.held
        while peer.going < PIECES_AT_A_TIME:
            wanted = there & ~peer.asked
            if not wanted:
                return
            bit = wanted & -wanted
            holding = [parent for parent in peer.parents if parent.held & bit]
            weights = [max(1.0, parent.host.up.rate - parent.host.up.used) for parent in holding]
            [parent] = chance.choices(holding, weights)
            peer.asked |= bit
            peer.going += 1
            connected_s = 2 * self.stage.latency_s(peer.host, parent.host)
            asked_s = connected_s + self.stage.request_s(peer.host, parent.host)
            event_queue.after(asked_s, self._is_asked, parent, peer, bit.bit_length() - 1)

    def _is_asked(self, parent: _Peer, peer: _Peer, index: int) -> None:
        if self._uploads[parent.host] == UPLOADS:
            self._queues[parent.host].append((parent, peer, index))
            return
        self._uploads[parent.host] += 1
        size = peer.layer.bytes_of(index)
        self.stage.send(parent.host, peer.host, size, self._sent, parent, peer, index)

    def _sent(self, parent: _Peer, peer: _Peer, index: int) -> None:
        self._uploads[parent.host] -= 1
        if self._queues[parent.host]:
            self._is_asked(*self._queues[parent.host].popleft())
        took_s = self.stage.taken_in_s(parent.host, peer.host, peer.layer.bytes_of(index))
        self.stage.event_queue.after(took_s, self._came, index, peer)

    def _came(self, index: int, peer: _Peer) -> None:
        peer.going -= 1
        self._landed(index, peer)
        self._ask(peer)

    def _landed(self, index: int, peer: _Peer) -> None:
        stage = self.stage
        peer.held |= 1 << index
        if peer.layer.size_bytes > MIN_PIECE_BYTES:
            stage.scheduler_messages += 1
            stage.link_messages += len(peer.children)
        stage.event_queue.after(stage.scenario.latency_s, self._news, tuple(peer.children))
        stage.landed(self, peer.host, peer.layer, peer.layer.bytes_of(index))

    def _news(self, children: tuple[_Peer, ...]) -> None:
        for child in children:
            self._ask(child)
