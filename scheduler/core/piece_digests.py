"""What is known of blobs, their lengths and their pieces' digests: who said it, who is told it, what is doubted.

Rules:
1. Nothing is sent to a host twice because of time that passed: each member has heard the log of digests up to a place.
2. New digests go at once to the neighbours of the host that published them, who can use them first, and to all other
   members in slices, at a bounded rate: a large swarm must not keep the scheduler from anything else.
3. A new generation starts whenever something that was told turns out to be in doubt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from scheduler.core.claims import HEARSAY
from scheduler.core.leases import LeaseCause
from scheduler.core.members import Host, Member, MemberState
from scheduler.core.piece_map import MapState, PieceMap, Word
from scheduler.core.settings import WITNESSES
from scheduler.core.state import Charge, Cluster, Due, Timer
from scheduler.core.swarm import Swarm
from scheduler.protocol.fields import (
    DIGEST_BYTES,
    MAX_CONTENT_BYTES,
    MAX_DIGESTS_PER_MESSAGE,
    MAX_RUNS_PER_MESSAGE,
    ProtocolError,
)
from scheduler.protocol.from_host import Disproved
from scheduler.protocol.to_host import PieceDigests, Reset, Run, Sized

DISPROVED: Final = "told something of a piece that two other hosts have disproved"

WITNESSES_ASKED: Final = 16
"""Hosts that hold the whole blob and are asked for their word on a contested map: two that agree are enough."""


class Maps:
    """Learns, tells, and doubts."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster: Final = cluster

    # Lengths

    def claim_size(self, swarm: Swarm, host: Host, size_bytes: int) -> None:
        """A host says how long the blob is."""
        kept = self._cluster.contents.size_of(swarm.digest)
        if kept is not None:
            if size_bytes != kept:
                self.blame(swarm, (host.id,), "said a wrong length")
            return
        swarm.length.hear(host.id, size_bytes)
        if swarm.size_bytes is None:
            believed = swarm.length.confirmed() if swarm.size_disputed else swarm.length.first()
            if believed is not None:
                self._set_size(swarm, believed)
        elif size_bytes != swarm.size_bytes:
            if swarm.length.witnesses(swarm.size_bytes) >= WITNESSES:
                self.blame(swarm, (host.id,), "said a length that two other hosts contradict")
            else:
                self.reset(swarm, f"{host.id} says it is {size_bytes} bytes long")
                swarm.forget_size()

    def _set_size(self, swarm: Swarm, size_bytes: int) -> None:
        waiting = [member.host for member in swarm.members.values() if member.state is MemberState.JOINING]
        if swarm.size_disputed and size_bytes > MAX_CONTENT_BYTES:  # it was perhaps said to be tiny, and had no links
            for member in swarm.wanting.items:
                swarm.graph.fill(member)
            self._cluster.relinked[swarm] = None
        swarm.set_size(size_bytes)
        self._cluster.send(waiting, Sized(swarm.digest, swarm.generation, size_bytes))
        self._cluster.to_lease[swarm] = None
        if swarm.length.witnesses(size_bytes) >= WITNESSES:
            liars = swarm.length.dissenters(size_bytes)
            self.blame(swarm, liars, "said a length that two other hosts contradict")

    # Digests

    def hear(self, member: Member, voter: str, first: int, digests: bytes) -> None:
        """Take a host's word on the digests of pieces from `first` on, and tell what is news."""
        swarm = member.swarm
        piece_map = self._map_with(swarm, first, digests)
        news, doubt, was = 0, False, piece_map.state
        for at in range(0, len(digests), DIGEST_BYTES):
            piece = first + at // DIGEST_BYTES
            word = piece_map.hear(voter, piece, digests[at : at + DIGEST_BYTES])
            if word is Word.NEWS:
                news |= 1 << piece
            elif word is Word.DISPROVED and voter != HEARSAY:
                self.blame(swarm, (voter,), DISPROVED)
            doubt = doubt or word is Word.CONTRADICTION
        if doubt:
            self._contest(swarm, piece_map, None)
            return
        swarm.to_lease &= ~news
        self._need_witnesses(swarm, piece_map)
        if news:
            self._publish(member, [Run(at, run) for at, run in piece_map.runs(news)])
        if was is MapState.CONTESTED:
            self.blame(swarm, piece_map.liars(), DISPROVED)

    def catch_up(self, member: Member) -> None:
        """Send a member all digests that are known."""
        swarm = member.swarm
        if swarm.map is not None:
            runs = [Run(first, digests) for first, digests in swarm.map.runs(swarm.map.known)]
            for runs_of_message in _messages(runs):
                self._cluster.send((member.host,), PieceDigests(swarm.digest, swarm.generation, runs_of_message))
        member.heard = len(swarm.log)

    def fan_out(self, swarm: Swarm) -> None:
        """Send the next slice of members what they have not heard."""
        settings = self._cluster.settings
        if not swarm.behind and swarm.stale:
            swarm.behind = list(swarm.wanting.items)
            swarm.stale = False
        audience: dict[int, list[Host]] = {}
        taken = min(len(swarm.behind), settings.fanout_slice)
        for _ in range(taken):
            member = swarm.behind.pop()
            if member.wants and member.heard < len(swarm.log):
                audience.setdefault(member.heard, []).append(member.host)
                member.heard = len(swarm.log)
        for heard, hosts in audience.items():
            self._tell(swarm, hosts, swarm.log[heard:])
        if taken:
            again = self._cluster.now + taken / settings.fanout_per_s
            self._cluster.deadlines.set(Timer(Due.FANOUT, swarm.digest), again)

    def _publish(self, publisher: Member, runs: list[Run]) -> None:
        swarm = publisher.swarm
        swarm.log += runs
        swarm.stale = True
        if len(swarm.wanting) > self._cluster.settings.fanout_slice:
            self._tell(swarm, [other.host for other in publisher.links if other.wants], runs)
        if Timer(Due.FANOUT, swarm.digest) not in self._cluster.deadlines:
            self.fan_out(swarm)

    def _tell(self, swarm: Swarm, hosts: list[Host], runs: list[Run]) -> None:
        for runs_of_message in _messages(runs):
            self._cluster.send(hosts, PieceDigests(swarm.digest, swarm.generation, runs_of_message))

    # Doubt

    def disproved(self, member: Member, message: Disproved) -> None:
        """A member has verified every piece, and the SHA-256 of the whole is wrong."""
        swarm = member.swarm
        piece_map = swarm.map
        if piece_map is None or message.generation != swarm.generation or piece_map.known != piece_map.everything:
            return
        if piece_map.is_settled_against(member.host.id):
            self.blame(swarm, (member.host.id,), "disproved a piece map that other hosts have proved right")
        else:
            self._contest(swarm, piece_map, member.host.id)

    def distrust(self, swarm: Swarm, host_id: str) -> None:
        """A host that has told digests was found to lie elsewhere: contest what nobody has sealed yet."""
        piece_map = swarm.map
        if piece_map is None or piece_map.state not in (MapState.GROWING, MapState.KNOWN):
            return
        if piece_map.has_word_of(host_id):
            self._contest(swarm, piece_map, None)

    def _contest(self, swarm: Swarm, piece_map: PieceMap, accuser: str | None) -> None:
        piece_map.contest(accuser)
        self.reset(swarm, f"contested by {accuser or 'a contradiction'}")
        swarm.to_lease = piece_map.everything & ~piece_map.known
        holders = self._cluster.chance.some_of(swarm.graph.sources.items, WITNESSES_ASKED)
        swarm.informants.extend(member.host for member in holders if member.state is MemberState.COMPLETE)
        for member in swarm.members.values():
            if member.wants:
                self.catch_up(member)
        self._cluster.note_lost(swarm)
        self.blame(swarm, piece_map.liars(), DISPROVED)

    def reset(self, swarm: Swarm, reason: str) -> None:
        """Start a new generation, in which no member holds anything yet, and no lease is out."""
        swarm.story.tell("generation %s: %s", swarm.generation + 1, reason)
        for lease in list(swarm.leases.values()):
            self._cluster.end_lease(lease, LeaseCause.REVOKE)
        self._cluster.to_lease[swarm] = None
        swarm.recalled = None
        self._cluster.deadlines.cancel(Timer(Due.RECALL, swarm.digest))
        swarm.next_generation()
        for member in swarm.members.values():
            if member.have:
                swarm.hold(member, 0)
        hosts = [member.host for member in swarm.members.values()]
        self._cluster.send(hosts, Reset(swarm.digest, swarm.generation))

    def _need_witnesses(self, swarm: Swarm, piece_map: PieceMap) -> None:
        if piece_map.state is MapState.CONTESTED:
            leased = 0
            for lease in swarm.leases.values():
                leased |= lease.left
            swarm.to_lease |= piece_map.everything & ~piece_map.known & ~leased
            self._cluster.to_lease[swarm] = None

    def blame(self, swarm: Swarm, host_ids: Iterable[str], why: str) -> None:
        """Have hosts quarantined."""
        for host_id in host_ids:
            swarm.story.tell("%s %s", host_id, why)
            charge = Charge(f"{why} (blob sha256:{swarm.digest.hex()})", proved=True)
            self._cluster.guilty.setdefault(host_id, charge)

    @staticmethod
    def _map_with(swarm: Swarm, first: int, digests: bytes) -> PieceMap:
        """The map, if it has these pieces. Raises ProtocolError."""
        if swarm.map is None or first + len(digests) // DIGEST_BYTES > swarm.map.count:
            raise ProtocolError("digests of pieces that the blob does not have")
        return swarm.map


def _messages(runs: list[Run]) -> Iterator[tuple[Run, ...]]:
    """Cut runs so that each tuple of them fits into one message."""
    batch: list[Run] = []
    room = MAX_DIGESTS_PER_MESSAGE
    for run in runs:
        first, digests = run.first, run.digests
        while digests:
            if not room or len(batch) == MAX_RUNS_PER_MESSAGE:
                yield tuple(batch)
                batch, room = [], MAX_DIGESTS_PER_MESSAGE
            part = digests[: room * DIGEST_BYTES]
            batch.append(Run(first, part))
            count = len(part) // DIGEST_BYTES
            room -= count
            first += count
            digests = digests[len(part) :]
    if batch:
        yield tuple(batch)
