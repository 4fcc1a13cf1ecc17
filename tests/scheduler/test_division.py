"""How a swarm divides its blob into pieces: its first holder says, or the number of its hosts; nobody else."""

from __future__ import annotations

import itertools
from dataclasses import replace
from enum import Enum, auto
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.events import Connected, Disconnected, Instruction, Received, Send, Tick
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.fields import DIGEST_BYTES, ProtocolError
from scheduler.protocol.from_host import (
    PIECE_LENGTH,
    Announce,
    DigestReport,
    Holding,
    Join,
    LeasePieces,
    Leave,
    Need,
    Sealed,
)
from scheduler.protocol.geometry import piece_length
from scheduler.protocol.to_host import Joined, Lease, OriginRefused, PieceDigests, RequestDigests, Sized
from tests.scheduler.playbook import hello

MIB = 1024 * 1024
SIZE = 24 * MIB
USUAL, SHORT = MIB, MIB // 2
D = b"d" * DIGEST_BYTES
LARGE = SchedulerSettings(large_swarm=2, piece_cost_s=0.001, settle_s=0.0)
"""A swarm of two hosts counts as a large one."""
SMALL = SchedulerSettings(settle_s=0.0)
JOIN = Join(D, "docker.io", "library/app", SIZE)


class Cluster:
    """A scheduler, and hosts by name. What each is told is in `told`, the oldest first."""

    def __init__(self, settings: SchedulerSettings, *new: str, old: tuple[str, ...] = ()) -> None:
        self.scheduler = Scheduler(settings)
        self.told: dict[str, list[Any]] = {}
        self.names: dict[int, str] = {}
        self.now = 1000.0
        for host in (*new, *old):
            self.connect(host, *([] if host in old else [PIECE_LENGTH]))

    def connect(self, host: str, *features: str) -> None:
        number = len(self.names) + 1
        self.names[number], self.told[host] = host, []
        self._handle(Connected(number, hello(host, features=features), f"192.0.2.{number}"))

    def says(self, host: str, *messages: Any) -> list[Any]:
        """What `host` is told because of it."""
        self.told[host].clear()
        for message in messages:
            self._handle(Received(self._number(host), message))
        return self.told[host]

    def vanishes(self, host: str) -> None:
        self._handle(Disconnected(self._number(host)))

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self._handle(Tick())

    def _number(self, host: str) -> int:
        return next(number for number, name in reversed(self.names.items()) if name == host)

    def _handle(self, event: Any) -> None:
        instructions: list[Instruction] = self.scheduler.handle(event, self.now)
        for each in instructions:
            if isinstance(each, Send):
                for number in each.connections:
                    self.told[self.names[number]].append(each.message)
        self.scheduler.validate()


def of(kind: type, messages: list[Any]) -> list[Any]:
    return [message for message in messages if isinstance(message, kind)]


def divided(messages: list[Any]) -> int:
    """The length of pieces that a host was told in Joined."""
    (joined,) = of(Joined, messages)
    assert joined.size_bytes == SIZE
    return int(joined.piece_length)


def holding(length: int = 0, *, have: bytes = b"", digest: bytes = D) -> Announce:
    return Announce((Holding(digest, SIZE, complete=not have, have=have, piece_length=length),))


def test_a_large_swarm_has_shorter_pieces() -> None:
    cluster = Cluster(LARGE, "a", "b")
    assert divided(cluster.says("a", JOIN)) == SHORT
    (lease,) = of(Lease, cluster.told["a"])
    assert divided(cluster.says("b", JOIN)) == SHORT
    cluster.says("a", LeasePieces(lease.lease, D, 0, b"p" * DIGEST_BYTES))
    assert of(PieceDigests, cluster.told["b"]), "what a piece of this length has is told"
    piece_map = cluster.scheduler._state.swarms[D].map
    assert piece_map is not None
    assert piece_map.count == SIZE // SHORT


@pytest.mark.parametrize(
    "settings",
    [SMALL, replace(LARGE, large_swarm=3), replace(LARGE, vast_swarm=1), replace(LARGE, piece_cost_s=0.002)],
)
def test_a_small_swarm_a_vast_one_and_one_with_enough_pieces_have_the_usual_ones(settings: SchedulerSettings) -> None:
    assert divided(Cluster(settings, "a", "b").says("a", JOIN)) == 0


