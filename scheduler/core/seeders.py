"""Seeders and other hosts that know more of a blob than the scheduler: seals, inline blobs, requests for digests.

A scheduler that has restarted asks a host that holds pieces for their digests, or a seeder of a tiny blob for the blob.
So the blob is not fetched from the origin again. A seeder's report counts like any other, because the seeder has
checked the SHA-256. A host that holds a part of the blob only repeats the digests of the scheduler before: they are
believed until they are disputed, do not count towards the quorum, and accuse no host. While a map is contested, seeders
are asked first, because their reports cost no bytes from the origin.
"""

from __future__ import annotations

import hashlib
from typing import Final

from scheduler.core.claims import SECONDHAND
from scheduler.core.leases import LeaseCause
from scheduler.core.members import Host, Member, MemberCause, MemberState
from scheduler.core.piece_digests import Maps
from scheduler.core.piece_map import MapState
from scheduler.core.state import Due, SchedulerState, Timer
from scheduler.core.swarm import Swarm
from scheduler.protocol import to_host
from scheduler.protocol.from_host import DigestReport, InlineBlob, Sealed
from scheduler.protocol.geometry import is_long, piece_length
from scheduler.protocol.to_host import DigestRun, LeaseRevoked, RequestDigests

UNFINISHED: Final = (MapState.GROWING, MapState.CONTESTED)
"""The states of a map in which a host can be asked for digests."""


class Seeders:
    """Records the reports of seeders, and asks hosts for digests."""

    def __init__(self, state: SchedulerState, maps: Maps) -> None:
        self._state: Final = state
        self._maps: Final = maps

    def sealed(self, swarm: Swarm, member: Member, message: Sealed) -> None:
        """Record that a host holds the whole blob and that its SHA-256 is right."""
        if swarm.map is not None and swarm.size_bytes is not None and message.generation == swarm.generation:
            wanting = len(swarm.wanting) - member.wants
            if swarm.map.seal(member.host.identity, wanting, len(self._state.hosts)):
                self._maps.judge(swarm)
            swarm.length.add(member.host.identity, swarm.size_bytes)
        is_large = swarm.size_bytes is not None and is_long(swarm.size_bytes)
        if message.piece_bytes_per_s and member.wants and is_large:
            self._state.note_piece_rate(message.piece_bytes_per_s)
        if member.wants and swarm.pull is not None and swarm.size_bytes is not None:
            swarm.pull.told_origin_bytes += min(message.origin_bytes, swarm.size_bytes)
            swarm.pull.far_bytes += min(message.far_bytes, swarm.size_bytes)
        self.complete(swarm, member)
        if swarm.map is not None and swarm.map.known != swarm.map.everything:
            swarm.digest_sources.append(member.host)
            self._state.swarms_to_lease[swarm] = None

    def complete(self, swarm: Swarm, member: Member) -> None:
        """Record that a member holds the whole blob, and revoke its leases."""
        if member.state is MemberState.COMPLETE:
            return
        for lease in swarm.leases_of(member):
            self._state.end_lease(lease, LeaseCause.REVOKE)
            self._state.tell(member.host, LeaseRevoked(lease.id, swarm.digest))
        if member.wants and swarm.size_bytes is not None:
            gained_bytes = swarm.size_bytes - swarm.bytes_of(member.have)
            member.host.rate.add(gained_bytes, self._state.now)
            if swarm.pull is not None:
                swarm.pull.received_bytes += gained_bytes
        swarm.step(member, MemberCause.HOLDS_ALL)
        if swarm.graph.lacks_seeders:
            self._state.links_changed[swarm] = None
        self._state.note_idle(swarm)

    def inline_blob(self, swarm: Swarm, member: Member, message: InlineBlob) -> None:
        """Send a tiny blob, which a host was asked for, to all members that want it."""
        state = self._state
        leases = swarm.leases_of(member)
        if not leases and swarm.digests_requested_of is not member.host:
            return
        if hashlib.sha256(message.data).digest() != swarm.digest:
            self._state.accuse(swarm, (member.host.identity,), "sent other bytes under a blob's digest")
            return
        for lease in leases:
            state.end_lease(lease, LeaseCause.LAST_PIECE)
        member.host.proven, member.host.is_silent = True, False
        self._end_digest_request(swarm)
        state.inline_blobs.put(swarm.digest, message.data)
        if swarm.size_bytes != len(message.data):
            if swarm.size_bytes is not None:
                self._state.reset(swarm, "its length was wrong")
                swarm.forget_size()
            swarm.set_size(len(message.data), piece_length(len(message.data)))
        if leases and swarm.pull is not None:
            swarm.pull.fetched(len(message.data), state.now)
        self.complete(swarm, member)
        waiting = list(swarm.wanting.items)
        state.send([other.host for other in waiting], to_host.InlineBlob(swarm.digest, message.data))
        for other in waiting:
            self.complete(swarm, other)

    def request_digests(self, swarm: Swarm) -> bool:
        """Ask a host for digests that the scheduler does not know. Returns whether an answer is expected."""
        if swarm.digests_requested_of is not None:
            return True
        host = self._digest_source(swarm)
        if host is None:
            return False
        swarm.digests_requested_of = host
        swarm.story.tell("requests digests from %s", host.id)
        self._state.tell(host, RequestDigests(swarm.digest))
        due = self._state.now + self._state.settings.digest_request_s
        self._state.deadlines.set(Timer(Due.DIGEST_REQUEST, swarm.digest), due)
        return True

    def digests_reported(self, swarm: Swarm, member: Member, message: DigestReport) -> None:
        """Record a part of the answer to a request for digests."""
        for run in (DigestRun(message.first, message.digests), *message.more):
            if swarm.digests_requested_of is not member.host:  # or no longer: its last digests contested the map
                return
            if run.digests and swarm.map is not None and swarm.map.state in UNFINISHED:
                reporter = member.host.identity if member.state is MemberState.COMPLETE else SECONDHAND
                self._maps.claim_digests(swarm, member, reporter, run.first, run.digests)
                self._state.note_lost(swarm)
        if message.last and swarm.digests_requested_of is member.host:
            if swarm.is_tiny:  # the host was asked for the blob and does not have it
                member.failures += 1
            self._end_digest_request(swarm)

    def digest_request_expired(self, swarm: Swarm) -> None:
        """Handle a host that has not answered a request for digests in time."""
        if swarm.digests_requested_of is not None and swarm.digests_requested_of in swarm.members:
            swarm.members[swarm.digests_requested_of].failures += 1
        self._end_digest_request(swarm)

    def _digest_source(self, swarm: Swarm) -> Host | None:
        if swarm.is_tiny:
            for member in self._state.rng.sample(swarm.graph.providers.items, 32):
                if member.state is MemberState.COMPLETE and not member.failures:
                    return member.host
        if swarm.map is None or swarm.map.state not in UNFINISHED:
            return None
        contested = swarm.map.state is MapState.CONTESTED
        while swarm.digest_sources:
            host = swarm.digest_sources.popleft()
            found = swarm.members.get(host)
            if found is None or found.piece_bytes not in (0, swarm.piece_bytes):
                continue
            if found.state is MemberState.COMPLETE or (found.have & ~swarm.map.known and not contested):
                return host
        return None

    def _end_digest_request(self, swarm: Swarm) -> None:
        swarm.digests_requested_of = None
        self._state.deadlines.cancel(Timer(Due.DIGEST_REQUEST, swarm.digest))
        self._state.swarms_to_lease[swarm] = None
