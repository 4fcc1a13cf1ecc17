"""Whatever hosts send, in any order: the invariants hold, and the same events give the same instructions."""

from __future__ import annotations

import hashlib

import blake3
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.core.events import (
    Close,
    Connected,
    Disconnected,
    Event,
    Instruction,
    LiveListChanged,
    Received,
    Send,
    TagAsked,
    TagTold,
    Tick,
    ToldWord,
)
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.codec import TO_HOST, FromHost
from scheduler.protocol.from_host import (
    FEATURES,
    Announce,
    Bye,
    Corrupt,
    DigestReport,
    Disproved,
    Fault,
    Hello,
    Holding,
    InlineBlob,
    Join,
    LeaseEnded,
    LeaseOutcome,
    LeasePieces,
    Leave,
    Length,
    NeighbourFailed,
    Progress,
    Sealed,
    TagAnswer,
    TagLookup,
)
from scheduler.protocol.to_host import Lease, RequestDigests, SchedulerAt, TagQuery

SETTINGS = SchedulerSettings(
    degree=3, degree_low=2, degree_high=4, leases_per_origin=3, lease_pieces=2, fanout_slice=2, lease_s=5
)
HOSTS = tuple("abcdefgh")
SCHEDULERS = ("0a", "0b", "0c")
TINY = b"tiny"
SIZES = {hashlib.sha256(TINY).digest(): len(TINY), b"1" * 32: 6 << 18, b"2" * 32: 3 << 18}
WORDS = tuple(blake3.blake3(word).digest() for word in (b"right", b"wrong"))

hosts = st.sampled_from(HOSTS)
digests = st.sampled_from(tuple(SIZES))
pieces = st.integers(0, 5)


