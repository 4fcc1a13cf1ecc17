"""The lengths of blobs: which of them is believed, and what happens to hosts that say another.

Rules:
1. The word of a host that says that it has verified the length beats hearsay: a length from a manifest whose digest is
   right, from the origin's response to a lease, or of a blob whose SHA-256 is right. An announced part of a blob is
   hearsay: it is believed only as long as nothing better is known.
2. Two verified words that differ are a dispute. Then a length is believed once two witnesses have said it
   (`scheduler.core.claims`).
3. A host that says another length than the believed one cannot exchange pieces with the others. It is taken out of the
   swarm, and its client is served from the origin. Nobody is quarantined for a length: the author of a manifest may
   have written any. The exception is a host that says that it holds the whole blob in another length than bytes have
   whose SHA-256 is right here.
4. Who says the length first says how the blob is divided into pieces, if it holds pieces, or is a host without the
   feature `piece-length`. Else the scheduler chooses, where all hosts have the feature and nobody waits for the length.
   A blob of a length is not divided otherwise as long as its swarm lasts. What holds of `piece-length` holds of
   `long-pieces` where they are longer than usual.
5. A swarm of N hosts doubles the holders of a piece log2 N times before all have it, and each of these rounds takes as
   long as a piece. So the best length is that of `scheduler.protocol.geometry.piece_length`, with the hosts and the
   links that there are: a large swarm has half the usual length or less if its links are slow or its pieces are few.
   In a small one each piece costs more than it gives: news, requests and wake-ups (docs/decisions, 0044 and 0046).
6. A client pulls several blobs at a time, and each swarm hides what the ramp of another costs: what counts is how many
   pieces its host lacks of all of them. So a short blob that a host wants beside others has the pieces of a blob of the
   length of all, twice its usual ones at most: as many bytes in half the requests. A blob by itself has the usual ones,
   and so has one in a large swarm (docs/decisions, 0061). The host says how much it wants beside the blob. If it lies,
   pieces are twice as long, or half as long, as they should be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum, auto
from typing import Final

from scheduler.core.budget import bitmap_bytes
from scheduler.core.claims import QUORUM
from scheduler.core.members import Host, Identity, MemberState
from scheduler.core.membership import Membership
from scheduler.core.state import SchedulerState
from scheduler.core.swarm import Swarm
from scheduler.protocol.fields import MAX_INLINE_BYTES, ProtocolError
from scheduler.protocol.geometry import (
    MAX_BLOB_BYTES,
    MIN_SWARM_PIECE_BYTES,
    longest_piece_length,
    piece_count,
    piece_length,
)
from scheduler.protocol.to_host import Failed, Sized


class LengthSource(Enum):
    """The reason why a host says a length."""

    HEARSAY = auto()
    """It holds a part of the blob."""
    VERIFIED = auto()
    """It has the length from a manifest or from the origin."""
    WHOLE = auto()
    """It says that it holds the whole blob, and that its SHA-256 is right."""


class Lengths:
    """Records reports of lengths."""

    def __init__(self, state: SchedulerState, membership: Membership) -> None:
        self._state: Final = state
        self._membership: Final = membership

    def claim(self, swarm: Swarm, host: Host, size_bytes: int, source: LengthSource, piece_bytes: int) -> None:
        """Record a host's report of the blob's length. The host may have left the swarm afterwards.

        `piece_bytes` is the length of the host's pieces, or of those that the blob should have if the host has none. It
        matters as long as no length is believed.

        Raises ProtocolError if the blob's pieces would take more memory than the host may have.
        """
        kept = self._state.inline_blobs.size_of(swarm.digest)
        if kept is not None:
            if size_bytes != kept and source is LengthSource.WHOLE:
                self._state.accuse(swarm, (host.identity,), "said that it holds the blob, in another length")
            return
        if source is LengthSource.HEARSAY:
            self._hear(swarm, host, size_bytes, piece_bytes)
            return
        swarm.length.add(host.identity, size_bytes)
        if swarm.size_bytes is None:
            believed = swarm.length.confirmed() if swarm.size_disputed else swarm.length.first()
            if believed is not None:
                self._believe(swarm, host, believed, piece_bytes if believed == size_bytes else piece_length(believed))
        elif size_bytes != swarm.size_bytes:
            self._contradict(swarm, host, size_bytes)

    def best_division(self, size_bytes: int, beside_bytes: int) -> int:
        """The length of the pieces that a blob of this length should have (rules 5 and 6).

        The host that wants the blob says that it wants `beside_bytes` of other blobs.
        """
        settings, hosts, length = self._state.settings, len(self._state.hosts), piece_length(size_bytes)
        if hosts < settings.large_swarm:
            if self._state.lengthening < hosts:
                return length
            together_bytes = min(size_bytes + beside_bytes, MAX_BLOB_BYTES)
            return min(piece_length(together_bytes), longest_piece_length(size_bytes))
        if self._state.dividing < hosts:
            return length
        blob_s = size_bytes / self._state.piece_bytes_per_s
        best_count = math.sqrt(math.log2(hosts) * blob_s / settings.piece_cost_s)
        while length // 2 >= MIN_SWARM_PIECE_BYTES and math.sqrt(2) * piece_count(size_bytes, length) < best_count:
            length //= 2  # the power of two with the nearest ratio, as usual
        return length

    def _hear(self, swarm: Swarm, host: Host, size_bytes: int, piece_bytes: int) -> None:
        if swarm.size_bytes is None and not swarm.size_disputed:
            self._believe(swarm, host, size_bytes, piece_bytes)
        elif size_bytes != swarm.size_bytes:
            self._drop(swarm, (host.identity,))

    def _contradict(self, swarm: Swarm, host: Host, size_bytes: int) -> None:
        reports = 0 if swarm.size_bytes is None else swarm.length.reports(swarm.size_bytes)
        if reports >= QUORUM:
            self._drop(swarm, (host.identity,))
            return
        self._state.reset(swarm, f"{host.id} says it is {size_bytes} bytes long")
        swarm.forget_size()
        if not reports:
            parts = [other.host.identity for other in swarm.members.values() if other.state is MemberState.IDLE]
            self._drop(swarm, (identity for identity in parts if identity != host.identity))
            swarm.size_disputed = False
            self._believe(swarm, host, size_bytes, piece_length(size_bytes))

    def _believe(self, swarm: Swarm, host: Host, size_bytes: int, piece_bytes: int) -> None:
        if swarm.divided[0] == size_bytes:  # rule 4
            piece_bytes = swarm.divided[1]
        elif len(swarm.wanting) or swarm.leases:
            piece_bytes = piece_length(size_bytes)
        if not self._state.charge(swarm, host, bitmap_bytes(piece_count(size_bytes, piece_bytes))):
            raise ProtocolError("this host says more than the scheduler keeps for one")
        waiting = [member for member in swarm.members.values() if member.state is MemberState.JOINING]
        if swarm.size_disputed and size_bytes > MAX_INLINE_BYTES:  # if it was first reported as tiny, it has no links
            for member in swarm.wanting.items:
                swarm.graph.fill(member)
            self._state.links_changed[swarm] = None
        swarm.set_size(size_bytes, piece_bytes)
        told = swarm.told_length
        for member in [each for each in waiting if not swarm.has_pieces_for(each.host)]:
            waiting.remove(member)
            self._membership.refuse(swarm, member, 0)
        sized = Sized(swarm.digest, swarm.generation, size_bytes, told)
        self._state.send([member.host for member in waiting], sized)
        self._state.swarms_to_lease[swarm] = None
        if swarm.length.reports(size_bytes) >= QUORUM:
            self._drop(swarm, swarm.length.dissenters(size_bytes))

    def _drop(self, swarm: Swarm, identities: Iterable[Identity]) -> None:
        """Take hosts out of the swarm."""
        for identity in identities:
            host = self._state.known_as(identity)
            member = swarm.members.get(host) if host is not None else None
            if member is not None:
                swarm.story.tell("%s says another length", identity)
                if member.wants:
                    reason = "the other hosts say that this blob has another length"
                    self._state.tell(member.host, Failed(swarm.digest, 0, reason))
                self._membership.expel(swarm, member)
