"""The lease policy: which host fetches which piece from the origin, so that each piece leaves the origin once.

Rules:
1. A piece is under at most one lease that is not late. A piece whose digest is believed and that a member holds is
   under no such lease.
2. Leases are few and short, and each goes to a host that has had few leases: if all pieces come from one host, the last
   host finishes 1.34 times as late. The first lease is a single piece of a single host, because concurrent leases share
   the origin's bandwidth and delay the first piece. Every piece that lands allows one more concurrent lease. In a swarm
   that many hosts want, a lease is a single piece. A host that is alone gets several pieces, which are one request.
3. While the blob's length is unknown there is only one lease, and its holder reports the length. A tiny blob also has
   only one lease.
4. A lease has a time by the size of a piece, and by how long pieces take from its origin, as far as that is known once
   the time is over (`scheduler.core.origin_pace`). If the lease brings nothing in that time, its host is pinged: what
   the host has said already may be on its way still, where a machine is busy. If the lease has brought nothing once the
   host has answered, or `answer_s` later, it is late: another host gets the pieces as well, and whoever has them first
   is heard. Each such silence doubles the time of the next lease, up to MAX_PATIENCE times `lease_s`: an origin may be
   slow for everybody. The silence of several hosts of one witness that have never brought anything counts once, and
   other hosts are asked next. Where there is no other host, the lease is
   revoked and granted again. After LEASE_ATTEMPTS failed leases in a row, all waiting members are told that the swarm
   failed. Silences fail it only once there are SILENCES times as many: their hosts are connected, and go on with what
   they asked the origin for. A 4xx of the origin concerns that host's client and is not a failed lease.
5. In a contested map, or with a disputed length, no host is asked for a second report.
6. Hosts that have brought nothing yet share the leases of one host, if they are of one witness
   (`scheduler.core.members.Identity`). A late lease counts for nobody. A host that has let a lease pass in silence has
   one at a time while other hosts wait for the same origin (`scheduler.core.over_quota`).
7. In a swarm with gateways, leases go to the gateway of the piece's share, unless the origin refuses all gateways.
8. Leases go to hosts whose first piece was checked, once there are enough (`scheduler.core.spot_checks`), and to none
   of which it is not known whether they lie, unless no other host is left.
9. Swarms that only preheats want have no leases of an origin that clients wait for, but a piece now and then. Their
   leases there end when the first client comes (`scheduler.core.clients_first`).
10. Pieces that were on their way when the swarm moved here from another scheduler are leased to the hosts that fetch
   them, as long as the swarm waits for hosts (`SchedulerSettings.moved_s`), with MAX_PATIENCE times the usual time: how
   long they take is not known here yet. A blob and a host have as many leases as else. The bound of the origin does not
   count: the requests are under way.
11. An origin's leases are divided equally among the schedulers that live, each of which grants as many as a blob may
   have at least.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from typing import Final

from scheduler.core.leases import Lease, LeaseCause, LeaseState
from scheduler.core.lengths import Lengths, LengthSource
from scheduler.core.members import Host, Identity, Member, OriginRefusal, Source
from scheduler.core.membership import Membership
from scheduler.core.piece_digests import Maps
from scheduler.core.piece_map import MapState
from scheduler.core.seeders import Seeders
from scheduler.core.spot_checks import PUBLISHERS, SpotChecks
from scheduler.core.state import Due, SchedulerState, Timer
from scheduler.core.swarm import Swarm
from scheduler.protocol import to_host
from scheduler.protocol.fields import DIGEST_BYTES, ProtocolError
from scheduler.protocol.from_host import LeaseEnded, LeaseOutcome, LeasePieces, Length, Need
from scheduler.protocol.geometry import MAX_PIECE_BYTES, SHARES, piece_length
from scheduler.protocol.to_host import LeaseRevoked

LEASE_ATTEMPTS: Final = 5
"""Leases of one blob that may fail in a row, with different hosts, before the swarm fails."""

REFUSAL_S: Final = 300.0
"""How long a host gets no lease for a repository that the origin refused to its client. A new client may be allowed."""

SILENCES: Final = 8
"""Times LEASE_ATTEMPTS: leases that may expire in a row."""

LONGEST_PIECE_S: Final = 5.5
"""How much longer than `opening_s` a lease of pieces of 4 MiB may take: well below the 10 s of a client in all."""

TIMES_USUAL: Final = 3
"""Times the usual time of a piece from its origin that a lease may take. Where some 20 connections share a full line of
100 Mbit/s, one piece in a hundred takes longer."""

MAX_SILENT: Final = 64
"""Silent strangers that a swarm remembers."""

MAX_PATIENCE: Final = 4
"""Times `lease_s`. Some registries scan a layer for a minute before they send it."""

LEASES_EACH: Final = 4
"""The pieces left to lease are enough for this many leases per host, so that other hosts make up for a late host."""

DRAWN: Final = 16
"""Members that are drawn as candidates for a lease from a larger swarm."""


class LeasePolicy:
    """Grants leases and handles their results."""

    def __init__(
        self,
        state: SchedulerState,
        membership: Membership,
        lengths: Lengths,
        maps: Maps,
        seeders: Seeders,
        spot_checks: SpotChecks,
    ) -> None:
        self._state: Final = state
        self._membership: Final = membership
        self._lengths: Final = lengths
        self._maps: Final = maps
        self._seeders: Final = seeders
        self._spot_checks: Final = spot_checks

    def grant_leases(self, swarm: Swarm) -> None:
        """Grant all leases of one blob that can be granted now."""
        over_quota, given = self._state.over_quota, self._state.leases.given
        waiting_for = self._grant_leases(swarm)
        if swarm in over_quota and self._state.leases.given > given:  # there may be room for others
            self._state.swarms_to_try.update(dict.fromkeys(over_quota.after(swarm)))
        if waiting_for:
            over_quota.add(swarm, waiting_for)
        else:
            over_quota.discard(swarm)
        self._note_use(swarm, waiting_for)

    def try_waiting(self, swarm: Swarm) -> None:
        """Grant leases of a blob that has waited for those of others to end.

        The first that is tried may have left no room at the origin. That is looked at before hosts are: each lease that
        ends has up to `over_quota.TRIED` swarms tried for each of its lines.
        """
        if swarm in self._state.over_quota and any(map(self._origin_has_room, swarm.upstreams)):
            self.grant_leases(swarm)

    def _note_use(self, swarm: Swarm, waiting_for: list[Member]) -> None:
        """Record which origins a swarm needs for clients, or else have it tried again in time (rule 9)."""
        waited_for = {member.source.upstream for member in waiting_for if member.source}
        if swarm.is_background:
            self._state.note_use(swarm, ())
            for upstream in waited_for:
                self._state.note_background(upstream)
            return
        begun = self._state.note_use(swarm, {lease.source.upstream for lease in swarm.leases.values()} | waited_for)
        if begun:
            self._end_background(begun)

    def _end_background(self, upstreams: Collection[str]) -> None:
        """End what preheats have under way at these origins, as the first client has come."""
        leases = self._state.leases
        for lease in (*leases.active.values(), *leases.late.values()):
            swarm = self._state.swarms[lease.digest]
            if lease.source.upstream in upstreams and lease.member.background and swarm.is_background:
                swarm.story.now = self._state.now
                self._state.tell(lease.member.host, LeaseRevoked(lease.id, swarm.digest, at_once=True))
                self._state.end_lease(lease, LeaseCause.REVOKE)

    def _grant_leases(self, swarm: Swarm) -> list[Member]:
        """Returns the members of which one is to have the next lease, if none of them may have it now."""
        self._take_over(swarm)
        if not len(swarm.wanting) or self._should_wait(swarm):
            return []
        while len(swarm.leases) < self._max_concurrent(swarm):
            pieces, excluded = self._next(swarm)
            if not pieces:
                return []
            eligible = self._eligible(swarm, excluded, pieces)
            if not eligible:
                self._wait_or_give_up(swarm)
                return []
            swarm.gives_up_at = None
            free = [member for member in eligible if self._has_room(swarm, member)]
            member = min(free, key=partial(_preference, swarm, pieces), default=None)
            if member is None:
                return eligible
            self._give(swarm, member, _of_shares(pieces, member.shares) if member.is_gateway else pieces)
        return []

    def _take_over(self, swarm: Swarm) -> None:
        """Lease what members fetch already, by leases of the scheduler at which the swarm was before (rule 10)."""
        for member, pieces in swarm.under_way.items():
            pieces &= swarm.unleased
            while pieces and self._may_take_over(swarm, member):
                first = pieces & -pieces
                run = pieces & ~(pieces + first) & (first * ((1 << self._state.settings.lease_pieces) - 1))
                self._give(swarm, member, run, MAX_PATIENCE)
                pieces &= ~run
        swarm.under_way.clear()

    def _may_take_over(self, swarm: Swarm, member: Member) -> bool:
        return (
            member.wants
            and self._may_fetch(member)
            and not member.host.is_silent
            and len(swarm.leases) < self._state.settings.leases_per_blob
            and self._host_has_room(member.host, self._state.settings.leases_per_host)
        )

    def need(self, host: Host, message: Need) -> None:
        """Mark pieces that a client waits for: they are leased before other pieces."""
        if not self._membership.has_room(host, message.digest):
            return
        swarm, _ = self._membership.enter(host, message.digest)
        if swarm.map is None and not self._state.charge(swarm, host, message.stop // 8):
            raise ProtocolError("this host says more than the scheduler keeps for one")
        swarm.need(message.first, message.stop, divided=message.divided)
        self._state.swarms_to_lease[swarm] = None

    def learn_length(self, host: Host, message: Length) -> None:
        """Record the blob's length from the origin's response to a lease."""
        found = self._lease(host, message)
        if found is None:
            return
        swarm, lease = found
        self._extend(swarm, lease)
        self._lengths.claim(swarm, host, message.size_bytes, LengthSource.VERIFIED, piece_length(message.size_bytes))
        if lease.id in swarm.leases and swarm.size_bytes is None:  # hosts disagree, and this report has not decided
            self._state.tell(host, LeaseRevoked(lease.id, swarm.digest))
            self._failed(swarm, lease, LeaseCause.REVOKE)

    def landed(self, host: Host, message: LeasePieces) -> None:
        """Record pieces of a lease that have landed. Raises ProtocolError if the pieces are not in the lease."""
        found = self._lease(host, message)
        if found is None:
            return
        swarm, lease = found
        member = lease.member
        pieces = ((1 << len(message.digests) // DIGEST_BYTES) - 1) << message.first
        if swarm.map is None or not pieces or pieces & ~lease.pieces:
            raise ProtocolError("digests of pieces that are not in the lease")
        host.proven, host.is_silent = True, False
        swarm.attempts = 0
        took_s = self._state.now - lease.waits_since
        if took_s <= self._patience_s(swarm, lease.source.upstream):  # else others need as much time
            swarm.silences = 0
        self._state.leases.pace.brought(lease.source.upstream, host.identity.witness, swarm.bytes_of(pieces), took_s)
        swarm.hold(member, member.have | pieces)
        if swarm.pull is not None:
            swarm.pull.fetched(swarm.bytes_of(pieces), self._state.now)
        others = (*swarm.leases.values(), *swarm.late.values()) if swarm.late else ()
        duplicates = [each for each in others if each is not lease]
        lease.left &= ~pieces
        if lease.left:
            self._extend(swarm, lease)
            self._state.swarms_to_lease[swarm] = None
        else:
            self._state.end_lease(lease, LeaseCause.LAST_PIECE)
        self._end_duplicates(swarm, duplicates, pieces)
        self._spot_checks.published(swarm, member, message.first, message.digests)

    def _end_duplicates(self, swarm: Swarm, leases: list[Lease], pieces: int) -> None:
        """End those leases of other hosts that were for nothing but these pieces, which have landed."""
        for lease in leases:
            if lease.left & pieces:
                lease.left &= ~pieces
                if not lease.left:
                    self._revoke(swarm, lease, LeaseCause.REVOKE)

    def _revoke(self, swarm: Swarm, lease: Lease, cause: LeaseCause) -> None:
        self._state.tell(lease.member.host, LeaseRevoked(lease.id, swarm.digest))
        self._state.end_lease(lease, cause)

    def ended(self, host: Host, message: LeaseEnded) -> None:
        """End a lease that its host cannot finish."""
        found = self._lease(host, message)
        if found is None:
            return
        swarm, lease = found
        member = lease.member
        if message.outcome is not LeaseOutcome.RETURNED:
            status = f" (status {message.status})" if message.status else ""
            host.last_error = f"no blob from {lease.source.upstream}{status}"
            host.error_at = self._state.now
        if message.outcome is LeaseOutcome.REFUSED:
            self._state.end_lease(lease, LeaseCause.FAIL)
            swarm.last_status = message.status
            unauthorised = message.status in (401, 403)
            if unauthorised:
                until = self._state.now + REFUSAL_S
                host.refused[lease.source] = OriginRefusal(until, message.status)
            if not unauthorised or not member.have:  # else its credentials have expired, and others get the rest
                self._membership.refuse(swarm, member, message.status)
        elif message.outcome is LeaseOutcome.RETURNED:  # not a fault, but other hosts come first from now on
            member.failures += 1
            self._state.end_lease(lease, LeaseCause.GIVE_BACK)
        else:
            swarm.last_status = message.status
            self._failed(swarm, lease, LeaseCause.FAIL)

    def expired(self, lease: Lease) -> None:
        """Let another host have the pieces of a lease that has brought nothing in time, or revoke the lease."""
        swarm = self._state.swarms[lease.digest]
        swarm.story.now = self._state.now
        if lease.state is LeaseState.LATE:
            self._revoke(swarm, lease, LeaseCause.EXPIRE)
            return
        due = lease.waits_since + self._within_s(swarm, lease)
        if not lease.asked and self._state.now < due:
            self._state.deadlines.set(Timer(Due.LEASE, lease.id), due)
            return
        if not lease.asked:
            lease.asked = True
            self._state.ask(lease)
            self._state.deadlines.set(Timer(Due.LEASE, lease.id), self._state.now + self._state.settings.answer_s)
            return
        self._state.leases.overdue += 1
        lease.member.failures += 1
        lease.member.host.is_silent = True
        another = self._has_another(swarm, lease)
        swarm.silences += lease.stranger not in swarm.silent or not another
        if lease.stranger and len(swarm.silent) < MAX_SILENT:
            swarm.silent.add(lease.stranger)
        if another:
            self._state.overdue(lease)
            self._set_deadline(swarm, lease)
        else:
            self._revoke(swarm, lease, LeaseCause.EXPIRE)
        self._count_failure(swarm, LEASE_ATTEMPTS * SILENCES)

    def answered(self, host: Host, number: int) -> None:
        """All that a host had said when the time of its lease was over is known. The lease may have ended by that."""
        lease = self._state.leases.active.get(number)
        if lease is not None and lease.member.host is host and lease.asked:
            self.expired(lease)

    def _has_another(self, swarm: Swarm, lease: Lease) -> bool:
        """Whether there is a host that can be asked for the pieces of this lease and was not yet."""
        return any(
            member is not lease.member and self._may_fetch(member) and not swarm.is_late_with(member, lease.left)
            for member in swarm.wanting.items
        )

    def orphans_due(self, swarm: Swarm) -> None:
        """Lease pieces again that have waited long enough for a holder's report."""
        if swarm.map is not None and swarm.piece_counts is not None:
            swarm.unleased |= swarm.piece_counts.without_copy(swarm.orphans & swarm.map.known)
            swarm.orphans = 0
            self._state.swarms_to_lease[swarm] = None

    def _failed(self, swarm: Swarm, lease: Lease, cause: LeaseCause) -> None:
        lease.member.failures += 1
        self._state.end_lease(lease, cause)
        self._count_failure(swarm, LEASE_ATTEMPTS)

    def _count_failure(self, swarm: Swarm, most: int) -> None:
        swarm.attempts += 1
        if swarm.attempts >= most:
            self._membership.give_up(swarm, f"{swarm.attempts} hosts in a row got nothing from the origin")

    def _lease(self, host: Host, message: Length | LeasePieces | LeaseEnded) -> tuple[Swarm, Lease] | None:
        """A host's lease and its swarm; None if the lease has ended and the messages crossed."""
        lease = self._state.leases.active.get(message.lease) or self._state.leases.late.get(message.lease)
        if lease is None or lease.member.host is not host:
            return None
        if lease.digest != message.digest:
            raise ProtocolError("a lease of another blob")
        swarm = self._state.swarms[lease.digest]
        swarm.story.now = self._state.now
        return swarm, lease

    def _should_wait(self, swarm: Swarm) -> bool:
        """Whether hosts may still report digests that would otherwise be fetched from the origin again."""
        if self._seeders.request_digests(swarm):
            return True
        state = self._state
        settled_at = swarm.settles_at
        if swarm.begun_before:
            settled_at = max(settled_at, (state.started_at or 0.0) + state.settings.settle_s)
        if state.now >= settled_at:
            return False
        state.deadlines.set(Timer(Due.PATIENCE, swarm.digest), settled_at)
        return True

    def _max_concurrent(self, swarm: Swarm) -> int:
        """The most concurrent leases of a blob (rule 2)."""
        landed = 0 if swarm.map is None else (swarm.map.known | swarm.publishers.held).bit_count()
        return min(self._state.settings.leases_per_blob, 1 + landed)

    def _length(self, swarm: Swarm) -> int:
        """The most pieces in a new lease (rule 2)."""
        most = self._state.settings.lease_pieces
        if swarm.map is None:
            return most
        each = swarm.unleased.bit_count() // (LEASES_EACH * len(swarm.wanting))
        return max(1, min(most, each, 1 + swarm.map.known.bit_count()))

    def _next(self, swarm: Swarm) -> tuple[int, tuple[str, ...]]:
        """The next pieces to lease, as a set of bits, and the witnesses that may not get this lease."""
        most = self._length(swarm)
        if swarm.map is None:
            excluded = _witnesses(swarm.length.reporters()) if swarm.size_disputed else ()
            return (0 if swarm.leases else (1 << most) - 1), excluded
        if not swarm.unleased:
            return 0, ()
        candidates = swarm.unleased & swarm.needed or swarm.unleased
        first = (candidates & -candidates).bit_length() - 1
        contested = swarm.map.state is MapState.CONTESTED
        excluded = _witnesses(swarm.map.reporters(first)) if contested else ()
        stop = first + 1
        while stop < first + most and swarm.unleased >> stop & 1:
            if contested and _witnesses(swarm.map.reporters(stop)) != excluded:
                break
            stop += 1
        return (1 << stop) - (1 << first), excluded

    def _eligible(self, swarm: Swarm, excluded: tuple[str, ...], pieces: int) -> list[Member]:
        """Some members that may have a lease of the first piece in `pieces`, its gateways first (rule 7).

        All wanting members are examined only if none of the drawn members is eligible.
        """
        draw, suspects = self._state.rng.sample, swarm.publishers.suspects
        for members in (
            _publishers(swarm),
            swarm.gateways.owners_of(pieces, draw(swarm.graph.gateways.items, SHARES * DRAWN)),
            draw(swarm.wanting.items, DRAWN),
            swarm.wanting.items,
        ):
            eligible = [
                member
                for member in members
                if (not excluded or member.host.identity.witness not in excluded) and self._may_fetch(member)
            ]
            trusted = [member for member in eligible if member.host.identity not in suspects]
            if trusted or (eligible and members is swarm.wanting.items):
                return trusted or eligible
        return []

    def _wait_or_give_up(self, swarm: Swarm) -> None:
        """Wait `quorum_s` for another host if the members have reported already. Give up if no member may fetch."""
        if swarm.gives_up_at is None:
            doubt = any(map(self._may_fetch, swarm.wanting.items))
            swarm.gives_up_at = self._state.now + (self._state.settings.quorum_s if doubt else 0.0)
        if self._state.now < swarm.gives_up_at:
            self._state.deadlines.set(Timer(Due.PATIENCE, swarm.digest), swarm.gives_up_at)
            return
        swarm.gives_up_at = None
        self._membership.give_up(swarm, "no host is left that could get it from the origin")

    def _may_fetch(self, member: Member) -> bool:
        return member.source is not None and member.refusal(self._state.now) is None

    def _has_room(self, swarm: Swarm, member: Member) -> bool:
        settings = self._state.settings
        upstream = member.source.upstream if member.source else ""
        share = -(-settings.leases_per_blob // (len(swarm.graph.gateways) or len(swarm.wanting)))
        host = member.host
        most = 1 if host.is_silent and self._state.over_quota.others_wait(member) else settings.leases_per_host
        return (
            self._host_has_room(host, most)
            and len(swarm.leases_of(member)) < share
            and self._origin_has_room(upstream)
            and not self._must_wait(swarm, upstream)
        )

    def _host_has_room(self, host: Host, most: int) -> bool:
        leases = self._state.leases
        return leases.of_host(host) < most and (host.proven or leases.of_strangers(host.identity.witness) < most)

    def _origin_has_room(self, upstream: str) -> bool:
        return self._state.leases.of_upstream(upstream) < self._state.leases_per_origin

    def _must_wait(self, swarm: Swarm, upstream: str) -> bool:
        """Whether clients need the origin, and the swarm is of the background (rule 9)."""
        due = self._state.clients_first.due(upstream, self._state.now) if swarm.is_background else None
        return due is not None and due > self._state.now

    def _give(self, swarm: Swarm, member: Member, pieces: int, times: int = 1) -> None:
        assert isinstance(member.source, Source)
        for late in [each for each in swarm.late.values() if each.member is member and each.left & pieces]:
            self._revoke(swarm, late, LeaseCause.REVOKE)
        if swarm.is_background and self._state.clients_first.give_piece(member.source.upstream, self._state.now):
            pieces &= -pieces
        lease = self._state.leases.open(swarm.digest, member, member.source, pieces)
        swarm.leases[lease.id] = lease
        swarm.unleased &= ~pieces
        swarm.needed &= ~pieces
        swarm.note_provider(member)
        first, stop = (pieces & -pieces).bit_length() - 1, pieces.bit_length()
        swarm.story.tell("lease %s to %s: pieces %s to %s", lease.id, member.host.id, first, stop - 1)
        within_s = self._set_deadline(swarm, lease, times)
        message = to_host.Lease(lease.id, swarm.digest, swarm.generation, first, stop, within_s)
        self._state.tell(member.host, message)

    def _extend(self, swarm: Swarm, lease: Lease) -> None:
        """Restart the time limit of a lease that has brought a piece or the length."""
        self._state.leases.step(lease, LeaseCause.PIECE, swarm.story)
        self._set_deadline(swarm, lease)

    def _set_deadline(self, swarm: Swarm, lease: Lease, times: int = 1) -> float:
        """Give the lease its time, and return that, in seconds."""
        if lease.state is LeaseState.LATE:
            within_s = MAX_PATIENCE * self._state.settings.lease_s
        else:
            lease.waits_since, lease.asked = self._state.now, False
            lease.times = max(times, 1 << min(swarm.silences, 16))
            within_s = self._within_s(swarm, lease)
        self._state.deadlines.set(Timer(Due.LEASE, lease.id), self._state.now + within_s)
        return within_s

    def _within_s(self, swarm: Swarm, lease: Lease) -> float:
        """The time of a lease that is not late, by what is known now."""
        longest_s = MAX_PATIENCE * self._state.settings.lease_s
        return min(longest_s, self._patience_s(swarm, lease.source.upstream) * lease.times)

    def _patience_s(self, swarm: Swarm, upstream: str) -> float:
        """The usual time of a lease, by the size of a piece, and by how long such a piece takes from the origin."""
        settings, size_bytes = self._state.settings, swarm.size_bytes
        piece_bytes = 0 if size_bytes is None else min(size_bytes, swarm.piece_bytes)
        piece_s = LONGEST_PIECE_S * piece_bytes / MAX_PIECE_BYTES
        piece_s = max(piece_s, TIMES_USUAL * self._state.leases.pace.usual_s(upstream, piece_bytes))
        return min(settings.lease_s, settings.opening_s + piece_s)


def _preference(swarm: Swarm, pieces: int, member: Member) -> tuple[bool, int, bool, bool, int]:
    """The member with the least of these gets a lease."""
    late = bool(swarm.late) and swarm.is_late_with(member, pieces)
    doubtful = bool(swarm.silent) and not member.host.proven and member.host.identity.witness in swarm.silent
    unchecked = len(swarm.graph.gateways) > 0 and member not in swarm.publishers.admitted
    return late, member.failures, doubtful, unchecked, member.leased


def _witnesses(identities: Iterable[Identity]) -> tuple[str, ...]:
    return tuple([identity.witness for identity in identities])


def _publishers(swarm: Swarm) -> list[Member]:
    """The admitted members, if there are enough of them and no gateways (rule 8)."""
    if len(swarm.graph.gateways):
        return []
    admitted = [member for member in list(swarm.publishers.admitted) if member.wants]
    return admitted if len(admitted) >= PUBLISHERS else []


def _of_shares(pieces: int, shares: int) -> int:
    """The first of the consecutive `pieces`, and the pieces after it up to the first that is not in `shares`."""
    first = (pieces & -pieces).bit_length() - 1
    stop = first + 1
    while pieces >> stop & 1 and shares >> stop % SHARES & 1:
        stop += 1
    return (1 << stop) - (1 << first)
