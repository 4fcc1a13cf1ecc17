"""Any messages that the protocol allows, in any order, from hosts, schedulers and neighbours that mean nothing well.

The machines keep their invariants, raise nothing, and say only what the protocol allows. What is said by those that do
mostly what they were asked to is tested in `tests.scheduler.test_any_order` and `tests.peer.test_host_any_order`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, get_type_hints

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import inspect

from peer.core import events
from peer.core.membership import MembershipState
from scheduler.core.events import Close, Connected, Disconnected, Instruction, Received, Send, Tick
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.codec import FROM_HOST, LINK, TO_HOST, Codec
from scheduler.protocol.from_host import Hello
from scheduler.protocol.geometry import MAX_PIECE_BYTES
from scheduler.protocol.to_host import Lease
from tests.peer.host_playbook import D, E
from tests.peer.host_playbook import digest as piece_digest
from tests.peer.host_world import COUNT, HOSTS, SIZE, Blob, World
from tests.scheduler.messages import Likely, fields_of, messages

TINY = b"tiny"
NAMES = ("a", "b", "c", "e")
PIECE_BYTES = 1 << 18
BLOBS = (hashlib.sha256(TINY).digest(), D, E)
SIZES = (0, len(TINY), SIZE, 3 * PIECE_BYTES, SIZE + 1)


def likely(numbers: range) -> Likely:
    """Few blobs, hosts and pieces, so that messages are about the same ones; numbers of leases, generations, pieces."""

    def known(check: Any) -> tuple[Any, ...]:
        match check:
            case inspect.BytesType(32, 32):
                return (*BLOBS, piece_digest(0))
            case inspect.Metadata(extra={"step": 32}):
                return (piece_digest(0), piece_digest(1) + piece_digest(2), b"x" * 32, b"")
            case inspect.BytesType(min_length=None):
                return (b"", b"\x01", b"\x07", b"\xff", TINY)
            case inspect.IntType(ge=0, le=high) if high == MAX_PIECE_BYTES:
                return (0,)  # `tests/scheduler/test_division.py` has pieces of other lengths than the usual ones
            case inspect.IntType(ge=0, le=int(high)) if high > 2**40:
                return SIZES
            case inspect.IntType(ge=int(low), le=int(high)):
                return tuple(number for number in (*numbers, high) if low <= number <= high)
            case inspect.StrType(pattern=str(pattern)):
                words = (*NAMES, "docker.io", "library/app", "v1", "a:1", "127.0.0.1:1", "")
                return tuple(word for word in words if re.fullmatch(pattern, word))
            case _:
                return ()

    return known


def any_of(codec: Codec[Any], *left_out: type) -> st.SearchStrategy[Any]:
    kinds = [kind for kind in codec.types.values() if kind not in left_out]
    return st.sampled_from(kinds).flatmap(lambda kind: messages(kind, likely(range(COUNT + 1))))


class AnyHosts(RuleBasedStateMachine):
    """A scheduler, and hosts that say anything."""

    def __init__(self) -> None:
        super().__init__()
        # As the server, but for smaller numbers.
        self.scheduler = Scheduler(SchedulerSettings(degree=3, degree_low=2, degree_high=4, lease_pieces=2, lease_s=5))
        self.now = 100.0
        self.open: dict[int, str] = {}
        self.count = 0
        self.leases: list[Lease] = []

    def tell(self, event: Any) -> None:
        for instruction in self.scheduler.handle(event, self.now):
            self.carry_out(instruction)

    def carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case Close(connection):
                assert self.open.pop(connection)
                self.tell(Disconnected(connection))
            case Send(connections, message):
                assert TO_HOST.decode(TO_HOST.encode(message)) == message
                assert connections
                if isinstance(message, Lease):
                    self.leases.append(message)

    @initialize()
    def two_come(self) -> None:
        for name in NAMES[:2]:
            self.comes(Hello(name, 1, 1, f"{name}:1"), name, certified=True)

    @rule(hello=messages(Hello, likely(range(3))), seen_at=st.sampled_from(NAMES), certified=st.booleans())
    def comes(self, hello: Hello, seen_at: str, certified: bool) -> None:
        self.count += 1
        self.open[self.count] = hello.host
        self.tell(Connected(self.count, hello, seen_at, certified))

    @rule(which=st.integers(0, 9))
    def goes(self, which: int) -> None:
        if self.open:
            connection = list(self.open)[which % len(self.open)]
            del self.open[connection]
            self.tell(Disconnected(connection))

    @rule(said=st.lists(st.tuples(st.integers(0, 9), any_of(FROM_HOST)), min_size=1, max_size=8))
    def they_speak(self, said: list[tuple[int, Any]]) -> None:
        for which, message in said:
            if self.open:
                self.tell(Received(list(self.open)[which % len(self.open)], message))

    @rule(seconds=st.sampled_from((0.01, 0.5, 6.0, 100.0, 4000.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Tick())

    @invariant()
    def nothing_contradicts(self) -> None:
        self.scheduler.validate()
        due = self.scheduler.next_deadline()
        assert due is None or due > self.now


class AnyScheduler(World, RuleBasedStateMachine):
    """A host whose store and origin are right; its scheduler and its neighbours say anything."""

    @initialize(knows=st.booleans())
    def it_begins(self, knows: bool) -> None:
        self.finds_scheduler()
        self.blobs[E].size_bytes = SIZE
        self.blobs[E].stored = {index: piece_digest(index) for index in range(COUNT)}
        self.feed(events.BlobStored(E, SIZE))
        self.brings(D, 0, SIZE if knows else None)
        self.feed(events.ReaderMoved(D, 1, 0, None))

    @rule(said=st.lists(any_of(TO_HOST), min_size=1, max_size=8))
    def the_scheduler_speaks(self, said: list[Any]) -> None:
        for message in said:
            self.hears(message)

    @rule(said=st.lists(st.tuples(st.sampled_from(HOSTS), any_of(LINK)), min_size=1, max_size=8))
    def neighbours_speak(self, said: list[tuple[str, Any]]) -> None:
        for host, message in said:
            self.news(host, message)

    @rule(host=st.sampled_from(HOSTS), is_up=st.booleans())
    def a_link_comes_or_goes(self, host: str, is_up: bool) -> None:
        if host not in self.links:
            return
        if not is_up:
            self.links.remove(host)
        self.feed(events.LinkUp(host) if is_up else events.LinkLost(host))

    @rule(picks=st.lists(st.integers(0, 63), min_size=1, max_size=16))
    def the_world_goes_on(self, picks: list[int]) -> None:
        for pick in picks:
            expected = self.expected()
            if expected:
                expected[pick % len(expected)]()

    @rule(digest=st.sampled_from((D, E)), knows=st.booleans())
    def a_client_comes(self, digest: bytes, knows: bool) -> None:
        if digest not in self.machine.seeds and not self.blobs[digest].sources:
            self.brings(digest, 0, SIZE if knows else None)
        self.feed(events.ReaderMoved(digest, 1, 0, None))

    @rule(seconds=st.sampled_from((0.001, 0.3, 4.0, 70.0)))
    def time_passes(self, seconds: float) -> None:
        self.goes_on(seconds)

    def carry_out_in_store(self, instruction: events.Instruction) -> None:
        match instruction:
            case events.FetchSample(digest, request, _, _, start, stop):
                data = bytes(stop - start) if stop - start < PIECE_BYTES else None
                self.feed(events.SampleFetched(digest, request, data))
            case events.StoreInlineBlob():
                pass  # its SHA-256 is wrong
            case events.ReportQuarantine() | events.ReportUnreachable() | events.AnswerTag() | events.RefuseHosts():
                pass
            case events.TakePreheat():
                pass
            case events.SendInlineBlob(digest):
                assert digest in self.machine.seeds
            case _:
                super().carry_out_in_store(instruction)

    # The rules that hold only if the scheduler keeps to its own.

    def may_ask_origin(self, blob: Blob, state: MembershipState, pieces: list[int]) -> None: ...

    def tells(self, message: object) -> None: ...

    @invariant()
    def only_what_is_in_the_store_is_served(self) -> None:
        for digest, blob in self.blobs.items():
            for index in range(COUNT):
                if self.machine.may_serve(digest, index * (SIZE // COUNT), (index + 1) * (SIZE // COUNT)):
                    assert index in blob.stored


AnyHosts.TestCase.settings = AnyScheduler.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestAnyHosts = AnyHosts.TestCase
TestAnyScheduler = AnyScheduler.TestCase


def test_the_likely_values_are_allowed() -> None:
    for codec in (FROM_HOST, TO_HOST, LINK):
        for kind in codec.types.values():
            hints = get_type_hints(kind, include_extras=True)
            for field in fields_of(kind):
                for value in likely(range(3))(field.type):
                    assert msgspec.convert(value, hints[field.name]) == value