def test_where_a_host_does_not_know_of_other_pieces_all_have_the_usual_ones() -> None:
    cluster = Cluster(LARGE, "a", "b", old=("old",))
    assert divided(cluster.says("a", JOIN)) == 0
    cluster.vanishes("old")
    assert divided(cluster.says("b", JOIN)) == 0, "a swarm keeps to its pieces"
    cluster.says("a", Leave(D))
    cluster.says("b", Leave(D))
    assert divided(cluster.says("a", JOIN)) == SHORT


def test_a_host_that_knows_no_other_pieces_gets_the_blob_from_the_origin_and_holds_it_for_others() -> None:
    cluster = Cluster(LARGE, "a", "b", "c")
    cluster.says("a", JOIN)
    cluster.connect("old")
    assert cluster.says("old", JOIN) == [OriginRefused(D, 0)]
    assert cluster.says("old", replace(JOIN, size_bytes=None)) == [OriginRefused(D, 0)]
    cluster.says("old", holding())
    (joined,) = of(Joined, cluster.says("b", JOIN))
    assert "old" in [each.host for each in joined.neighbours]


def test_a_host_that_has_divided_the_blob_otherwise_gets_it_from_the_origin() -> None:
    cluster = Cluster(LARGE, "a", "b")
    cluster.says("a", JOIN)
    part = holding(have=b"\x01")
    assert cluster.says("b", part, replace(JOIN, piece_length=USUAL)) == [OriginRefused(D, 0)]
    assert divided(cluster.says("b", JOIN)) == SHORT, "with nothing of it, the host divides it as the swarm does"


@pytest.mark.parametrize("settings", [SMALL, LARGE])
@pytest.mark.parametrize("length", [0, SHORT])
def test_a_swarm_has_the_pieces_of_its_first_holder(settings: SchedulerSettings, length: int) -> None:
    cluster = Cluster(settings, "seeder", "a")
    cluster.says("seeder", holding(length))
    assert divided(cluster.says("a", JOIN)) == length
    assert of(RequestDigests, cluster.told["seeder"]) == [RequestDigests(D)]


@pytest.mark.parametrize("length", [0, SHORT])
def test_a_swarm_that_moves_here_has_the_pieces_of_its_first_member(length: int) -> None:
    cluster = Cluster(LARGE, "a", "b")
    said = replace(JOIN, piece_length=length or USUAL, moved=True)
    assert divided(cluster.says("a", said)) == length
    assert divided(cluster.says("b", JOIN)) == length


def test_a_holder_of_other_pieces_is_not_asked_for_digests() -> None:
    cluster = Cluster(LARGE, "seeder", "other", "a")
    cluster.says("seeder", holding(SHORT))
    cluster.says("other", holding())
    cluster.says("a", JOIN)
    cluster.says("seeder", DigestReport(D, 0, b"", last=True))
    assert of(RequestDigests, cluster.told["other"]) == []
    assert of(Lease, cluster.told["a"]), "so the origin is asked"


def test_who_waits_for_the_length_is_told_the_usual_pieces() -> None:
    cluster = Cluster(LARGE, "a", "b")
    cluster.says("a", replace(JOIN, size_bytes=None))
    assert divided(cluster.says("b", JOIN)) == 0
    assert of(Sized, cluster.told["a"]) == [Sized(D, 1, SIZE)]


def test_where_pieces_come_fast_they_have_the_usual_length() -> None:
    cluster, numbers = Cluster(LARGE, "a", "b"), itertools.count()

    def comes(rate: int, *, times: int = 1) -> None:
        for _ in range(times):
            digest = next(numbers).to_bytes(DIGEST_BYTES, "big")
            cluster.says("a", replace(JOIN, digest=digest), Sealed(digest, 1, piece_bytes_per_s=rate))

    def length() -> int:
        return divided(cluster.says("b", replace(JOIN, digest=next(numbers).to_bytes(DIGEST_BYTES, "big"))))

    comes(2**60)
    assert length() == SHORT, "one host may say anything"
    comes(125_000_000, times=10)
    assert length() == 0
    comes(12_500_000, times=16)
    assert length() == SHORT


