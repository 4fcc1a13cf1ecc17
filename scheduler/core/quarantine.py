"""Quarantine: hosts that are shut out because they sent wrong bytes or reported wrong values.

Rules:
1. A host that was proved wrong is quarantined at once: two other hosts have disproved its digest, length or dispute
   (`piece_map`), or it sent bytes that do not have the blob's digest (`seeders`). Such hosts are marked in
   `SchedulerState.to_quarantine`.
2. A report of corrupt bytes proves nothing, because the reporter may lie. The link between the two hosts ends, which
   harms neither host. The sender is quarantined when `corrupt_reports` different neighbours have reported it within
   CORRUPT_S.
3. A quarantine is by host id and ends after QUARANTINE_S.
4. Digests that were reported by a host that was proved wrong are contested in every map that is not sealed.
5. Digests that were reported by a host that sent corrupt bytes stay believed. Pieces that only this host held are
   leased again after the host is gone: another host reports their digests, and a difference contests the map. Other
   holders of its pieces have bytes that match its digests, and the SHA-256 of the blob judges those bytes. Contesting
   all its digests would cost a second copy of each blob, on the reports of hosts that may lie.
"""

from __future__ import annotations

from typing import Final

from scheduler.core.events import Close
from scheduler.core.members import Member
from scheduler.core.membership import Membership
from scheduler.core.piece_digests import Maps
from scheduler.core.state import Due, Reason, SchedulerState, Timer
from scheduler.core.swarm import Swarm
from scheduler.protocol.connection import Closing
from scheduler.protocol.from_host import Corrupt
from scheduler.protocol.to_host import Quarantined

CORRUPT_S: Final = 600.0
"""How long a report of corrupt pieces counts. Memory flips bits over months; a liar is reported within minutes."""

QUARANTINE_S: Final = 3600.0


class Quarantine:
    """Counts reports of corrupt pieces, and quarantines hosts."""

    def __init__(self, state: SchedulerState, membership: Membership, maps: Maps) -> None:
        self._state: Final = state
        self._membership: Final = membership
        self._maps: Final = maps
        self._until: Final[dict[str, float]] = {}
        self._reports: Final[dict[str, dict[str, float]]] = {}
        """For each reported host, its reporters and the time of each reporter's last report."""

    def __len__(self) -> int:
        return len(self._until)

    def turns_away(self, connection: int, host_id: str) -> bool:
        """Whether a connecting host is in quarantine. The connection of such a host is closed."""
        until = self._until.get(host_id, 0.0)
        if until <= self._state.now:
            return False
        reason = f"in quarantine for another {until - self._state.now:.0f} s"
        self._state.close(Close(connection, Closing.QUARANTINED, reason))
        return True

    def corrupt(self, swarm: Swarm, member: Member, message: Corrupt) -> None:
        """Handle a member's report that a neighbour sent bytes that do not match the piece map."""
        state = self._state
        sender = state.hosts_by_id.get(message.sender)
        other = swarm.members.get(sender) if sender else None
        if message.generation != swarm.generation or other is None or other not in member.links:
            return
        swarm.story.tell("%s: piece %s from %s is corrupt", member.host.id, message.piece, message.sender)
        swarm.graph.replace(member, other)
        state.links_changed[swarm] = None
        reports = self._reports.setdefault(message.sender, {})
        reports.pop(member.host.id, None)  # so that the oldest report stays first
        reports[member.host.id] = state.now
        self.let_age(message.sender)
        if len(reports) >= state.settings.corrupt_reports:
            reason = f"{len(reports)} hosts were sent corrupt pieces by it"
            state.to_quarantine.setdefault(message.sender, Reason(reason, proved=False))

    def apply(self, host_id: str, reason: Reason) -> None:
        """Put a host into quarantine."""
        state = self._state
        state.credit.pop(host_id, None)
        self._until[host_id] = state.now + QUARANTINE_S
        state.deadlines.set(Timer(Due.RELEASE, host_id), self._until[host_id])
        self._reports.pop(host_id, None)
        host = state.hosts_by_id.get(host_id)
        if host is None:
            return
        swarms = [state.swarms[digest] for digest in host.members]
        state.send((host,), Quarantined(reason.text, QUARANTINE_S))
        self._membership.dismiss(host, Closing.QUARANTINED, reason.text)
        for swarm in swarms:
            if reason.proved and swarm.members:
                self._maps.distrust(swarm, host_id)

    def release(self, host_id: str) -> None:
        """End a quarantine."""
        self._until.pop(host_id, None)

    def let_age(self, host_id: str) -> None:
        """Drop the reports about a host that are older than CORRUPT_S."""
        reports = self._reports.get(host_id, {})
        oldest = self._state.now - CORRUPT_S
        while reports and reports[next(iter(reports))] <= oldest:
            del reports[next(iter(reports))]
        if reports:
            due = reports[next(iter(reports))] + CORRUPT_S
            self._state.deadlines.set(Timer(Due.REPORTS, host_id), due)
        else:
            self._reports.pop(host_id, None)
