"""Kraken's policy, as of github.com/uber/kraken v0.1.27, with the configuration that it ships.

1. An origin server in the cluster first fetches the whole blob from the registry. Meanwhile agents poll it for the
   metainfo: after 1 s, then after 1.3 times the last interval, up to 5 s (`tracker/metainfoclient`).
2. An agent then announces itself to the tracker, which returns 50 random agents and the origin server: first complete
   agents, then the origin server, then other agents. The agent announces every 3 s until it has the blob, and fetches
   one blob at a time.
3. An agent connects to them until it has 10 connections. Agents and origin server accept at most 10 connections. An
   agent that was full is not tried again for 30 s (`lib/torrent/scheduler/connstate`). Connections that carried nothing
   for 30 s are closed, and so are connections between two complete agents.
4. Pieces are 4 MiB. Up to 3 requests are under way on a connection (5 to the origin server), rarest first among the
   connected agents, the last three pieces from several agents (`dispatch/piecerequest`). Pieces come one after the
   other on a connection, and connections share the line. An agent announces each new piece on all its connections.

There is one origin server, in the site of the scenario's first host and with that host's link. If some host holds the
image at the start, the origin server holds it too, and the tracker knows the hosts that hold it.

The deciding effects in a cold flash crowd: first the origin server's own download. Then the first ten agents may fill
all their connections with the origin server and each other, and finish before the other agents get anything
(kraken#162; "agents form isolated networks", says its own `test/python/test_core.py`).

Checked against its authors' figures (README: 3 GB in two layers to 2,600 hosts at 300 MB/s, from five origin servers
that had the blobs: half of the hosts within 10 s, 99 % within 18 s, 99.9 % within 22 s): the model, with 1,000 hosts,
has half within 15.6 s and all within 17.2 s.

Favourable: agents' limits of 200 MB/s out and 300 MB/s in are left out; no request times out (the timeout is 16 s, and
a fifth piece from a busy origin server can take that long); an agent's view of another's bitfield is always up to date;
a piece is available to others once it is verified, not after the file was reopened.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

from benchmarks.policies.stage import Layer, Policy, PolicyHost, Stage
from p2pd.simulation.costs import ANSWER_S
from p2pd.simulation.scenario import MIB, Node

PIECE_BYTES: Final = 4 * MIB
CONNECTIONS: Final = 10
PIPELINE: Final = 3
ORIGIN_PIPELINE: Final = 5
ENDGAME_PIECES: Final = 3
HANDOUT: Final = 50
ANNOUNCE_S: Final = 3.0
BLACKLISTED_S: Final = 30.0
IDLE_S: Final = 30.0
FIRST_POLL_S: Final = 1.0
POLL_GROWTH: Final = 1.3
MAX_POLL_S: Final = 5.0
POLL_JITTER: Final = 0.05


class _Way:
    """The traffic from one agent to another over their connection. `queue` has the requests that are not being sent."""

    __slots__ = ("asked", "busy", "queue", "used_s")

    def __init__(self, now: float) -> None:
        self.asked = 0
        self.queue: deque[int] = deque()
        self.busy = False
        self.used_s = now


class _Peer:
    """A host, or the origin server, and one layer. Pieces are bits; `ways` has an entry for each connection."""

    __slots__ = ("asked", "blacklist", "dialling", "held", "host", "layer", "ways")

    def __init__(self, host: PolicyHost, layer: Layer) -> None:
        self.host = host
        self.layer = layer
        self.held = 0
        self.asked = 0
        self.ways: dict[_Peer, _Way] = {}
        self.dialling = 0
        self.blacklist: dict[_Peer, float] = {}

    def fill(self) -> None:
        self.held = (1 << self.layer.count) - 1

    def has_all(self) -> bool:
        return self.held == (1 << self.layer.count) - 1

    def is_full(self) -> bool:
        return len(self.ways) + self.dialling >= CONNECTIONS


class Kraken(Policy):
    """`_origins` has the origin server of each layer, `_announced` the agents that the tracker knows."""

    piece_length = staticmethod(lambda _: PIECE_BYTES)

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        first = stage.scenario.nodes[0]
        server = PolicyHost(Node("origin server", first.up_bytes_per_s, first.down_bytes_per_s, first.site))
        self._origins: Final = {layer: _Peer(server, layer) for layer in stage.layers}
        self._announced: Final[dict[Layer, list[_Peer]]] = {layer: [] for layer in stage.layers}
        self._fetching: Final[set[Layer]] = set()
        self._incomplete: Final[Counter[PolicyHost]] = Counter()
        for host in stage.holders:
            for layer, origin in self._origins.items():
                origin.fill()
                peer = _Peer(host, layer)
                peer.fill()
                self._announced[layer].append(peer)
        stage.event_queue.after(IDLE_S, self._close_idle)

    # -- until the origin server has it ----------------------------------------------------------------------------

    def pull(self, host: PolicyHost, layer: Layer) -> None:
        self._poll(_Peer(host, layer), FIRST_POLL_S)

    def _poll(self, peer: _Peer, again_s: float) -> None:
        stage, layer = self.stage, peer.layer
        stage.scheduler_messages += 2
        if self._origins[layer].has_all():
            self._incomplete[peer.host] += 1
            stage.event_queue.after(2 * stage.scenario.scheduler_latency_s + ANSWER_S, self._join, peer)
            return
        if layer not in self._fetching:
            self._fetching.add(layer)
            stage.fetch(self._origins[layer].host, layer, self._fetched, layer)
        jitter = stage.chance.uniform(1 - POLL_JITTER, 1 + POLL_JITTER)
        stage.event_queue.after(again_s * jitter, self._poll, peer, min(MAX_POLL_S, again_s * POLL_GROWTH))

    def _fetched(self, index: int, layer: Layer) -> None:
        if index == layer.count - 1:
            self._origins[layer].fill()

    # -- the tracker and connections -------------------------------------------------------------------------------

    def _join(self, peer: _Peer) -> None:
        self._announced[peer.layer].append(peer)
        self._announce(peer)

    def _announce(self, peer: _Peer) -> None:
        if peer.has_all():
            return
        stage, known = self.stage, self._announced[peer.layer]
        stage.scheduler_messages += 2
        others = [other for other in stage.chance.sample(known, min(HANDOUT, len(known))) if other is not peer]
        whole = [other for other in others if other.has_all()]
        part = [other for other in others if not other.has_all()]
        for other in (*whole, self._origins[peer.layer], *part):
            if peer.is_full():
                break
            if other not in peer.ways and peer.blacklist.get(other, 0.0) <= stage.event_queue.now:
                peer.dialling += 1
                handshake_s = 4 * stage.latency_s(peer.host, other.host)
                stage.event_queue.after(handshake_s, self._dialled, peer, other)
        stage.event_queue.after(ANNOUNCE_S * max(1, self._incomplete[peer.host]), self._announce, peer)

    def _dialled(self, peer: _Peer, other: _Peer) -> None:
        peer.dialling -= 1
        if other in peer.ways or (peer.has_all() and other.has_all()):
            return
        now = self.stage.event_queue.now
        if other.is_full():
            peer.blacklist[other] = now + BLACKLISTED_S
            return
        peer.ways[other], other.ways[peer] = _Way(now), _Way(now)
        self._request(peer, other)
        self._request(other, peer)

    def _close(self, peer: _Peer, other: _Peer) -> None:
        """Close a connection, which must be idle in both directions."""
        del peer.ways[other], other.ways[peer]
        peer.blacklist[other] = other.blacklist[peer] = self.stage.event_queue.now + BLACKLISTED_S

    def _close_idle(self) -> None:
        now = self.stage.event_queue.now
        for peers in self._announced.values():
            for peer in peers:
                for other, way in list(peer.ways.items()):
                    back = other.ways[peer]
                    if not way.asked and not back.asked and max(way.used_s, back.used_s) + IDLE_S < now:
                        self._close(peer, other)
        self.stage.event_queue.after(IDLE_S, self._close_idle)

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _request(self, peer: _Peer, other: _Peer) -> None:
        """Request pieces, up to the limit of the connection."""
        way = peer.ways.get(other)
        if way is None:
            return
        limit = ORIGIN_PIPELINE if other is self._origins[peer.layer] else PIPELINE
        while way.asked.bit_count() < limit:
            wanted = other.held & ~peer.asked
            if not wanted and peer.layer.count - peer.held.bit_count() <= ENDGAME_PIECES:
                wanted = other.held & ~peer.held & ~way.asked
            if not wanted:
                return
            bit = self._rarest(peer.ways, wanted)
            peer.asked |= bit
            way.asked |= bit
            asked_s = self.stage.request_s(peer.host, other.host)
            self.stage.event_queue.after(asked_s, self._is_asked, peer, other, bit.bit_length() - 1)

    def _rarest(self, connected: Iterable[_Peer], wanted: int) -> int:
        """A piece that the fewest connected agents hold, as a bit."""
        at_least = [wanted]
        for other in connected:
            above = 0
            for number, pieces in enumerate(at_least):
                at_least[number] = pieces | above
                above = pieces & other.held
            if above:
                at_least.append(above)
        rarest = next(
            pieces & ~more for pieces, more in zip(at_least, (*at_least[1:], 0), strict=True) if pieces & ~more
        )
        beyond = rarest >> self.stage.chance.randrange(rarest.bit_length())
        shift = rarest.bit_length() - beyond.bit_length()
        return (beyond & -beyond) << shift

    def _is_asked(self, peer: _Peer, other: _Peer, index: int) -> None:
        way = peer.ways[other]
        way.queue.append(index)
        if not way.busy:
            self._send(peer, other, way)

    def _send(self, peer: _Peer, other: _Peer, way: _Way) -> None:
        way.busy = bool(way.queue)
        if way.queue:
            index = way.queue.popleft()
            size = peer.layer.bytes_of(index)
            self.stage.send(other.host, peer.host, size, self._sent, peer, other, way, index)

    def _sent(self, peer: _Peer, other: _Peer, way: _Way, index: int) -> None:
        took_s = self.stage.taken_in_s(other.host, peer.host, peer.layer.bytes_of(index))
        self.stage.event_queue.after(took_s, self._came, peer, other, way, index)
        self._send(peer, other, way)

    def _came(self, peer: _Peer, other: _Peer, way: _Way, index: int) -> None:
        stage, bit = self.stage, 1 << index
        way.asked &= ~bit
        way.used_s = stage.event_queue.now
        if not peer.held & bit:
            peer.held |= bit
            stage.link_messages += len(peer.ways)
            stage.event_queue.after(stage.scenario.latency_s, self._news, peer)
            if stage.landed(self, peer.host, peer.layer, peer.layer.bytes_of(index)):
                self._complete(peer)
        self._request(peer, other)

    def _complete(self, peer: _Peer) -> None:
        self._incomplete[peer.host] -= 1
        self.stage.scheduler_messages += 2
        for other, way in list(peer.ways.items()):
            if other.has_all() and not way.asked and not other.ways[peer].asked:
                self._close(peer, other)

    def _news(self, peer: _Peer) -> None:
        for other in tuple(peer.ways):
            self._request(other, peer)
