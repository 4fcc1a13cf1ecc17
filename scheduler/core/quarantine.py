"""Quarantine: hosts that are shut out because the SHA-256 of a blob has disproved what they said.

Rules:
1. A host that was proved wrong is quarantined at once: most of a swarm has found the SHA-256 right against what it said
   of a piece (`piece_digests.Maps.judge`), or it sent or claimed to hold bytes that do not have the blob's digest
   (`seeders`). Such hosts are marked in `SchedulerState.to_quarantine`.
2. Nobody is quarantined by the word of others, however many ids they have. A report of corrupt bytes ends the link of
   the two hosts (`scheduler.core.join`). A wrong length ends the membership in the swarm (`scheduler.core.lengths`).
3. A quarantine is of the host as it is known: its certificate or, without one, its id at the address from which the lie
   came. It ends after QUARANTINE_S. So a lie under the id of another host does not shut out the other host.
   Of several schedulers, each takes over the quarantines of the others: they were proved there.
4. Digests that were reported by a host that was proved wrong are contested in every map that is not sealed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Final

from scheduler.core.events import Close, QuarantineHeard
from scheduler.core.members import Identity
from scheduler.core.membership import Membership
from scheduler.core.piece_digests import Maps
from scheduler.core.state import Due, SchedulerState, Timer
from scheduler.protocol.connection import Closing
from scheduler.protocol.to_host import Quarantined

QUARANTINE_S: Final = 3600.0

MAX_QUARANTINED: Final = 10_000
"""Quarantines that are remembered. The oldest is dropped first: ids without certificates cost nothing."""

MAX_TOLD: Final = 64
"""Quarantines that an operator is told."""


@dataclass(frozen=True, slots=True)
class QuarantineFacts:
    """A host in quarantine. `came_from` is where it came from; "" if it has a certificate.

    `until` is in seconds, by the scheduler's clock.
    """

    id: str
    came_from: str
    reason: str
    until: float


class Quarantine:
    """Quarantines hosts, and turns them away."""

    def __init__(self, state: SchedulerState, membership: Membership, maps: Maps) -> None:
        self._state: Final = state
        self._membership: Final = membership
        self._maps: Final = maps
        self._until: Final[dict[Identity, float]] = {}
        self._reasons: Final[dict[Identity, str]] = {}
        """Why, for the operator."""
        self._heard_for: Final[dict[Identity, float]] = {}
        """For how long those are quarantined that are marked because another scheduler has done so."""

    def __len__(self) -> int:
        return len(self._until)

    def turns_away(self, connection: int, identity: Identity) -> bool:
        """Whether a connecting host is in quarantine. The connection of such a host is closed."""
        until = self._until.get(identity, 0.0)
        if until <= self._state.now:
            return False
        reason = f"in quarantine for another {until - self._state.now:.0f} s"
        self._state.close(Close(connection, Closing.QUARANTINED, reason))
        return True

    def heard(self, event: QuarantineHeard) -> None:
        """Mark a host that another scheduler has quarantined, unless it is in quarantine here."""
        identity = Identity(event.host, event.came_from)
        if identity not in self._until and event.for_s > 0 and identity not in self._state.to_quarantine:
            self._heard_for[identity] = min(event.for_s, QUARANTINE_S)
            self._state.to_quarantine[identity] = event.reason

    def apply(self, identity: Identity, reason: str) -> None:
        """Put a host into quarantine."""
        state = self._state
        state.credit.pop(identity, None)
        self._until.pop(identity, None)
        if len(self._until) >= MAX_QUARANTINED:
            oldest = next(iter(self._until))
            state.deadlines.cancel(Timer(Due.RELEASE, oldest))
            self.release(oldest)
        for_s = self._heard_for.pop(identity, QUARANTINE_S)
        self._reasons[identity] = reason
        self._until[identity] = state.now + for_s
        state.deadlines.set(Timer(Due.RELEASE, identity), self._until[identity])
        host = state.known_as(identity)
        if host is None:
            return
        swarms = [state.swarms[digest] for digest in host.members]
        state.tell(host, Quarantined(reason, for_s))
        self._membership.dismiss(host, Closing.QUARANTINED, reason)
        for swarm in swarms:
            if swarm.members:
                self._maps.distrust(swarm, identity)

    def release(self, identity: Identity) -> None:
        """End a quarantine."""
        self._until.pop(identity, None)
        self._reasons.pop(identity, None)

    def facts(self, now: float) -> list[QuarantineFacts]:
        """The latest quarantines, the newest first."""
        latest = list(islice(reversed(self._until.items()), MAX_TOLD))
        return [
            QuarantineFacts(each.id, each.came_from, self._reasons.get(each, ""), until)
            for each, until in latest
            if until > now
        ]
