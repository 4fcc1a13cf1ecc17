"""A simulated host: its lines, its store, its downloads, and what it serves to others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from p2pd.simulation.bandwidth import Line
from p2pd.simulation.pull import Asked, Contents, Pull
from p2pd.simulation.scenario import Node, Vice
from peer.core import swarm_events as swarming
from peer.core.choker import SOON_S, Asking, Space, Uploads
from peer.core.piece_sets import digest_runs
from peer.core.uplink import ROOM, settles_s
from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.codec import ToHost
from scheduler.protocol.content import Content

if TYPE_CHECKING:
    from p2pd.simulation.cluster import World

UPLOAD_SLOTS: Final = 3
LOOKS_S: Final = 0.05
"""How often a host looks whether a part of its line is unused, while others wait for that."""


_NOT_OF_A_BLOB = (to_host.Welcome, to_host.Quarantined, to_host.TagResolve, to_host.TagResult)


class Host:
    """One p2pd. `store` has the digest of each piece that is held, by blob; `whole` the blobs found right."""

    def __init__(self, node: Node, world: World) -> None:
        self.node: Final = node
        self.name: Final = node.name
        self.vice = node.vice
        self.world: Final = world
        self.up: Final = Line(node.up_bytes_per_s)
        self.down: Final = Line(node.down_bytes_per_s)
        self.uploads: Final[Uploads[Asked]] = Uploads(UPLOAD_SLOTS)
        self.alive = True
        self.connection = 0
        self.refused = 0
        """The origin's status for it; 0: the origin gives."""
        self.lies = node.vice is Vice.MISLEADS
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
        if self.vice is Vice.CLAIMS:
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
        self.world.landed(self, blob, index)

    def lost(self, blob: Contents) -> None:
        """What is held of a blob is not to be trusted, and thrown away."""
        held = self.store[blob.digest]
        self.got_bytes -= sum(map(blob.bytes_of, held))
        held.clear()

    def completed(self, blob: Contents) -> None:
        """A blob is whole, and its SHA-256 is right."""
        del self.pulls[blob.digest]
        self.whole.add(blob.digest)
        self.world.completed(self, blob)

    def failed(self, blob: Contents, reason: str, *, stays: bool, again_s: float) -> None:
        """A download has failed; the client comes back in a while. `stays`: in the swarm, meanwhile."""
        self.failures.append(reason)
        del self.pulls[blob.digest]
        if not stays:
            self.world.tell(self, from_host.Leave(blob.digest))
            self.world.say(self, tuple(self.met.pop(blob.digest, ())), link.Dropped(blob.digest))
        self.world.timeline.after(again_s, self.pull, blob)

    # -- what others say -------------------------------------------------------------------------------------------

    def hears(self, event: swarming.FromNeighbour) -> None:
        """A message from a neighbour. The first that says what that one holds is answered."""
        if not self.alive:
            return
        message = event.message
        assert not isinstance(message, link.LinkHello)
        digest = message.digest
        pull = self.pulls.get(digest)
        if pull is not None:
            pull.feed(event)
        if isinstance(message, link.Holds) and self.met[digest].get(event.host) is False:
            self.met[digest][event.host] = True
            self._introduce(digest, event.host)

    def is_told(self, message: ToHost) -> None:
        """A message from the scheduler: for the download that is under way, or about a blob that is held whole."""
        if not self.alive or isinstance(message, _NOT_OF_A_BLOB):
            return
        digest = message.digest
        pull = self.pulls.get(digest)
        if pull is not None:
            if self.vice is Vice.HOARDS and isinstance(message, to_host.PieceDigests | Content):
                return
            pull.feed(swarming.FromScheduler(message))
            return
        match message:
            case to_host.Neighbours(_, add, remove):
                for name in remove:
                    self.part(digest, name)
                for neighbour in add:
                    self.meet(digest, neighbour.host)
            case to_host.Lease(lease):
                self.world.tell(self, from_host.LeaseEnded(lease, digest, from_host.LeaseOutcome.RETURNED))
            case to_host.Recall():
                self._recalled(digest)
            case _:
                pass

    def _recalled(self, digest: bytes) -> None:
        blob = self.world.blobs[digest]
        if blob.data:
            self.world.tell(self, Content(digest, blob.data))
            return
        runs = list(digest_runs(self.store[digest])) or [(0, b"")]
        for number, (first, digests) in enumerate(runs, 1):
            self.world.tell(self, from_host.Recalled(digest, first, digests, last=number == len(runs)))

    def neighbour_lost(self, name: str) -> None:
        """The link to a host is gone."""
        for digest, met in self.met.items():
            if met.pop(name, None) is not None and digest in self.pulls:
                self.pulls[digest].feed(swarming.NeighbourLost(name))

    # -- what it says ----------------------------------------------------------------------------------------------

    def meet(self, digest: bytes, name: str) -> None:
        """Keep a link to a neighbour."""
        self.met[digest][name] = False
        self._introduce(digest, name)

    def part(self, digest: bytes, name: str) -> None:
        """Keep it no longer for this blob."""
        self.met[digest].pop(name, None)

    def _introduce(self, digest: bytes, name: str) -> None:
        if digest in self.whole:
            self.world.say(self, (name,), link.Holds(digest, 1, complete=True))
        elif digest in self.pulls:
            self.world.say(self, (name,), self.pulls[digest].holds())

    def connected(self) -> None:
        """There is a connection to a scheduler: it is told what is held, and what is wanted."""
        holdings = [
            from_host.Holding(digest, self.world.blobs[digest].size_bytes, complete=True) for digest in self.whole
        ]
        if holdings:
            self.world.tell(self, from_host.Announce(tuple(holdings)))
        for pull in list(self.pulls.values()):
            pull.feed(swarming.SchedulerFound())

    def alone(self) -> None:
        """There has been no scheduler for too long."""
        if not self.connection:
            for pull in list(self.pulls.values()):
                pull.feed(swarming.OriginOpened())

    def _announce_whole(self, blob: Contents) -> None:
        self.world.tell(self, from_host.Announce((from_host.Holding(blob.digest, blob.size_bytes, complete=True),)))

    def upload_ended(self, again: Asking | None = None) -> None:
        """A piece is out, or nobody waits for it any more."""
        self.uplink_changed()
        self.uploads.end(again)
        self.go_on(self.space())

    def uplink_changed(self, round_trip_s: float = 0.0) -> None:
        """A piece begins to go out, to a host that is so far, or is out."""
        self._settles = max(self._settles, self.world.timeline.now + settles_s(round_trip_s))

    def space(self) -> Space:
        """What there is on its uplink, as far as a host can tell."""
        now = self.world.timeline.now
        if now >= self._settles and not self.uploads.is_full and self.up.used < (1 - ROOM) * self.up.rate:
            return Space.NOW
        soon = now + SOON_S
        return Space.SOON if any(flow.due <= soon for flow in self.up.flows) else Space.NONE

    def go_on(self, space: Space) -> None:
        """Send to whom waits, and tell others that they can come."""
        while (asked := self.uploads.next(space)) is not None:
            self.world.send(asked)
            space = self.space()
        for asking in self.uploads.tell(space):
            self.world.say(self, (asking.host,), link.Room(asking.digest))

    def looks_on(self) -> None:
        """Somebody is not served at once: it looks from time to time whether a part of its line is unused."""
        if not self._looks:
            self._looks = True
            now = self.world.timeline.now
            self.world.timeline.at(self._settles if self._settles > now else now + LOOKS_S, self._look)

    def _look(self) -> None:
        self._looks = False
        if not self.uploads.is_wanted or not self.alive:
            return
        space = self.space()
        if space is Space.NOW:
            self.go_on(space)
        self.looks_on()

    # -- what it serves --------------------------------------------------------------------------------------------

    def serves(self, blob: Contents, index: int) -> bool:
        """Whether others may have a piece."""
        if self.vice is Vice.CLAIMS:
            return False
        if blob.digest in self.whole:
            return True
        pull = self.pulls.get(blob.digest)
        start = index * blob.length
        return pull is not None and pull.member.may_serve(start, start + blob.bytes_of(index))