def test_long_pieces_are_halved_where_short_ones_are_not() -> None:
    """The same number of pieces is too small where each takes a third of a second, and not where each takes a sixth."""
    cluster, numbers = Cluster(LARGE, "a", "b"), itertools.count()

    def length(size_bytes: int) -> int:
        join = replace(JOIN, digest=next(numbers).to_bytes(DIGEST_BYTES, "big"), size_bytes=size_bytes)
        (joined,) = of(Joined, cluster.says("a", join))
        return int(joined.piece_length or piece_length(size_bytes))

    assert [length(512 * MIB), length(256 * MIB), length(128 * MIB)] == [2 * MIB, 2 * MIB, MIB]


def test_what_a_client_waits_for_is_leased_first_whatever_the_pieces_are() -> None:
    cluster = Cluster(LARGE, "a", "b", "c")
    cluster.says("a", Need(D, 5, 6), JOIN)
    (lease,) = of(Lease, cluster.told["a"])
    assert lease.first == 10, "in usual pieces, as the host does not know others"
    cluster.says("b", JOIN, Need(D, 20, 21, divided=True))
    cluster.says("a", LeasePieces(lease.lease, D, 10, b"p" * DIGEST_BYTES))
    cluster.says("c", Need(D, 16, 18), JOIN)
    swarm = cluster.scheduler._state.swarms[D]
    leased = [each.left for each in swarm.leases.values()]
    wanted = 1 << 11 | 1 << 20 | 0b1111 << 32
    assert wanted & ~swarm.needed == wanted & sum(leased), "all of it is needed, or leased already"
    assert swarm.needed >> 36 == 0


def test_a_blob_that_rests_is_divided_as_before() -> None:
    cluster = Cluster(LARGE, "a", "b")
    cluster.says("a", JOIN, Sealed(D, 1))
    cluster.passes(2 * LARGE.rest_s)
    assert D in cluster.scheduler._state.shelf
    cluster.connect("old")
    assert divided(cluster.says("b", JOIN)) == SHORT


@pytest.mark.parametrize("length", [1, USUAL * 2, SHORT // 2, SHORT + 1])
def test_no_blob_has_pieces_of_any_length(length: int) -> None:
    assert piece_length(SIZE) == USUAL
    for message in (
        lambda: Holding(D, SIZE, complete=True, piece_length=length),
        lambda: replace(JOIN, piece_length=length),
    ):
        with pytest.raises(ProtocolError, match="divided"):
            message()
    with pytest.raises(ProtocolError, match="without"):
        replace(JOIN, size_bytes=None, piece_length=SHORT)


HOSTS = ("a", "b", "c", "old")


class Step(Enum):
    HOLDS_ALL = auto()
    HOLDS_A_PART = auto()
    WANTS = auto()
    LEAVES = auto()
    HAS_ALL = auto()
    TELLS_DIGESTS = auto()
    CONNECTS_ANEW = auto()


@given(
    st.lists(st.tuples(st.sampled_from(HOSTS), st.sampled_from(Step), st.sampled_from([0, USUAL, SHORT])), max_size=20)
)
def test_all_who_want_a_blob_have_divided_it_alike(steps: list[tuple[str, Step, int]]) -> None:
    """Whatever is said, in any order. Nobody is told of pieces that it does not know, or has not."""
    cluster = Cluster(LARGE, "a", "b", "c")
    there, wants = {"a", "b", "c"}, dict[str, int]()
    for host, step, length in steps:
        if step is Step.CONNECTS_ANEW or host not in there:
            if host in there:
                cluster.vanishes(host)
            cluster.connect(host, *([] if host == "old" else [PIECE_LENGTH]))
            there.add(host)
            continue
        said = 0 if host == "old" else length
        match step:
            case Step.HOLDS_ALL | Step.HOLDS_A_PART:
                part = b"\x01" if step is Step.HOLDS_A_PART else b""
                cluster.says(host, Leave(D), holding(said, have=part))
            case Step.WANTS:
                for message in of(Joined, cluster.says(host, replace(JOIN, piece_length=said))):
                    wants[host] = message.piece_length or USUAL
                    assert said in (0, wants[host])
                    assert host != "old" or wants[host] == USUAL
            case Step.LEAVES:
                cluster.says(host, Leave(D))
            case Step.HAS_ALL:
                cluster.says(host, Sealed(D, 1))
            case _:
                cluster.says(host, DigestReport(D, 0, b"p" * DIGEST_BYTES, last=True))
        swarm = cluster.scheduler._state.swarms.get(D)
        wanting = [] if swarm is None else [member.host.id for member in swarm.wanting.items]
        assert len({wants[each] for each in wanting}) <= 1
