"""The pulls that hosts tell of, for the history (`scheduler.shell.history_store`), if the operator wants one.

A host may say anything. It says it of its own site, and at most PULLS_PER_HOUR times in an hour: what it says beyond
that is dropped. Hosts without certificates count together if they come from one address.
Nothing between hosts is decided by it.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from scheduler.core.events import PullSeen
from scheduler.core.members import Host
from scheduler.core.state import SchedulerState
from scheduler.protocol.from_host import Pulled

PULLS_PER_HOUR: Final = 600
HOUR_S: Final = 3600.0
MAX_WITNESSES: Final = 20_000


class ToldPulls:
    """What was told in this hour."""

    def __init__(self, state: SchedulerState) -> None:
        self._state: Final = state
        self._hour = 0.0
        self._told: Final[Counter[str]] = Counter()

    def told(self, host: Host, pulled: Pulled) -> None:
        """Hand on what a host says of a pull."""
        if not self._state.settings.hears_pulls:
            return
        if self._state.now - self._hour >= HOUR_S:
            self._hour = self._state.now
            self._told.clear()
        witness = host.identity.witness
        if self._told[witness] >= PULLS_PER_HOUR or len(self._told) > MAX_WITNESSES:
            return
        self._told[witness] += 1
        self._state.outbox.append(PullSeen(host.id, host.topology.site, pulled))
