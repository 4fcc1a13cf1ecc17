"""The simulated schedulers: the real cores, the list of those that live, and the connections of hosts to them.

Rules:
1. Schedulers have numbers in the order in which they own the first blob: that of a single blob is number 0.
2. A scheduler by itself has no list. Several have the list of `scheduler.shared.live_list`, each with its own part of
   it: beats and looks in virtual time, at a store that is always there.
3. A scheduler takes one message after the other, each in the time that it costs (`p2pd.simulation.costs`). Joins wait
   for all other messages, as in `scheduler.shell.server`.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from p2pd.simulation.costs import SCHEDULER_JOIN_S, SCHEDULER_OTHER_S, SCHEDULER_S, SCHEDULER_SEND_S, SILENT_S
from p2pd.simulation.event_queue import EventQueue
from p2pd.simulation.host import SimulatedHost
from p2pd.simulation.result import SchedulerLoad
from p2pd.simulation.scenario import Scenario
from peer.core.events import SchedulerFailed, SchedulerFound, SchedulerLost
from peer.core.session import SessionState
from scheduler.core import events as scheduling
from scheduler.core.backlog import Backlog, is_join
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol import from_host, to_host
from scheduler.protocol.codec import FROM_HOST, TO_HOST, FromHost, ToHost
from scheduler.protocol.connection import Closing
from scheduler.protocol.rendezvous import ranked
from scheduler.shared.live_list import LiveList, Membership, id_of

RETURN_S: Final = 1.0
"""Within so long all hosts that want a connection to a scheduler which is there again have one."""


class SimulatedScheduler:
    """One scheduler, and what it has had to do. `core` is None while it is gone, with all that it knew."""

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self.core: Scheduler | None = None
        self.membership: Membership | None = None
        """Its part of the list of those that live."""
        self.told = LiveList()
        """The list that its hosts were told."""
        self.due: float | None = None
        self.arrived: Final[deque[tuple[scheduling.Event, float]]] = deque()
        """What it has not read yet, and what each costs."""
        self.backlog = Backlog()
        self.is_busy = False
        self.free_s = 0.0
        """When it has sent all that it has to say."""
        self.events = 0
        self.messages = 0
        self.busy_s = 0.0

    def load(self) -> SchedulerLoad:
        """What it had to do."""
        return SchedulerLoad(self.events, self.messages, self.busy_s)


class SimulatedSchedulers:
    """All schedulers of a scenario. `first_blob` is the digest by which they are numbered.

    `reaches` says whether packets get from a host to a scheduler; `hold` keeps what is said where they do not, and
    `found_out` is told of each malicious host that a scheduler has taken out.
    """

    def __init__(
        self,
        scenario: Scenario,
        settings: SchedulerSettings,
        hosts: Mapping[str, SimulatedHost],
        event_queue: EventQueue,
        chance: random.Random,
        reaches: Callable[[SimulatedHost], bool],
        hold: Callable[[Callable[..., object], tuple[Any, ...]], None],
        found_out: Callable[[SimulatedHost], None],
        *,
        first_blob: bytes,
        checks: bool,
    ) -> None:
        self.closed: Final[dict[str, Closing]] = {}
        """Why a scheduler has ended the connection of a host."""
        self.heard: Final[list[tuple[str, FromHost]]] = []
        """What hosts have said, in order; only with `checks`."""
        self.moved: Final[set[bytes]] = set()
        """The blobs that some host has joined at another scheduler than before."""
        self.alone_s = 0.0
        """The longest time that a host had no scheduler for a blob on its way, after it had one."""
        urls = {id_of(url): url for url in schedulers_of(scenario)}
        self.all: Final = [SimulatedScheduler(urls[each]) for each in ranked(first_blob, urls)]
        self._by_url: Final = {each.url: each for each in self.all}
        self._latency_s: Final = scenario.scheduler_latency_s
        self._settings: Final = settings
        self._hosts: Final = hosts
        self._event_queue: Final = event_queue
        self._chance: Final = chance
        self._reaches: Final = reaches
        self._hold: Final = hold
        self._found_out: Final = found_out
        self._checks: Final = checks
        self._connections: Final[list[SimulatedHost]] = []
        """The host of each connection, by its number."""
        self._alone: Final[dict[tuple[str, bytes], float]] = {}
        """Since when a host has no scheduler for a blob on its way."""
        self._listed = LiveList()
        self._beats: Final[Counter[str]] = Counter()
        gone = scenario.scheduler_gone
        for scheduler in self.all[1 if gone is not None and gone[0] < 0 else 0 :]:
            self._start(scheduler)

    @property
    def messages(self) -> int:
        """From and to hosts."""
        return sum(each.messages for each in self.all)

    def cores(self) -> list[Scheduler]:
        """Of those that live."""
        return [each.core for each in self.all if each.core is not None]

    # -- their life ------------------------------------------------------------------------------------------------

    def stop(self, number: int = 0) -> None:
        """A scheduler is gone from one moment to the next, with all that it knew."""
        scheduler = self.all[number]
        scheduler.core = scheduler.membership = None
        for host in self._hosts.values():
            self._lose(host, scheduler.url)

    def start(self, number: int = 0) -> None:
        """It is there, and knows nothing. All that want a connection to it have one within a moment."""
        scheduler = self.all[number]
        self._start(scheduler)
        for host in self._hosts.values():
            self._event_queue.after(self._chance.uniform(0, RETURN_S), self._connect_if_needed, host, scheduler)

    def _start(self, scheduler: SimulatedScheduler) -> None:
        scheduler.core, scheduler.due = Scheduler(self._settings), None
        scheduler.arrived.clear()
        scheduler.backlog, scheduler.is_busy = Backlog(), False
        if len(self.all) > 1:
            scheduler.membership, scheduler.told = Membership(scheduler.url), LiveList()
            self._beat(scheduler, scheduler.membership)

    def _beat(self, scheduler: SimulatedScheduler, membership: Membership) -> None:
        if scheduler.membership is membership:
            self._beats[membership.beat] += 1
            self._look(scheduler, membership)
            self._event_queue.after(membership.pace.beat_s, self._beat, scheduler, membership)

    def _look(self, scheduler: SimulatedScheduler, membership: Membership) -> None:
        """See which schedulers live, and tell the hosts if others do than before."""
        core, now = scheduler.core, self._event_queue.now
        if scheduler.membership is not membership or core is None:
            return
        wanted = membership.looked(now, now, self._listed, self._beats)
        if wanted is not None:
            self._listed = wanted
            membership.was_set(now, wanted)
            for other in self.all:
                if other.membership is not None and other is not scheduler:
                    self._event_queue.after(self._latency_s, self._look, other, other.membership)
        found = membership.known
        if found != scheduler.told and found.entry(membership.id) is not None:
            scheduler.told = found
            schedulers = tuple(to_host.SchedulerAt(each.id, each.url) for each in found.entries)
            self._handle(scheduler, core, scheduling.LiveListChanged(found.epoch, membership.id, schedulers))

    # -- connections -----------------------------------------------------------------------------------------------

    def keep(self, host: SimulatedHost, urls: Collection[str]) -> None:
        """A host keeps a connection to each of these, and to no other."""
        for url in [url for url in host.connections if url not in urls]:
            self._disconnected(self._by_url[url], host.connections.pop(url))
        for url in urls:
            if url not in host.connections:
                self._event_queue.after(0, self._connect_if_needed, host, self._by_url[url])

    def connect(self, host: SimulatedHost) -> None:
        """A host looks for each scheduler that it needs."""
        home = host.machine.schedulers.home
        if home.state is SessionState.SEARCHING and home.since is None:
            host.feed(SchedulerLost(home.url))  # the search begins: there is none yet
        for url in host.machine.schedulers.needed:
            self._connect_if_needed(host, self._by_url[url])

    def vanish(self, host: SimulatedHost) -> None:
        """A host is gone, and the schedulers notice that later."""
        for url, connection in host.connections.items():
            self._event_queue.after(SILENT_S, self._disconnected, self._by_url[url], connection)

    def cut(self, host: SimulatedHost) -> None:
        """Packets of a host get to no scheduler from now on: both sides give up if that lasts."""
        for url, connection in host.connections.items():
            self._event_queue.after(SILENT_S, self._lose_touch, host, url, connection)

    def completed(self, host: str, digest: bytes) -> None:
        """A host has a blob."""
        if self._alone:
            self._has_one(host, digest)

    def _connect_if_needed(self, host: SimulatedHost, scheduler: SimulatedScheduler) -> None:
        url = scheduler.url
        is_needed = host.alive and url not in host.connections and url in host.machine.schedulers.needed
        if not is_needed or not self._reaches(host):
            return
        if scheduler.core is None:
            self._event_queue.after(2 * self._latency_s, host.feed, SchedulerFailed(url))
            return
        number = host.connections[url] = len(self._connections)
        self._connections.append(host)
        node = host.node
        hello = from_host.Hello(
            host.name, 1, 1, f"{host.name}:1", node.site, rack=node.rack, features=from_host.FEATURES
        )
        self._arrive(scheduler, scheduling.Connected(number, hello), SCHEDULER_S[from_host.Hello])
        if scheduler.membership is None:  # otherwise its list comes first
            host.feed(SchedulerFound(scheduler=url))

    def _lose(self, host: SimulatedHost, url: str) -> None:
        """A host has no connection to a scheduler any more, and has not ended it."""
        if host.connections.pop(url, None) is None:
            return
        for digest in host.machine.downloads:
            if host.machine.schedulers.of(digest).url == url:
                self._alone.setdefault((host.name, digest), self._event_queue.now)
        host.feed(SchedulerLost(url))

    def _lose_touch(self, host: SimulatedHost, url: str, connection: int) -> None:
        if host.connections.get(url) == connection and not self._reaches(host):
            self._disconnected(self._by_url[url], connection)
            self._lose(host, url)

    def _disconnected(self, scheduler: SimulatedScheduler, connection: int) -> None:
        if scheduler.core is not None:
            self._handle(scheduler, scheduler.core, scheduling.Disconnected(connection))

    def _has_one(self, host: str, digest: bytes) -> None:
        since = self._alone.pop((host, digest), None)
        if since is not None:
            self.alone_s = max(self.alone_s, self._event_queue.now - since)

    # -- what is said ----------------------------------------------------------------------------------------------

    def tell(self, host: SimulatedHost, message: FromHost, url: str) -> None:
        """A host sends a message to the scheduler at a URL; nothing if it has no connection there."""
        connection = host.connections.get(url)
        if connection is None:
            return
        if not self._reaches(host):
            self._hold(self.tell, (host, message, url))
            return
        if self._checks:
            assert FROM_HOST.decode(FROM_HOST.encode(message)) == message
            self.heard.append((host.name, message))
        if isinstance(message, from_host.Join) and message.moved:
            self.moved.add(message.digest)
        scheduler = self._by_url[url]
        scheduler.messages += 1
        cost_s = SCHEDULER_S.get(type(message), SCHEDULER_OTHER_S)
        self._arrive(scheduler, scheduling.Received(connection, message), cost_s)

    def _arrive(self, scheduler: SimulatedScheduler, event: scheduling.Event, cost_s: float) -> None:
        self._event_queue.after(self._latency_s, self._queue, scheduler, scheduler.core, event, cost_s)

    def _queue(
        self, scheduler: SimulatedScheduler, core: Scheduler | None, event: scheduling.Event, cost_s: float
    ) -> None:
        if core is None or scheduler.core is not core:
            return
        scheduler.arrived.append((event, cost_s))
        if not scheduler.is_busy:
            self._work(scheduler, core)

    def _work(self, scheduler: SimulatedScheduler, core: Scheduler) -> None:
        """Take the next message: one of the backlog when all others are handled."""
        scheduler.is_busy = bool(scheduler.arrived or scheduler.backlog)
        if not scheduler.is_busy:
            return
        is_new = bool(scheduler.arrived)
        event: scheduling.Event
        if is_new:
            event, cost_s = scheduler.arrived.popleft()
        else:
            event = scheduler.backlog.take()
            cost_s = SCHEDULER_JOIN_S if is_join(event) else 0.0
        scheduler.busy_s += cost_s
        done_s = max(scheduler.free_s, self._event_queue.now) + cost_s
        self._event_queue.at(done_s, self._worked, scheduler, core, event, is_new)

    def _worked(self, scheduler: SimulatedScheduler, core: Scheduler, event: scheduling.Event, is_new: bool) -> None:
        if scheduler.core is not core:
            return
        if is_new and scheduler.backlog.has_to_wait(event):
            scheduler.backlog.put(event)
        else:
            self._handle(scheduler, core, event)
        self._work(scheduler, core)

    def _handle(self, scheduler: SimulatedScheduler, core: Scheduler | None, event: scheduling.Event) -> None:
        if core is None or scheduler.core is not core:
            return
        now = self._event_queue.now
        scheduler.events += 1
        instructions = core.handle(event, now)
        if self._checks:
            core.validate()
        for instruction in instructions:
            if isinstance(instruction, scheduling.Close):
                self._closed(scheduler, instruction)
                continue
            if isinstance(instruction, scheduling.Ask):
                self._event_queue.after(self._latency_s, self._asked, scheduler, instruction)
            if not isinstance(instruction, scheduling.Send):
                continue
            if self._checks:
                assert TO_HOST.decode(TO_HOST.encode(instruction.message)) == instruction.message
            cost_s = SCHEDULER_SEND_S * len(instruction.connections)
            scheduler.messages += len(instruction.connections)
            scheduler.free_s = max(scheduler.free_s, now) + cost_s
            scheduler.busy_s += cost_s
            self._event_queue.after(self._latency_s, self._sent, scheduler, instruction)
        due = core.next_deadline()
        if due is not None and (scheduler.due is None or due < scheduler.due):
            scheduler.due = due
            self._event_queue.at(due, self._tick, scheduler, core, due)

    def _tick(self, scheduler: SimulatedScheduler, core: Scheduler, due: float) -> None:
        if due == scheduler.due and scheduler.core is core:
            scheduler.due = None
            self._handle(scheduler, core, scheduling.Tick())

    def _closed(self, scheduler: SimulatedScheduler, close: scheduling.Close) -> None:
        host = self._connections[close.connection]
        self.closed[host.name] = close.closing
        if host.connections.get(scheduler.url) == close.connection:
            self._lose(host, scheduler.url)
        if host.misbehaviour is not None:  # it has been found out, and has no client that wants the image
            self._found_out(host)

    def _asked(self, scheduler: SimulatedScheduler, ask: scheduling.Ask) -> None:
        host = self._connections[ask.connection]
        if host.alive and self._reaches(host) and host.connections.get(scheduler.url) == ask.connection:
            self._arrive(scheduler, scheduling.Answered(ask.connection, ask.lease), SCHEDULER_OTHER_S)

    def _sent(self, scheduler: SimulatedScheduler, send: scheduling.Send) -> None:
        for connection in send.connections:
            self._is_told(self._connections[connection], connection, send.message, scheduler.url)

    def _is_told(self, host: SimulatedHost, connection: int, message: ToHost, url: str) -> None:
        if host.connections.get(url) != connection:
            return
        if isinstance(message, to_host.Failed) and host.misbehaviour is not None:
            self._found_out(host)  # as above: it was taken out, and would but take the origin's line
        elif not self._reaches(host):
            self._hold(self._is_told, (host, connection, message, url))
        elif isinstance(message, to_host.Schedulers) and not host.is_let_in(url):
            host.feed(SchedulerFound(scheduler=url, listed=message))
        else:
            if self._alone and isinstance(message, to_host.Joined):
                self._has_one(host.name, message.digest)
            host.is_told(message, url)


def schedulers_of(scenario: Scenario) -> tuple[str, ...]:
    """The URLs of the schedulers, which every host is given."""
    return tuple(f"http://s{number}:65003" for number in range(scenario.schedulers))


def settings_of(scenario: Scenario, settings: SchedulerSettings | None) -> SchedulerSettings:
    """The settings of each scheduler, with the scenario's chance."""
    return replace(settings or SchedulerSettings(), seed=scenario.seed)
