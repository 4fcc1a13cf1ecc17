"""A host and several schedulers that die, come back, and are added to their list and taken out of it, in any order.

Whatever happens: what is at a scheduler that is connected has been told there; a blob is told to another one only if it
moves; and once nothing changes any more, each blob is at the one scheduler that rendezvous hashing gives it among those
that live.
"""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peer.core import events
from peer.core.events import Event
from peer.core.host import HostMachine, HostSettings
from peer.core.session import SessionState
from scheduler.protocol import from_host
from scheduler.protocol.codec import FromHost
from scheduler.protocol.rendezvous import owner_of
from scheduler.protocol.to_host import SchedulerAt, Schedulers
from tests.peer.host_playbook import SIZE, source

URLS = ("http://a:65003", "http://b:65003", "http://c:65003", "http://d:65003")
IDS = dict(zip(URLS, ("0a" * 8, "0b" * 8, "0c" * 8, "0d" * 8), strict=True))
BLOBS = [bytes([number]) * 32 for number in range(8)]
TIMEOUT_S = 3.0
SETTLED_S = 30.0
"""Longer than all that a host waits for in turn."""

urls = st.sampled_from(URLS)
blobs = st.sampled_from(BLOBS)


class SeveralSchedulers(RuleBasedStateMachine):
    """Half of the blobs are held, the others are on their way."""

    @initialize(shared=st.booleans(), alive=st.sets(urls, min_size=1), home=urls)
    def it_begins(self, shared: bool, alive: set[str], home: str) -> None:
        self.alive, self.connections, self.now = set(alive), set[str](), 100.0
        self.told: dict[str, set[bytes]] = {url: set() for url in URLS}
        """The blobs that each scheduler has been told of on the connection that there is."""
        self.moved: set[bytes] = set()
        """Blobs that were told of since it was last cleared."""
        self.listed: set[str] | None = None
        """The list that the schedulers share; None if each is by itself."""
        self.epoch = 0
        self.cut_off: dict[str, tuple[int, set[str]]] = {}
        """The schedulers that cannot look at the list, and the epoch and the list that each knows."""
        self.were_at: dict[bytes, str] = {}
        """Where each blob was when it was last looked."""
        if shared:
            self.listed = {*alive}
        given = (home,) if shared else URLS
        self.machine = HostMachine(HostSettings(schedulers=given, host="host", scheduler_timeout_s=TIMEOUT_S))
        self.given = set(given)
        for digest in BLOBS[::2]:
            self.feed(events.BlobStored(digest, SIZE))
        for digest in BLOBS[1::2]:
            self.comes(digest)
        self.feed(events.SchedulerLost(self.machine.schedulers.home.url))
        self.connect(self.machine.schedulers.needed)

    # -- the runner ------------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        for instruction in self.machine.handle(event, self.now):
            match instruction:
                case events.Tell(message, scheduler):
                    self.hears(scheduler or self.owner(message), message)
                case events.KeepSchedulers(wanted):
                    for url in self.connections - set(wanted):
                        self.disconnect(url)
                case _:
                    pass
        self.machine.validate()

    def owner(self, message: FromHost) -> str:
        digest = message.holdings[0].digest if isinstance(message, from_host.Announce) else getattr(message, "digest")  # noqa: B009 # of a union
        return self.machine.schedulers.of(digest).url

    def hears(self, url: str, message: FromHost) -> None:
        if url not in self.connections:
            return
        match message:
            case from_host.Announce(holdings):
                told = {holding.digest for holding in holdings}
            case from_host.Join(digest):
                told = {digest}
            case from_host.Leave(digest):
                self.told[url].discard(digest)
                return
            case _:
                return
        self.told[url] |= told
        self.moved |= told

    def disconnect(self, url: str) -> None:
        self.connections.discard(url)
        self.told[url].clear()

    def connect(self, wanted: Iterable[str]) -> None:
        """Each attempt ends at once, in one way or the other, and may make others necessary."""
        for url in wanted:
            if url in self.connections or url not in self.machine.schedulers.needed:
                continue
            if url not in self.alive:
                self.feed(events.SchedulerFailed(url))
                continue
            self.connections.add(url)
            self.feed(events.SchedulerFound(scheduler=url, listed=self.list_of(url)))

    def list_of(self, url: str) -> Schedulers | None:
        if self.listed is None:
            return None
        epoch, listed, outdated = self.epoch, self.listed, False
        if url in self.cut_off:
            (epoch, listed), outdated = self.cut_off[url], True
        return Schedulers(epoch, IDS[url], tuple(SchedulerAt(IDS[each], each) for each in sorted(listed)), outdated)

    def tells(self, url: str) -> None:
        """A scheduler sends its list, if it has one."""
        message = self.list_of(url)
        if url in self.connections and message is not None:
            self.feed(events.FromScheduler(message, url))

    def comes(self, digest: bytes) -> None:
        self.feed(source(blob=digest))
        self.feed(events.ReaderMoved(digest, 1, 0, None))
        self.feed(events.PiecesHeld(digest))
        self.feed(events.Prepared(digest))

    # -- what happens ----------------------------------------------------------------------------------------------

    @rule(url=urls, stops=st.booleans())
    def one_dies(self, url: str, stops: bool) -> None:
        self.alive.discard(url)
        if url in self.connections:
            self.disconnect(url)
            self.feed(events.SchedulerLost(url, stops))

    @rule(url=urls)
    def one_comes(self, url: str) -> None:
        self.alive.add(url)

    @precondition(lambda self: self.listed is not None)
    @rule(listed=st.sets(urls, min_size=1), by=urls)
    def the_list_changes(self, listed: set[str], by: str) -> None:
        self.listed, self.epoch = listed, self.epoch + 1
        for url in [by, *URLS]:
            self.tells(url)

    @precondition(lambda self: self.listed is not None)
    @rule(url=urls)
    def one_is_cut_off_from_the_list_or_back(self, url: str) -> None:
        """All but one at most, at once or one after the other."""
        if url in self.cut_off:
            del self.cut_off[url]
        elif len(self.cut_off) < len(URLS) - 1:
            self.cut_off[url] = self.epoch, self.listed or set()
        self.tells(url)

    @rule(digest=blobs)
    def a_blob_comes_or_goes(self, digest: bytes) -> None:
        if digest in self.machine.seeds:
            self.feed(events.BlobRemoved(digest))
        elif digest in self.machine.downloads:
            self.feed(events.StoreFailed(digest))
        elif digest[0] % 2:
            self.comes(digest)
        else:
            self.feed(events.BlobStored(digest, SIZE))

    @rule()
    def attempts_are_made(self) -> None:
        self.connect(list(self.machine.schedulers.needed))

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.machine.next_deadline()) <= until:
            self.now = max(self.now, due)
            self.feed(events.Tick())
        self.now = until

    @rule()
    def nothing_changes_for_a_while(self) -> None:
        """Each blob is at one scheduler, and that is the one of those that live."""
        self.settles()
        living = self.living()
        if self.cut_off and living - self.cut_off.keys():
            listed = self.machine.schedulers.listed
            assert listed is not None
            assert listed.epoch == self.epoch, "the host has the list of one that is cut off"
        if not living:  # another that is connected is better than none
            state = SessionState.CONNECTED if self.connections else SessionState.MISSING
            assert self.machine.schedulers.state is state
            assert all(
                (self.machine.schedulers.of(each).url in self.connections) == bool(self.connections)
                for each in self.here()
            )
            return
        for digest in self.here():
            url = self.expected(digest, living)
            assert self.machine.schedulers.of(digest).url == url
            assert [each for each in URLS if digest in self.told[each]] == [url]

    @rule(url=urls)
    def one_dies_or_comes_and_only_its_share_moves(self, url: str) -> None:
        self.settles()
        before = self.living()
        if url in self.alive and len(before) > 1 and before <= self.candidates():
            self.one_dies(url, stops=False)
        elif url not in self.alive and before and before <= self.candidates():
            self.one_comes(url)
        else:
            return
        self.moved.clear()
        self.settles()
        after = self.living()
        for digest in self.moved:
            assert self.expected(digest, before) != self.expected(digest, after), "it was told anew, and did not move"

    # -- what holds ------------------------------------------------------------------------------------------------

    @invariant()
    def what_is_at_a_connected_scheduler_is_told_there(self) -> None:
        for digest in self.here():
            session = self.machine.schedulers.of(digest)
            if session.url in self.connections:
                assert digest in self.told[session.url]

    @invariant()
    def a_blob_leaves_a_connected_scheduler_only_for_a_connected_one(self) -> None:
        now = {digest: self.machine.schedulers.of(digest).url for digest in self.here()}
        for digest, url in self.were_at.items():
            if url in self.connections:
                assert now.get(digest, url) in self.connections
        self.were_at = now

    @invariant()
    def connections_are_those_that_are_needed(self) -> None:
        assert self.connections <= set(self.machine.schedulers.needed)

    def settles(self) -> None:
        for _ in range(12):
            self.connect(list(self.machine.schedulers.needed))
            self.time_passes(SETTLED_S / 12)

    def here(self) -> list[bytes]:
        return [*self.machine.seeds, *self.machine.downloads]

    def candidates(self) -> set[str]:
        listed = self.machine.schedulers.listed
        return self.given if listed is None else {each.url for each in listed.schedulers}

    def living(self) -> set[str]:
        """Those among which blobs are divided."""
        return self.candidates() & self.alive

    def expected(self, digest: bytes, living: set[str]) -> str:
        if self.machine.schedulers.listed is None:
            return owner_of(digest, living)
        by_id = {IDS[url]: url for url in living}
        return by_id[owner_of(digest, by_id)]


SeveralSchedulers.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestSeveralSchedulers = SeveralSchedulers.TestCase
