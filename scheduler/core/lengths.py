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
"""

from __future__ import annotations

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
from scheduler.protocol.geometry import piece_count, piece_length
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

    def claim(self, swarm: Swarm, host: Host, size_bytes: int, source: LengthSource) -> None:
        """Record a host's report of the blob's length. The host may have left the swarm afterwards.

        Raises ProtocolError if the blob's pieces would take more memory than the host may have.
        """
        kept = self._state.inline_blobs.size_of(swarm.digest)
        if kept is not None:
            if size_bytes != kept and source is LengthSource.WHOLE:
                self._state.accuse(swarm, (host.identity,), "said that it holds the blob, in another length")
            return
        if source is LengthSource.HEARSAY:
            self._hear(swarm, host, size_bytes)
            return
        swarm.length.add(host.identity, size_bytes)
        if swarm.size_bytes is None:
            believed = swarm.length.confirmed() if swarm.size_disputed else swarm.length.first()
            if believed is not None:
                self._believe(swarm, host, believed)
        elif size_bytes != swarm.size_bytes:
            self._contradict(swarm, host, size_bytes)

    def _hear(self, swarm: Swarm, host: Host, size_bytes: int) -> None:
        if swarm.size_bytes is None and not swarm.size_disputed:
            self._believe(swarm, host, size_bytes)
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
            self._believe(swarm, host, size_bytes)

    def _believe(self, swarm: Swarm, host: Host, size_bytes: int) -> None:
        if not self._state.charge(swarm, host, bitmap_bytes(piece_count(size_bytes, piece_length(size_bytes)))):
            raise ProtocolError("this host says more than the scheduler keeps for one")
        waiting = [member.host for member in swarm.members.values() if member.state is MemberState.JOINING]
        if swarm.size_disputed and size_bytes > MAX_INLINE_BYTES:  # if it was first reported as tiny, it has no links
            for member in swarm.wanting.items:
                swarm.graph.fill(member)
            self._state.links_changed[swarm] = None
        swarm.set_size(size_bytes)
        self._state.send(waiting, Sized(swarm.digest, swarm.generation, size_bytes))
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
                    self._state.send((member.host,), Failed(swarm.digest, 0, reason))
                self._membership.expel(swarm, member)
