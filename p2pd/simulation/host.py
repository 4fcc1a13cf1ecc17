"""A simulated host: its lines, its store, its downloads, and what it serves to others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from p2pd.simulation.bandwidth import Line
from p2pd.simulation.pull import Contents, PieceRequest, Pull
from p2pd.simulation.scenario import Misbehaviour, Node
from peer.core import swarm_events
from peer.core.choker import FREE_SOON_S, Choker, Uplink, UploadRequest
from peer.core.piece_sets import digest_runs
from peer.core.uplink import SPARE_FRACTION, settle_s
from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.codec import ToHost
from scheduler.protocol.inline_blob import InlineBlob

if TYPE_CHECKING:
    from p2pd.simulation.cluster import SimulatedCluster

UPLOAD_SLOTS: Final = 3
POLL_INTERVAL_S: Final = 0.05
"""How often a host looks whether a part of its line is unused, while others wait for that."""


_NOT_OF_A_BLOB = (to_host.Welcome, to_host.Quarantined, to_host.TagResolve, to_host.TagResult)


class SimulatedHost:
    """One p2pd. `store` has the digest of each piece that is held, by blob; `whole` the blobs found right."""

    def __init__(self, node: Node, cluster: SimulatedCluster) -> None:
        self.node: Final = node
        self.name: Final = node.name
        self.misbehaviour = node.misbehaviour
        self.cluster: Final = cluster
        self.up: Final = Line(node.up_bytes_per_s)
        self.down: Final = Line(node.down_bytes_per_s)
        self.choker: Final[Choker[PieceRequest]] = Choker(UPLOAD_SLOTS)
        self.alive = True
        self.connection = 0
        self.refused = 0
        """The origin's status for it; 0: the origin gives."""
        self.lies = node.misbehaviour is Misbehaviour.MISLEADS
        """It believes in other bytes than the origin has."""
        self.knows_sizes = True
        self.store: Final[dict[bytes, dict[int, bytes]]] = defaultdict(dict)
        self.whole: Final[set[bytes]] = set()
        self.pulls: Final[dict[bytes, Pull]] = {}
        self.met: Final[dict[bytes, dict[str, bool]]] = defaultdict(dict)
        """Its neighbours by blob, and whether each has been answered."""
        self.attempts = 0
        """Downloads that it has begun."""
        self.failures: Final[list[str]] = []
        """Why those that failed did."""
        self.got_bytes = 0
        self._looks = False
        self._settles = 0.0

    # -- what its client does --------------------------------------------------------------------------------------

    def pull(self, blob: Contents) -> None:
        """A client asks for a blob."""
        if not self.alive or blob.digest in self.whole or blob.digest in self.pulls:
            return
        if self.misbehaviour is Misbehaviour.CLAIMS:
            self.whole.add(blob.digest)
            self._announce_whole(blob)
            return
        self.attempts += 1
        pull = self.pulls[blob.digest] = Pull(self, blob)
        pull.begin(connected=bool(self.connection), knows_size=self.knows_sizes)

    def hold(self, blobs: Iterable[Contents]) -> None:
        """It has these already, from before."""
        for blob in blobs:
            self.store[blob.digest].update(enumerate(blob.digests))
            self.whole.add(blob.digest)
            self.got_bytes += blob.size_bytes

    def got(self, blob: Contents, index: int) -> None:
        """A piece has come into the store."""
        self.got_bytes += blob.bytes_of(index)
        self.cluster.landed(self, blob, index)

    def lost(self, blob: Contents) -> None:
        """What is held of a blob is not to be trusted, and thrown away."""
        held = self.store[blob.digest]
        self.got_bytes -= sum(map(blob.bytes_of, held))
        held.clear()

    def completed(self, blob: Contents) -> None:
        """A blob is whole, and its SHA-256 is right."""
        del self.pulls[blob.digest]
        self.whole.add(blob.digest)
        self.cluster.completed(self, blob)

    def failed(self, blob: Contents, reason: str, *, stays: bool, again_s: float) -> None:
        """A download has failed; the client comes back in a while. `stays`: in the swarm, meanwhile."""
        self.failures.append(reason)
        del self.pulls[blob.digest]
        if not stays:
            self.cluster.tell(self, from_host.Leave(blob.digest))
            self.cluster.say(self, tuple(self.met.pop(blob.digest, ())), link.DontHave(blob.digest))
        self.cluster.event_queue.after(again_s, self.pull, blob)

    # -- what others say -------------------------------------------------------------------------------------------

    def on_message(self, event: swarm_events.FromNeighbour) -> None:
        """A message from a neighbour. The first that says what that one holds is answered."""
        if not self.alive:
            return
        message = event.message
        assert not isinstance(message, link.LinkHello)
        digest = message.digest
        pull = self.pulls.get(digest)
        if pull is not None:
            pull.feed(event)
        if isinstance(message, link.Bitfield) and self.met[digest].get(event.host) is False:
            self.met[digest][event.host] = True
            self._introduce(digest, event.host)

    def is_told(self, message: ToHost) -> None:
        """A message from the scheduler: for the download that is under way, or about a blob that is held whole."""
        if not self.alive or isinstance(message, _NOT_OF_A_BLOB):
            return
        digest = message.digest
        pull = self.pulls.get(digest)
        if pull is not None:
            if self.misbehaviour is Misbehaviour.HOARDS and isinstance(message, to_host.PieceDigests | InlineBlob):
                return
            pull.feed(swarm_events.FromScheduler(message))
            return
        match message:
            case to_host.Neighbours(_, add, remove):
                for name in remove:
                    self.remove_neighbour(digest, name)
                for neighbour in add:
                    self.add_neighbour(digest, neighbour.host)
            case to_host.Lease(lease):
                self.cluster.tell(self, from_host.LeaseEnded(lease, digest, from_host.LeaseOutcome.RETURNED))
            case to_host.RequestDigests():
                self._recalled(digest)
            case _:
                pass

    def _recalled(self, digest: bytes) -> None:
        blob = self.cluster.blobs[digest]
        if blob.data:
            self.cluster.tell(self, InlineBlob(digest, blob.data))
            return
        runs = list(digest_runs(self.store[digest])) or [(0, b"")]
        for number, (first, digests) in enumerate(runs, 1):
            self.cluster.tell(self, from_host.DigestReport(digest, first, digests, last=number == len(runs)))

    def neighbour_lost(self, name: str) -> None:
        """The link to a host is gone."""
        for digest, met in self.met.items():
            if met.pop(name, None) is not None and digest in self.pulls:
                self.pulls[digest].feed(swarm_events.NeighbourLost(name))

    # -- what it says ----------------------------------------------------------------------------------------------

    def add_neighbour(self, digest: bytes, name: str) -> None:
        """Keep a link to a neighbour."""
        self.met[digest][name] = False
        self._introduce(digest, name)

    def remove_neighbour(self, digest: bytes, name: str) -> None:
        """Keep it no longer for this blob."""
        self.met[digest].pop(name, None)

    def _introduce(self, digest: bytes, name: str) -> None:
        if digest in self.whole:
            self.cluster.say(self, (name,), link.Bitfield(digest, 1, complete=True))
        elif digest in self.pulls:
            self.cluster.say(self, (name,), self.pulls[digest].holds())

    def connected(self) -> None:
        """There is a connection to a scheduler: it is told what is held, and what is wanted."""
        holdings = [
            from_host.Holding(digest, self.cluster.blobs[digest].size_bytes, complete=True) for digest in self.whole
        ]
        if holdings:
            self.cluster.tell(self, from_host.Announce(tuple(holdings)))
        for pull in list(self.pulls.values()):
            pull.feed(swarm_events.SchedulerFound())

    def alone(self) -> None:
        """There has been no scheduler for too long."""
        if not self.connection:
            for pull in list(self.pulls.values()):
                pull.feed(swarm_events.OriginOpened())

    def _announce_whole(self, blob: Contents) -> None:
        self.cluster.tell(self, from_host.Announce((from_host.Holding(blob.digest, blob.size_bytes, complete=True),)))

    def upload_ended(self, requeue: UploadRequest | None = None) -> None:
        """A piece is out, or nobody waits for it any more."""
        self.uplink_changed()
        self.choker.end(requeue)
        self.go_on(self.uplink())

    def uplink_changed(self, round_trip_s: float = 0.0) -> None:
        """A piece begins to go out, to a host that is so far, or is out."""
        self._settles = max(self._settles, self.cluster.event_queue.now + settle_s(round_trip_s))

    def uplink(self) -> Uplink:
        """What there is on its uplink, as far as a host can tell."""
        now = self.cluster.event_queue.now
        if now >= self._settles and not self.choker.is_full and self.up.used < (1 - SPARE_FRACTION) * self.up.rate:
            return Uplink.FREE
        soon = now + FREE_SOON_S
        return Uplink.FREE_SOON if any(flow.due <= soon for flow in self.up.flows) else Uplink.FULL

    def go_on(self, uplink: Uplink) -> None:
        """Send to whom waits, and tell others that they can come."""
        while (request := self.choker.next(uplink)) is not None:
            self.cluster.send(request)
            uplink = self.uplink()
        for receiver in self.choker.unchoke(uplink):
            self.cluster.say(self, (receiver.host,), link.Unchoke(receiver.digest))

    def looks_on(self) -> None:
        """Somebody is not served at once: it looks from time to time whether a part of its line is unused."""
        if not self._looks:
            self._looks = True
            now = self.cluster.event_queue.now
            self.cluster.event_queue.at(self._settles if self._settles > now else now + POLL_INTERVAL_S, self._look)

    def _look(self) -> None:
        self._looks = False
        if not self.choker.is_wanted or not self.alive:
            return
        uplink = self.uplink()
        if uplink is Uplink.FREE:
            self.go_on(uplink)
        self.looks_on()

    # -- what it serves --------------------------------------------------------------------------------------------

    def serves(self, blob: Contents, index: int) -> bool:
        """Whether others may have a piece."""
        if self.misbehaviour is Misbehaviour.CLAIMS:
            return False
        if blob.digest in self.whole:
            return True
        pull = self.pulls.get(blob.digest)
        start = index * blob.length
        return pull is not None and pull.member.may_serve(start, start + blob.bytes_of(index))
