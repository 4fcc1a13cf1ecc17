"""Whatever the scheduler, the neighbours, the origin and the clock do, in any order: the member's invariants hold."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peer.core import origin_events as origin_side
from peer.core import swarm_events as swarming
from peer.core.download import Download
from peer.core.fetches import MOST_FETCHES
from peer.core.member import Member
from peer.core.origin_events import Ended, Outcome, Phase
from peer.core.standing import State
from peer.core.swarm_events import FetchOutcome
from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.codec import FROM_HOST, LINK, OnLink, ToHost
from scheduler.protocol.fields import DIGEST_BYTES
from tests.peer.member_playbook import PIECE, D, digest

COUNT = 8
SIZE = COUNT * PIECE
HOSTS = ("b", "c", "e")

hosts = st.sampled_from(HOSTS)
indices = st.integers(0, COUNT - 1)
sets = st.integers(0, (1 << COUNT) - 1)
often = st.integers(0, 5)
"""0 for what is rare."""
endings = st.sampled_from([FetchOutcome.BUSY, FetchOutcome.GONE, FetchOutcome.CORRUPT, FetchOutcome.STOPPED])


class AnyOrder(RuleBasedStateMachine):
    """Plays the shell: does what it is told, and has the world do what it likes. Bytes are right, maps may be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.member = Member(Download(3, 1000.0), D, "docker.io", "library/app", patience_s=3.0)
        self.now = 100.0
        self.past: list[tuple[swarming.Event, float, list[swarming.Instruction]]] = []
        self.slots: list[int] = []
        self.transfers: dict[int, list[int]] = {}
        """What each transfer is still to bring; [-1] before its answer."""
        self.opened: set[int] = set()
        self.fetches: dict[int, swarming.Fetch] = {}
        self.stopped: set[int] = set()
        self.held: dict[int, bytes] = {}
        self.preparing = False
        self.open_leases: dict[int, int] = {}
        self.leases_given = 0
        self.ended: Phase | None = None

    # -- the shell -------------------------------------------------------------------------------------------------

    def feed(self, event: swarming.Event) -> None:
        instructions = self.member.handle(event, self.now)
        self.past.append((event, self.now, instructions))
        self.member.validate()
        for instruction in instructions:
            self.carry_out(instruction)

    def carry_out(self, instruction: swarming.Instruction) -> None:
        match instruction:
            case origin_side.WantSlot(source):
                self.slots.append(source)
            case origin_side.StartTransfer(number, _, first, stop):
                self.starts(number, first, stop)
            case Ended(phase):
                assert self.ended is None, "it ended twice"
                self.ended = phase
            case swarming.Prepare():
                self.preparing = True
            case swarming.Fetch():
                self.asks(instruction)
            case swarming.StopFetch(number):
                assert number in self.fetches
                assert number not in self.stopped, "a request is stopped twice"
                self.stopped.add(number)
            case swarming.Tell(message):
                assert FROM_HOST.decode(FROM_HOST.encode(message)) == message
                self.tells(message)
            case swarming.TellNeighbours(_, message):
                assert LINK.decode(LINK.encode(message)) == message
            case swarming.GiveUp():
                self.feed(origin_side.Stopped())

    def starts(self, number: int, first: int, stop: int | None) -> None:
        assert self.ended is None
        pieces = [-1] if stop is None else list(range(first, stop))
        assert not set(pieces) & set(self.held), "the origin is asked for what is held"
        assert not set(pieces) & {index for each in self.transfers.values() for index in each}
        assert not set(pieces) & {fetch.index for fetch in self.fetches.values()}
        if self.member.standing.state is State.JOINED:
            leased = {index for pieces in self.open_leases.values() for index in range(COUNT) if pieces >> index & 1}
            assert stop is None or set(pieces) <= leased, "the origin is asked without a lease"
        assert self.member.standing.state is not State.JOINING, "the origin is closed"
        self.transfers[number] = pieces

    def asks(self, fetch: swarming.Fetch) -> None:
        assert self.ended is None
        assert not self.preparing, "a piece has no place yet"
        assert fetch.host in self.member.exchange.neighbours
        assert fetch.index not in self.held, "a neighbour is asked for what is held"
        others = [each.host for each in self.fetches.values() if each.index == fetch.index]
        assert fetch.host not in others
        assert fetch.index not in {index for each in self.transfers.values() for index in each}
        self.fetches[fetch.fetch] = fetch
        assert len({each.index for each in self.fetches.values()}) <= MOST_FETCHES
        assert Counter(each.host for each in self.fetches.values())[fetch.host] <= 2

    def tells(self, message: object) -> None:
        match message:
            case from_host.Join():
                self.open_leases.clear()
            case from_host.LeasePieces(lease, _, first, digests):
                told = ((1 << len(digests) // DIGEST_BYTES) - 1) << first
                assert not told & ~self.open_leases[lease], "the scheduler would end the connection for this"
                self.open_leases[lease] &= ~told
            case from_host.LeaseEnded(lease):
                self.open_leases.pop(lease)

    def lands(self, transfer: int | None, index: int, got: bytes) -> None:
        self.held.setdefault(index, got)
        self.feed(origin_side.PieceLanded(transfer, index, self.held[index]))

    def hears(self, message: ToHost) -> None:
        if self.member.standing.state in (State.JOINED, State.JOINING):
            self.feed(swarming.FromScheduler(message))

    def news(self, host: str, message: OnLink) -> None:
        self.feed(swarming.FromNeighbour(host, message))

    # -- how it begins, and time -----------------------------------------------------------------------------------

    def generation(self, current: int) -> int:
        """Mostly the one that the member goes by."""
        return max(1, self.member.generation + (current == 0))

    @initialize(connected=often, knows=often, have=sets)
    def it_begins(self, connected: int, knows: int, have: int) -> None:
        self.feed(origin_side.SourceAdded(0))
        self.feed(origin_side.ReaderMoved(1, 0, None))
        if have % 3 == 0 and knows:
            self.member.download.learn_geometry(SIZE, PIECE)
            for index in range(COUNT):
                if have >> index & 1:
                    self.lands(None, index, digest(index))
            self.feed(swarming.Prepared())
        self.feed(swarming.Begun(connected > 0, SIZE if knows else None))
        if self.preparing:
            self.it_has_its_place()
        if connected > 1:
            self.it_has_joined(1, sized=knows > 0, others=set(HOSTS))

    @precondition(lambda self: self.preparing)
    @rule()
    def it_has_its_place(self) -> None:
        self.preparing = False
        self.feed(swarming.Prepared())

    @rule(seconds=st.sampled_from((0.001, 0.05, 0.3, 1.0, 4.0, 70.0)))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(200):
            due = self.member.next_deadline()
            if due is None or due > until or self.ended:
                break
            self.now = due
            self.feed(origin_side.Tick())
        else:
            raise AssertionError("it never comes to rest")
        self.now = until

    # -- the scheduler ---------------------------------------------------------------------------------------------

    @rule(what=often)
    def the_scheduler_comes_or_goes(self, what: int) -> None:
        if what < 2:
            self.feed(swarming.SchedulerFound() if what else swarming.OriginOpened())

    @precondition(lambda self: self.member.standing.answer_due is not None)
    @rule(current=often, sized=st.booleans(), others=st.sets(hosts, min_size=1))
    def it_has_joined(self, current: int, sized: bool, others: set[str]) -> None:
        if self.member.standing.answer_due is not None:
            generation = self.generation(current)
            neighbours = tuple(to_host.Neighbour(host, f"{host}:1", 0) for host in sorted(others))
            self.hears(to_host.Joined(D, generation, SIZE if sized else None, False, neighbours))

    @rule(add=st.sets(hosts), remove=st.sets(hosts))
    def links_change(self, add: set[str], remove: set[str]) -> None:
        neighbours = tuple(to_host.Neighbour(host, f"{host}:1", 1) for host in sorted(add))
        self.hears(to_host.Neighbours(D, neighbours, tuple(sorted(remove))))

    @precondition(lambda self: self.member.download.held is not None)
    @rule(current=often, first=indices, count=st.integers(1, 8), lie=st.integers(0, 9))
    def digests_are_told(self, current: int, first: int, count: int, lie: int) -> None:
        known = [
            b"x" * DIGEST_BYTES if lie == 0 else digest(index) for index in range(first, min(COUNT, first + count))
        ]
        self.hears(to_host.PieceDigests(D, self.generation(current), (to_host.DigestRun(first, b"".join(known)),)))

    @rule(first=indices, count=st.integers(1, 4), current=often)
    def a_lease_is_given(self, first: int, count: int, current: int) -> None:
        if self.member.standing.state not in (State.JOINED, State.JOINING) or self.ended:
            return
        self.leases_given += 1
        pieces = range(first, min(COUNT, first + count))
        taken = 0
        for left in self.open_leases.values():
            taken |= left
        if any(taken >> index & 1 for index in pieces):
            return
        generation = self.generation(current)
        self.open_leases[self.leases_given] = sum(1 << index for index in pieces)
        self.hears(to_host.Lease(self.leases_given, D, generation, pieces.start, pieces.stop, 15.0))

    @precondition(lambda self: self.open_leases)
    @rule(data=st.data())
    def a_lease_is_revoked(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.open_leases)))
        del self.open_leases[number]
        self.hears(to_host.LeaseRevoked(number, D))

    @rule(current=often)
    def the_map_is_reset(self, current: int) -> None:
        if self.generation(current) > self.member.generation > 0:
            self.open_leases.clear()
            self.hears(to_host.Reset(D, self.generation(current)))

    @rule()
    def it_is_recalled(self) -> None:
        self.hears(to_host.RequestDigests(D))

    @rule(refused=st.integers(0, 30))
    def the_swarm_ends_for_this_host(self, refused: int) -> None:
        if refused < 2 and self.member.standing.state is State.JOINED:
            self.open_leases.clear()
            self.hears(to_host.OriginRefused(D, 401) if refused else to_host.Failed(D, 0, "no"))

    # -- the origin ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.slots)
    @rule()
    def a_slot_is_granted(self) -> None:
        self.feed(origin_side.SlotGranted(self.slots.pop(0)))

    @precondition(lambda self: self.transfers)
    @rule(data=st.data())
    def the_origin_sends(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.transfers)))
        pieces = self.transfers[number]
        if pieces == [-1]:
            pieces[:] = range(4)
        if number not in self.opened:
            self.opened.add(number)
            self.feed(origin_side.TransferOpened(number, SIZE, PIECE, pieces[0], pieces[-1] + 1))
        elif pieces:
            index = pieces.pop(0)
            self.lands(number, index, digest(index))
        else:
            del self.transfers[number]
            self.feed(origin_side.TransferEnded(number, Outcome.DONE))

    @precondition(lambda self: self.transfers)
    @rule(data=st.data(), refuses=often)
    def a_transfer_fails(self, data: st.DataObject, refuses: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.transfers)))
        del self.transfers[number]
        failed = Outcome.BROKEN if refuses else Outcome.REFUSED
        self.feed(origin_side.TransferEnded(number, failed, 401 if failed is Outcome.REFUSED else 0))

    @rule(source=st.integers(0, 2))
    def a_client_brings_a_source(self, source: int) -> None:
        self.feed(origin_side.SourceAdded(source))

    @rule(position=st.integers(0, COUNT - 1), length=st.none() | st.integers(1, 3))
    def a_client_reads(self, position: int, length: int | None) -> None:
        stop = None if length is None else (position + length) * PIECE
        self.feed(origin_side.ReaderMoved(1, position * PIECE, stop))

    # -- neighbours ------------------------------------------------------------------------------------------------

    @rule(host=hosts, have=sets, current=often, complete=often)
    def a_neighbour_tells_what_it_holds(self, host: str, have: int, current: int, complete: int) -> None:
        self.news(host, link.Bitfield(D, self.generation(current), complete == 0, bytes([have])))

    @rule(host=hosts, first=indices, current=often)
    def a_neighbour_gains(self, host: str, first: int, current: int) -> None:
        self.news(host, link.Have(D, self.generation(current), (link.Span(first, first + 2),)))

    @rule(host=hosts, what=often)
    def a_neighbour_goes(self, host: str, what: int) -> None:
        if what == 0:
            self.news(host, link.DontHave(D))
        elif what == 1:
            self.feed(swarming.NeighbourLost(host))

    @precondition(lambda self: self.fetches)
    @rule(data=st.data())
    def a_neighbour_sends(self, data: st.DataObject) -> None:
        fetch = self.fetches[data.draw(st.sampled_from(sorted(self.fetches)))]
        self.lands(None, fetch.index, fetch.expected)
        del self.fetches[fetch.fetch]
        self.feed(swarming.FetchEnded(fetch.fetch, FetchOutcome.LANDED))

    @precondition(lambda self: self.fetches)
    @rule(data=st.data(), outcome=endings)
    def a_neighbour_fails(self, data: st.DataObject, outcome: FetchOutcome) -> None:
        number = data.draw(st.sampled_from(sorted(self.fetches)))
        del self.fetches[number]
        self.feed(swarming.FetchEnded(number, FetchOutcome.STOPPED if number in self.stopped else outcome))

    # -- the end ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.ended is None and len(self.held) == COUNT)
    @rule()
    def the_sha256_is_known(self) -> None:
        ok = all(got == digest(index) for index, got in self.held.items())
        self.feed(origin_side.BlobVerified(ok))
        assert self.ended is not None
        assert (self.ended is Phase.COMPLETE) == ok

    @invariant()
    def only_what_matches_the_map_is_served(self) -> None:
        if self.ended is None:
            for index in range(COUNT):
                if self.member.may_serve(index * PIECE, (index + 1) * PIECE):
                    assert self.held[index] == self.member.book.expected[index]

    def teardown(self) -> None:
        again = Member(Download(3, 1000.0), D, "docker.io", "library/app", patience_s=3.0)
        if self.past and isinstance(self.past[2][0], origin_side.PieceLanded | swarming.Prepared):
            for event, now, instructions in self.past[:2]:
                assert again.handle(event, now) == instructions
            again.download.learn_geometry(SIZE, PIECE)
            del self.past[:2]
        for event, now, instructions in self.past:
            assert again.handle(event, now) == instructions, "the same events give the same instructions"


AnyOrder.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None, derandomize=True)
TestAnyOrder = AnyOrder.TestCase
