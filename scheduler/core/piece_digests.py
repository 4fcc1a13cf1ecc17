"""The piece digests of blobs: which of them are believed, told to members, and disputed.

Rules:
1. No digest is sent to a host twice because time has passed. Each member remembers how much of the log it was sent.
2. New digests go at once to the neighbours of their publisher, which can use the digests first. All other members are
   sent the digests in slices at a bounded rate, so that a large swarm does not delay other events.
3. A new generation starts when a value that was told to members is disputed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from scheduler.core.budget import PUBLISHED_BYTES
from scheduler.core.claims import SECONDHAND
from scheduler.core.members import Host, Identity, Member, MemberState
from scheduler.core.piece_map import ClaimResult, MapState, PieceMap
from scheduler.core.state import Due, SchedulerState, Timer
from scheduler.core.swarm import Swarm
from scheduler.protocol.fields import (
    DIGEST_BYTES,
    MAX_DIGESTS_PER_MESSAGE,
    MAX_RUNS_PER_MESSAGE,
    ProtocolError,
)
from scheduler.protocol.from_host import Disproved
from scheduler.protocol.to_host import DigestRun, PieceDigests

DISPUTED: Final = "disputed a piece map that most other hosts have found right"
DISPROVED: Final = "told something of a piece that the SHA-256 of the blob disproves"
MAX_CREDIT: Final = 4096
"""Hosts that are remembered because their digests were right. The one that was right longest ago is forgotten first."""

SEEDERS_ASKED: Final = 16
"""Seeders that are asked for digests of a contested map. Two reports that agree are enough."""


class Maps:
    """Records digests, tells them to members, and handles disputes."""

    def __init__(self, state: SchedulerState) -> None:
        self._state: Final = state

    # Digests

    def claim_digests(self, swarm: Swarm, member: Member, reporter: Identity, first: int, digests: bytes) -> None:
        """Record a host's report of the digests of the pieces from `first` on, and tell new digests to members.

        Raises ProtocolError if the blob has no such pieces, or if they take more memory than the host may have.
        """
        piece_map = self._map_with(swarm, first, digests)
        count = len(digests) // DIGEST_BYTES
        if not self._state.charge(swarm, member.host, PUBLISHED_BYTES * count + piece_map.growth_bytes(first, count)):
            raise ProtocolError("this host says more than the scheduler keeps for one")
        news, doubt = 0, False
        for at in range(0, len(digests), DIGEST_BYTES):
            piece = first + at // DIGEST_BYTES
            result = piece_map.claim_digest(reporter, piece, digests[at : at + DIGEST_BYTES])
            if result is ClaimResult.NEWS:
                news |= 1 << piece
            elif result is ClaimResult.DISPROVED and reporter != SECONDHAND and _was_heard(swarm, member):
                self._state.accuse(swarm, (reporter,), DISPROVED)
            doubt = doubt or result is ClaimResult.CONTRADICTION
        if doubt:
            self._contest(swarm, piece_map, "a contradiction")
            return
        swarm.unleased &= ~news
        self._need_quorum(swarm, piece_map)
        if news:
            self._publish(swarm, member, [DigestRun(at, run) for at, run in piece_map.runs(news)])

    def catch_up(self, swarm: Swarm, member: Member) -> None:
        """Send a member all known digests."""
        if swarm.map is not None:
            told = swarm.whole_map or _all_known(swarm, swarm.map)
            if swarm.map.known == swarm.map.everything:
                swarm.whole_map = told
            for message in told:
                self._state.tell(member.host, message)
        member.digests_sent = len(swarm.log)

    def fan_out(self, swarm: Swarm) -> None:
        """Send new digests to the next slice of members."""
        settings = self._state.settings
        if not swarm.fanout_queue and swarm.fanout_pending:
            swarm.fanout_queue = list(swarm.wanting.items)
            swarm.fanout_pending = False
        audience: dict[int, list[Host]] = {}
        taken = min(len(swarm.fanout_queue), settings.fanout_slice)
        for _ in range(taken):
            member = swarm.fanout_queue.pop()
            if member.wants and member.digests_sent < len(swarm.log):
                audience.setdefault(member.digests_sent, []).append(member.host)
                member.digests_sent = len(swarm.log)
        for digests_sent, hosts in audience.items():
            self._tell(swarm, hosts, swarm.log[digests_sent:])
        if taken:
            again = self._state.now + taken / settings.fanout_per_s
            self._state.deadlines.set(Timer(Due.FANOUT, swarm.digest), again)

    def validate(self) -> None:
        """Raise AssertionError if members would be told other digests than those of the map."""
        for swarm in self._state.swarms.values():
            if swarm.whole_map:
                assert swarm.map is not None, swarm.story.lines()
                assert swarm.whole_map == _all_known(swarm, swarm.map), swarm.story.lines()

    def _publish(self, swarm: Swarm, publisher: Member, runs: list[DigestRun]) -> None:
        swarm.log += runs
        swarm.fanout_pending = True
        if len(swarm.wanting) > self._state.settings.fanout_slice:
            self._tell(swarm, [other.host for other in publisher.links if other.wants], runs)
        if Timer(Due.FANOUT, swarm.digest) not in self._state.deadlines:
            self.fan_out(swarm)

    def _tell(self, swarm: Swarm, hosts: list[Host], runs: list[DigestRun]) -> None:
        for runs_of_message in _messages(runs):
            self._state.send(hosts, PieceDigests(swarm.digest, swarm.generation, runs_of_message))

    # Doubt

    def disproved(self, swarm: Swarm, member: Member, message: Disproved) -> None:
        """Handle a member that verified every piece and found the blob's SHA-256 wrong."""
        piece_map = swarm.map
        if piece_map is None or message.generation != swarm.generation or piece_map.known != piece_map.everything:
            return
        if _was_heard(swarm, member):
            self._state.accuse(swarm, (member.host.identity,), DISPUTED)
        elif piece_map.dispute(member.host.identity):
            self._contest(swarm, piece_map, member.host.id)

    def judge(self, swarm: Swarm) -> None:
        """Most of the swarm has found the SHA-256 right: who said otherwise is accused, and the others have credit."""
        piece_map, credit = swarm.map, self._state.credit
        assert piece_map is not None
        swarm.judged_at = self._state.now
        self._state.accuse(swarm, piece_map.wrong_reporters(), DISPROVED)
        for said in swarm.publishers.contradictions:
            is_right = piece_map.digest(said.piece) == said.digest
            self._state.accuse(swarm, (said.checker if is_right else said.publisher,), DISPROVED)
        for identity in piece_map.right_reporters():
            if identity not in self._state.to_quarantine:
                credit.pop(identity, None)
                credit[identity] = None
        while len(credit) > MAX_CREDIT:
            del credit[next(iter(credit))]

    def distrust(self, swarm: Swarm, identity: Identity) -> None:
        """Contest a map with digests of a host that was found to lie, unless another host has sealed the map."""
        piece_map = swarm.map
        if piece_map is None or piece_map.state not in (MapState.GROWING, MapState.KNOWN):
            return
        if piece_map.has_claim_of(identity):
            self._contest(swarm, piece_map, f"the quarantine of {identity}")

    def _contest(self, swarm: Swarm, piece_map: PieceMap, by: str) -> None:
        piece_map.contest()
        self._state.reset(swarm, f"contested by {by}")
        swarm.unleased = piece_map.everything & ~piece_map.known
        holders = self._state.rng.sample(swarm.graph.providers.items, SEEDERS_ASKED)
        swarm.digest_sources.extend(member.host for member in holders if member.state is MemberState.COMPLETE)
        for member in swarm.members.values():
            if member.wants:
                self.catch_up(swarm, member)
        self._state.note_lost(swarm)

    def _need_quorum(self, swarm: Swarm, piece_map: PieceMap) -> None:
        if piece_map.state is MapState.CONTESTED:
            leased = 0
            for lease in swarm.leases.values():
                leased |= lease.left
            swarm.unleased |= piece_map.everything & ~piece_map.known & ~leased
            self._state.swarms_to_lease[swarm] = None

    @staticmethod
    def _map_with(swarm: Swarm, first: int, digests: bytes) -> PieceMap:
        """The swarm's map. Raises ProtocolError if the blob does not have these pieces."""
        if swarm.map is None or first + len(digests) // DIGEST_BYTES > swarm.map.count:
            raise ProtocolError("digests of pieces that the blob does not have")
        return swarm.map