class AnyOrder(RuleBasedStateMachine):
    """Hosts that mostly do what they were asked to, sometimes lie, and come and go as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(SETTINGS)
        self.now = 100.0
        self.connections: dict[str, int] = {}
        self.connected = 0
        self.leases: dict[int, tuple[str, Lease]] = {}
        self.asked: list[tuple[str, RequestDigests | TagQuery]] = []
        self.past: list[tuple[Event, float, list[Instruction]]] = []

    def tell(self, event: Event) -> None:
        instructions = self.scheduler.handle(event, self.now)
        self.past.append((event, self.now, instructions))
        names = {connection: host for host, connection in self.connections.items()}
        for instruction in instructions:
            if isinstance(instruction, Close):
                self.connections.pop(names.get(instruction.connection, ""), None)
            elif not isinstance(instruction, Send):
                pass
            elif isinstance(instruction.message, Lease):
                self.leases[instruction.message.lease] = names[instruction.connections[0]], instruction.message
            elif isinstance(instruction.message, RequestDigests | TagQuery):
                self.asked.append((names[instruction.connections[0]], instruction.message))

    def say(self, host: str, message: FromHost) -> None:
        if host in self.connections:
            self.tell(Received(self.connections[host], message))

    @rule(host=hosts, rack=st.sampled_from("rs"), site=st.sampled_from("xy"))
    def connects(self, host: str, rack: str, site: str) -> None:
        if host not in self.connections:
            self.connected += 1
            self.connections[host] = self.connected
            self.tell(
                Connected(self.connected, Hello(host, 1, 1, f"{host}:1", site=site, rack=rack, features=FEATURES))
            )

    @rule(host=hosts, orderly=st.booleans())
    def goes(self, host: str, orderly: bool) -> None:
        if orderly:
            self.say(host, Bye())
        if host in self.connections:
            self.tell(Disconnected(self.connections.pop(host)))

    @rule(host=hosts, digest=digests, knows=st.booleans(), wrong=st.integers(0, 9))
    def joins(self, host: str, digest: bytes, knows: bool, wrong: int) -> None:
        size = SIZES[digest] + (1 << 20 if wrong == 0 else 0)
        self.say(host, Join(digest, "docker.io", "library/app", size if knows else None))

    @rule(host=hosts, digest=digests, have=st.integers(0, 7), complete=st.booleans())
    def announces(self, host: str, digest: bytes, have: int, complete: bool) -> None:
        have = 0 if SIZES[digest] < 100 else have
        self.say(host, Announce((Holding(digest, SIZES[digest], complete, bytes([have])),)))

    @rule(host=hosts, digest=digests, have=st.integers(0, 63), starving=st.booleans(), generation=st.integers(1, 3))
    def progresses(self, host: str, digest: bytes, have: int, starving: bool, generation: int) -> None:
        self.say(host, Progress(digest, generation, bytes([have & (1 << (SIZES[digest] >> 18)) - 1]), starving))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), truthful=st.integers(0, 3), what=st.sampled_from(("pieces", "ended", "length")))
    def lease_brings(self, data: st.DataObject, truthful: int, what: str) -> None:
        host, lease = data.draw(st.sampled_from(list(self.leases.values())))
        inline_blob = TINY if truthful else b"lie"
        if SIZES[lease.digest] == len(TINY):
            self.say(host, InlineBlob(lease.digest, inline_blob))
        elif what == "length":
            self.say(host, Length(lease.lease, lease.digest, SIZES[lease.digest] + (0 if truthful else 1 << 20)))
        elif what == "ended":
            outcome = data.draw(st.sampled_from(LeaseOutcome))
            self.say(host, LeaseEnded(lease.lease, lease.digest, outcome, data.draw(st.sampled_from((401, 404, 503)))))
        else:
            first = data.draw(st.integers(lease.first, lease.stop - 1))
            self.say(host, LeasePieces(lease.lease, lease.digest, first, WORDS[truthful == 0]))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), status=st.sampled_from((200, 200, 401, 0)))
    def answers(self, data: st.DataObject, status: int) -> None:
        host, asked = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        if isinstance(asked, TagQuery):
            facts = (b"d" * 32, 7, "application/json", True, 1.0) if status == 200 else ()
            self.say(host, TagAnswer(asked.upstream, asked.repository, asked.tag, status, *facts))
        elif SIZES[asked.digest] == len(TINY):
            self.say(host, InlineBlob(asked.digest, TINY))
        else:
            self.say(host, DigestReport(asked.digest, data.draw(st.integers(0, 2)), WORDS[0], status == 200))

    @rule(host=hosts, digest=digests, generation=st.integers(1, 3), sealed=st.booleans())
    def finishes(self, host: str, digest: bytes, generation: int, sealed: bool) -> None:
        self.say(host, Sealed(digest, generation) if sealed else Disproved(digest, generation))

    @rule(host=hosts, other=hosts, digest=digests, corrupt=st.booleans())
    def complains(self, host: str, other: str, digest: bytes, corrupt: bool) -> None:
        complaint = Corrupt(digest, 1, 0, other) if corrupt else NeighbourFailed(digest, other, Fault.SLOW)
        self.say(host, complaint)

    @rule(host=hosts, digest=digests)
    def leaves(self, host: str, digest: bytes) -> None:
        self.say(host, Leave(digest))

    @rule(host=hosts, tag=st.sampled_from(("v1", "v2")))
    def looks_up(self, host: str, tag: str) -> None:
        self.say(host, TagLookup("docker.io", "library/app", tag))

    @rule(count=st.integers(1, 3))
    def others_live(self, count: int) -> None:
        schedulers = tuple(SchedulerAt(name, f"http://{name}:1") for name in SCHEDULERS[:count])
        self.tell(LiveListChanged(1, SCHEDULERS[0], schedulers))

    @rule(other=st.sampled_from(SCHEDULERS[1:]), tag=st.sampled_from(("v1", "v2")), words=st.integers(-1, 3))
    def another_scheduler_tells(self, other: str, tag: str, words: int) -> None:
        name = (other, "docker.io", "library/app", tag)
        told = tuple(ToldWord(bytes([each]) * 12, b"d" * 32, 7, "application/json", 1.0) for each in range(words))
        self.tell(TagAsked(*name, "somebody") if words < 0 else TagTold(*name, told))

    @rule(seconds=st.sampled_from((0.001, 1.0, 6.0, 700.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Tick())

    @invariant()
    def nothing_contradicts(self) -> None:
        self.scheduler.validate()
        due = self.scheduler.next_deadline()
        assert due is None or due > self.now

    def teardown(self) -> None:
        again = Scheduler(SETTINGS)
        for event, now, instructions in self.past:
            assert frames(again.handle(event, now)) == frames(instructions)


def frames(instructions: list[Instruction]) -> list[tuple[object, ...]]:
    return [
        (instruction.connections, TO_HOST.encode(instruction.message))
        if isinstance(instruction, Send)
        else (instruction,)
        for instruction in instructions
    ]


AnyOrder.TestCase.settings = hypothesis_settings(max_examples=150, stateful_step_count=60)
TestAnyOrder = AnyOrder.TestCase
