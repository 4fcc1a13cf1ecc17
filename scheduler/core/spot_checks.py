"""Spot checks: is what a publisher says of its first piece what the origin has, before many build on its word?

The problem: wrong digests show only when a blob is whole, and finding them then takes a second copy of the blob.

Our way: few hosts publish, and each is looked at first.

1. A publisher is *admitted* once its first piece was checked. The digest of that piece is told to CHECKERS of its
   neighbours alone, drawn at random. They fetch the same random SLICES-th part of the piece from the origin, and take
   the piece from the publisher if it has the same bytes. If all agree, the digest is believed and told to everybody.
2. If one disagrees, nobody knows which of them lies: none of them publishes or checks anything more of this blob, and
   the piece is leased again. The SHA-256 of the blob says later who was wrong (`piece_digests.Maps.judge`).
3. PUBLISHERS admitted hosts are enough to spread a blob as fast as all would: they get the leases that follow.
4. A host whose digests were proved right by the SHA-256 of an earlier blob has *credit*: it is checked in one blob of
   CREDIT, and is admitted in the others.
5. A checker that does not answer within CHECK_S is not waited for. If none answers, the piece is leased again, since a
   publisher may send its checkers nothing; MAX_SILENCES times, since all hosts may be slow. A piece that no host can
   check is believed. Small blobs and small swarms are not checked: to fetch them again costs little.

The cost in a swarm of honest hosts is PUBLISHERS * CHECKERS / SLICES pieces: a quarter of a piece.

Rejected: to lease whole pieces twice. One piece of each of eight publishers is 12 % of a blob of 64 pieces. A part
shows a piece whose bytes are others throughout (a cache that has another blob, a host that makes them up); few bytes
that differ show only in the SHA-256.
"""

from __future__ import annotations

from typing import Final

from scheduler.core.members import Member
from scheduler.core.piece_digests import Maps
from scheduler.core.piece_map import MapState
from scheduler.core.publishers import Check, Contradiction
from scheduler.core.state import Due, SchedulerState, Timer
from scheduler.core.swarm import Swarm
from scheduler.protocol.fields import DIGEST_BYTES, ProtocolError
from scheduler.protocol.from_host import SpotChecked, SpotResult
from scheduler.protocol.geometry import SHARES, piece_span
from scheduler.protocol.to_host import DigestRun, SpotCheck

PUBLISHERS: Final = 8
"""With 4, the last of 100 hosts has 128 pieces 11 % later; with 8, 0.2 %; with 16 no later."""

CHECKERS: Final = 2
SLICES: Final = 64
MOST_SHARE: Final = 0.01
"""The share of the blob that checks may take from the origin once more, as long as nobody contradicts a publisher."""

CHECK_S: Final = 5.0
MAX_SILENCES: Final = 4
CREDIT: Final = 8

_SAID: Final = (SpotResult.RIGHT, SpotResult.WRONG)

MIN_PIECES: Final = 16
MIN_MEMBERS: Final = 8