def _was_heard(swarm: Swarm, member: Member) -> bool:
    """Whether the map is judged and the member was in the swarm then.

    Two hosts that are alone in a swarm may have found a wrong map right. Who comes later is not accused by their word.
    """
    return swarm.map is not None and swarm.map.judged and member.entered_at <= swarm.judged_at


def _all_known(swarm: Swarm, piece_map: PieceMap) -> tuple[PieceDigests, ...]:
    """All known digests of a swarm, as its members are told them."""
    runs = [DigestRun(first, digests) for first, digests in piece_map.runs(piece_map.known)]
    return tuple([PieceDigests(swarm.digest, swarm.generation, part) for part in _messages(runs)])


def _messages(runs: list[DigestRun]) -> Iterator[tuple[DigestRun, ...]]:
    """Cut runs into tuples that each fit into one message."""
    batch: list[DigestRun] = []
    room = MAX_DIGESTS_PER_MESSAGE
    for run in runs:
        first, digests = run.first, run.digests
        while digests:
            if not room or len(batch) == MAX_RUNS_PER_MESSAGE:
                yield tuple(batch)
                batch, room = [], MAX_DIGESTS_PER_MESSAGE
            part = digests[: room * DIGEST_BYTES]
            batch.append(DigestRun(first, part))
            count = len(part) // DIGEST_BYTES
            room -= count
            first += count
            digests = digests[len(part) :]
    if batch:
        yield tuple(batch)
