"""A scheduler's part of a preheat of several schedulers: the hosts that it tells, and what they report.

Rules:
1. It takes hosts that are connected to it and that nobody tells, and gives back those that are connected no longer.
2. A host that is connected to several schedulers is told by the one that takes it. The scheduler that owns the host by
   rendezvous takes it at its first look, the others only at their second.
3. A *newcomer* has connected after the hosts of the preheat were chosen. Newcomers are taken in the same way, while the
   preheat runs and while it stands (`scheduler.core.preheats`, rules 2 and 8).
4. While Redis is gone, hosts go on with what they were told. Their results are written once Redis is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import replace
from itertools import islice
from typing import Final

from scheduler.core.events import Event, PreheatAdded, PreheatCancelled, PreheatHosts
from scheduler.core.preheat_hosts import parse_selection
from scheduler.core.preheat_job import Job, JobState, Target, TargetState
from scheduler.core.preheat_record import PreheatStoreError
from scheduler.core.scheduler import Scheduler
from scheduler.protocol.rendezvous import owner_of
from scheduler.shared.live_list import Turn
from scheduler.shared.preheat_calls import PreheatCalls
from scheduler.shared.redis_preheats import Shares

AT_ONCE: Final = 1000
"""Hosts in one call."""

NEWCOMERS_A_LOOK: Final = 256
"""Of each preheat. After a start all hosts are newcomers, and Redis knows most of them already."""


class Part:
    """On the event loop. `async` methods raise PreheatStoreError."""

    def __init__(
        self, core: Scheduler, tell: Callable[[Event], None], calls: PreheatCalls, turn: Turn, shares: Shares
    ) -> None:
        self._core: Final = core
        self._tell: Final = tell
        self._calls: Final = calls
        self._store: Final = calls.store
        self._turn: Final = turn
        self._name: Final = shares.record.id
        self.shares: Shares = shares
        """As Redis had them when they were read, with what this scheduler has changed since."""
        self.read_at: tuple[int, int] | None = None
        """The turn of the preheat and the epoch of the live list for which `shares` were read and followed."""
        self._tells = False
        """Whether hosts are told: the preheat runs, or it stands and these are its hours."""
        self._seen: set[str] = set()
        """The hosts that were connected here at the look before, and that nobody told."""
        self._written: Final[dict[str, tuple[object, ...]]] = {}
        """What Redis has of the hosts that are told here."""
        self._finals: dict[str, Target] = {}
        """By host: results that are not in Redis yet."""
        self._newcomers: Final[set[str]] = set()
        """Hosts that have connected here, and that Redis may not know as hosts of the preheat."""
        self._left: Final[set[str]] = set()
        """Newcomers that were left to their own schedulers at a look before."""

    def connected(self, hosts: Iterable[str]) -> None:
        """Hosts have connected here."""
        self._newcomers.update(hosts)

    def changed(self, targets: Iterable[Target]) -> None:
        """The core says what came of hosts."""
        for target in targets:
            if not target.is_open and target.state is not TargetState.CANCELLED:  # that is decided elsewhere
                self._finals[target.host] = copy(target)

    async def follow(self, shares: Shares, turn: int, epoch: int) -> None:
        """Somebody has changed the preheat: `shares` were read at this turn, and at this epoch of the live list."""
        self.shares = shares
        await self._reconcile()
        self.read_at = turn, epoch

    async def look(self) -> None:
        """Write what hosts have reported, give back hosts, and take others."""
        if self._tells != self._may_tell():
            await self._reconcile()
        beat = self._turn.name
        if beat and self._tells:
            await self._write_progress(beat)
            await self._give_back(beat)
            await self._take(beat)
            await self._take_newcomers(beat)

    async def write_finals(self, *, is_open: bool) -> None:
        """Write results, unless Redis takes none of this preheat, or none of this scheduler."""
        finals, self._finals = self._finals, {}
        beat = self._turn.name
        if finals and is_open and beat:
            live = self._core.preheat(self._name)
            held = () if live is None else live.held_images
            try:
                await self._calls.call(self._store.report, self._name, beat, finals.values(), held)
            except PreheatStoreError:
                self._finals = {**finals, **self._finals}
                raise
        told = {host: by for host, by in self.shares.told.items() if host not in finals}
        self.shares = replace(self.shares, told=told)

    async def leave(self) -> None:
        """The preheat is over; or Redis has forgotten it, and hosts go on until its end."""
        if self._core.preheat(self._name) is None:
            return
        if await self._calls.call(self._store.job, self._name) is not None:
            self._tell(PreheatCancelled(self._name))

    def _may_tell(self) -> bool:
        record = self.shares.record
        if record.is_open:
            return record.state is JobState.RUNNING
        return record.stands_until is not None and self._calls.hours(record)[0] <= self._calls.now()

    async def _reconcile(self) -> None:
        """Have the core tell the hosts that are this scheduler's by `shares`, and no others."""
        name, shares, may_tell = self._name, self.shares, self._may_tell()
        live = self._core.preheat(name)
        if live is not None and (not may_tell or bool(live.pinned_until) == shares.record.is_open):
            self._tell(PreheatCancelled(name))  # the hosts that it has told are given back once hosts are told again
            live = None
        if may_tell:
            if live is None:
                credential = await self._calls.call(self._store.credential, name)
                self._tell(PreheatAdded(self._job(credential)))
                live = self._core.preheat(name)
            beat = self._turn.name
            still_open = () if live is None else [each.host for each in live.targets.values() if each.is_open]
            gone = tuple(host for host in still_open if shares.told.get(host) != beat)
            if gone or shares.held_images:
                self._tell(PreheatHosts(name, (), gone, shares.held_images))
        self._tells = may_tell

    def _job(self, credential: str) -> Job:
        record, offset = self.shares.record, asyncio.get_running_loop().time() - self._calls.now()
        return Job(
            record.order,
            parse_selection(record.to),
            record.begins + offset,
            (record.stands_until or record.ends) + offset,
            JobState.RUNNING,
            credential=credential,
            held_images=self.shares.held_images,
            pinned_until=record.stands_until + offset if record.stands_until else 0.0,
            is_part=True,
        )

    async def _write_progress(self, beat: str) -> None:
        live = self._core.preheat(self._name)
        still_open = () if live is None else [each for each in live.targets.values() if each.is_open]
        moved = [each for each in still_open if self._written.get(each.host) != _facts(each)][:AT_ONCE]
        if moved:
            self._written.update({each.host: _facts(each) for each in moved})
            await self._calls.call(self._store.report, self._name, beat, [copy(each) for each in moved])

    async def _give_back(self, beat: str) -> None:
        """Hosts that are connected here no longer, and those that this process has taken and knows nothing of."""
        live = self._core.preheat(self._name)
        known = {} if live is None else live.targets
        left = {
            host: beat
            for host, told_by in self.shares.told.items()
            if told_by == beat
            and host not in self._finals
            and (host not in known or (known[host].is_open and not self._core.is_connected(host)))
        }
        if left:
            self._tell(PreheatHosts(self._name, (), tuple(left)))
            await self._calls.call(self._store.give_back, self._name, left)

    async def _take(self, beat: str) -> None:
        """Hosts that are connected here and that nobody tells (rule 2)."""
        here = {host for host in self.shares.untold if self._core.is_connected(host)}
        wanted = [host for host in here if host in self._seen or self._owns(host, beat)]
        self._seen = here
        for at in range(0, len(wanted), AT_ONCE):
            some = wanted[at : at + AT_ONCE]
            self._are_told_here(beat, await self._calls.call(self._store.take, self._name, beat, some))
            self.shares = replace(self.shares, untold=self.shares.untold - frozenset(some))

    async def _take_newcomers(self, beat: str) -> None:
        """Newcomers, which become hosts of the preheat unless they have been: some in each look (rules 2 and 3)."""
        record = self.shares.record
        if not self._newcomers or record.newcomers_until is None:
            self._newcomers.clear()
            return
        selection = parse_selection(record.to)
        wanted: list[Target] = []
        looked_at = list(islice(self._newcomers, NEWCOMERS_A_LOOK))
        for host in looked_at:
            candidate = self._core.candidate(host)
            if candidate is not None and selection.admits(candidate):
                if host in self._left or self._owns(host, beat):
                    wanted.append(Target(host, candidate.site))
                else:
                    self._left.add(host)
                    continue
            self._left.discard(host)
        if wanted:
            self._are_told_here(beat, await self._calls.call(self._store.add_hosts, self._name, beat, wanted))
        self._newcomers.difference_update(set(looked_at) - self._left)

    def _owns(self, host: str, beat: str) -> bool:
        """Whether this scheduler is the host's own by rendezvous."""
        return owner_of(host.encode(), [each.id for each in self._turn.known.entries]) == beat.partition(":")[0]

    def _are_told_here(self, beat: str, taken: Iterable[Target]) -> None:
        targets = tuple(taken)
        for target in targets:
            self._written[target.host] = _facts(target)
        self._tell(PreheatHosts(self._name, targets))
        told = {**self.shares.told, **{target.host: beat for target in targets}}
        self.shares = replace(self.shares, told=told)


def _facts(target: Target) -> tuple[object, ...]:
    """What of a host that is at it changes."""
    return target.state, target.fetched_bytes, target.size_bytes, target.reason