class SpotChecks:
    """Holds the first digests of new publishers back until they were checked."""

    def __init__(self, state: SchedulerState, maps: Maps) -> None:
        self._state: Final = state
        self._maps: Final = maps

    def published(self, swarm: Swarm, member: Member, first: int, digests: bytes) -> None:
        """Take the digests of pieces that a member has from the origin: they are believed at once, or checked."""
        publishers = swarm.publishers
        check = publishers.checks.get(member)
        if check is not None:
            check.runs.append(DigestRun(first, digests))
        elif not self._is_to_check(swarm, member) or not self._begin(swarm, member, DigestRun(first, digests)):
            self._maps.claim_digests(swarm, member, member.host.identity, first, digests)
            return
        swarm.unleased &= ~swarm.publishers.held  # a late lease has brought pieces that were to be leased again

    def checked(self, swarm: Swarm, member: Member, message: SpotChecked) -> None:
        """A checker has compared a piece with the origin, or could not."""
        if message.generation != swarm.generation:
            return
        for check in list(swarm.publishers.checks.values()):
            if check.piece == message.piece and check.results.get(member, SpotResult.RIGHT) is None:
                check.results[member] = message.result
                if message.result is SpotResult.WRONG or None not in check.results.values():
                    self._end(swarm, check)

    def due(self, swarm: Swarm) -> None:
        """End the checks that have taken too long."""
        for check in list(swarm.publishers.checks.values()):
            if check.due <= self._state.now:
                self._end(swarm, check)
        self._set_timer(swarm)

    def _is_to_check(self, swarm: Swarm, member: Member) -> bool:
        publishers = swarm.publishers
        if swarm.map is None or swarm.map.state is not MapState.GROWING or member in publishers.admitted:
            return False
        if swarm.map.count < MIN_PIECES or len(swarm.wanting) < MIN_MEMBERS:
            return False
        most = swarm.map.count * SLICES * MOST_SHARE + 2 * CHECKERS * len(publishers.contradictions)
        if publishers.asked + CHECKERS > most:
            return False
        if member.host.identity in self._state.credit and self._state.rng.randbelow(CREDIT):
            publishers.admitted[member] = None
            return False
        return True

    def _begin(self, swarm: Swarm, member: Member, run: DigestRun) -> bool:
        """Have a piece checked. Returns whether there is a host that can do it."""
        piece = run.first
        checkers = self._checkers(swarm, member, piece)
        if not checkers or swarm.size_bytes is None:
            return False
        start, stop = piece_span(piece, swarm.size_bytes, swarm.piece_bytes)
        part = -(-(stop - start) // SLICES)
        at = self._state.rng.randbelow(stop - start - part + 1)
        due = self._state.now + CHECK_S
        swarm.publishers.checks[member] = Check(member, piece, [run], due, dict.fromkeys(checkers))
        swarm.publishers.asked += len(checkers)
        swarm.story.tell("%s is checked by %s", member.host.id, [checker.host.id for checker in checkers])
        hosts = [checker.host for checker in checkers]
        digest = run.digests[:DIGEST_BYTES]
        self._state.send(hosts, SpotCheck(swarm.digest, swarm.generation, piece, digest, at, at + part))
        self._set_timer(swarm)
        return True

    def _checkers(self, swarm: Swarm, member: Member, piece: int) -> list[Member]:
        """Neighbours of a publisher, drawn at random: one that was admitted, if there is one, and others."""
        now, publishers = self._state.now, swarm.publishers
        busy = {checker for check in publishers.checks.values() for checker in check.results}
        able = [
            other
            for other in self._state.rng.shuffled(list(member.links))
            if other.wants
            and other.host.checks
            and _may_ask(other, member, piece)
            and other.source is not None
            and other.refusal(now) is None
            and other not in busy
            and other.host.identity not in publishers.suspects
        ]
        witness = member.host.identity.witness
        able.sort(key=lambda other: other.host.identity.witness == witness)  # its own address is better than nobody
        admitted = [other for other in able if other in publishers.admitted][:1]
        return (admitted + [other for other in able if other not in admitted])[:CHECKERS]

    def _end(self, swarm: Swarm, check: Check) -> None:
        """All have answered, or one has contradicted, or the time is over."""
        publishers, publisher, results = swarm.publishers, check.publisher, check.results.values()
        if publishers.checks.get(publisher) is not check:  # the map was reset meanwhile
            return
        del publishers.checks[publisher]
        self._state.swarms_to_lease[swarm] = None
        if SpotResult.WRONG in results:
            self._suspect(swarm, check)
        elif SpotResult.RIGHT not in results and None in results and publishers.silences < MAX_SILENCES:
            publishers.silences += 1
            publisher.failures += 1
        elif self._believe(swarm, check):
            return
        swarm.hold(publisher, publisher.have & ~check.pieces)
        swarm.lease_again(check.pieces)

    def _believe(self, swarm: Swarm, check: Check) -> bool:
        """Take what was held back as published. Returns False if that is more than the publisher may say."""
        if SpotResult.RIGHT in check.results.values():
            swarm.publishers.admitted[check.publisher] = None
        try:
            for run in check.runs:
                reporter = check.publisher.host.identity
                self._maps.claim_digests(swarm, check.publisher, reporter, run.first, run.digests)
        except ProtocolError:  # it is the publisher's, and this is another host's message
            return False
        return True

    def _suspect(self, swarm: Swarm, check: Check) -> None:
        """A checker contradicts a publisher: they, and who confirmed it, do not publish, check, or act as gateways."""
        publishers, publisher = swarm.publishers, check.publisher
        for checker, result in check.results.items():
            if result is SpotResult.WRONG:
                swarm.story.tell("%s contradicts %s on piece %s", checker.host.id, publisher.host.id, check.piece)
                contradiction = Contradiction(checker.host.identity, publisher.host.identity, check.piece, check.digest)
                publishers.contradictions.append(contradiction)
        for member in (publisher, *(each for each, result in check.results.items() if result in _SAID)):
            publishers.suspects.add(member.host.identity)
            publishers.admitted.pop(member, None)
            member.failures += 1
            swarm.gateways.replace(member)
        self._state.links_changed[swarm] = None

    def _set_timer(self, swarm: Swarm) -> None:
        due = min((check.due for check in swarm.publishers.checks.values()), default=None)
        if due is not None:
            self._state.deadlines.set(Timer(Due.SPOT_CHECK, swarm.digest), due)


def _may_ask(member: Member, publisher: Member, piece: int) -> bool:
    """Whether a member asks a neighbour for a piece: in another site only a gateway does, for its shares."""
    return member.host.topology.site == publisher.host.topology.site or bool(member.shares >> piece % SHARES & 1)
