"""How a swarm divides its blob into pieces: as its first holder, or as many hosts or many blobs are best served."""

from __future__ import annotations

import itertools
from dataclasses import replace
from enum import Enum, auto
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from scheduler.core.events import Connected, Disconnected, Instruction, Received, Send, Tick
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.fields import DIGEST_BYTES, ProtocolError
from scheduler.protocol.from_host import (
    LONG_PIECES,
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

SMALL_SIZE = 8 * MIB
SMALL_USUAL, LONG = MIB // 2, MIB
SMALL_JOIN = structs.replace(JOIN, size_bytes=SMALL_SIZE)
BESIDE = structs.replace(SMALL_JOIN, beside_bytes=2 * SMALL_SIZE)
"""One of three layers that a client pulls at a time."""


class Cluster:
    """A scheduler, and hosts by name. What each is told is in `told`, the oldest first.

    `older` hosts know of shorter pieces and of no longer ones, and `old` hosts of neither.
    """

    def __init__(
        self, settings: SchedulerSettings, *new: str, old: tuple[str, ...] = (), older: tuple[str, ...] = ()
    ) -> None:
        self.scheduler = Scheduler(settings)
        self.told: dict[str, list[Any]] = {}
        self.names: dict[int, str] = {}
        self.now = 1000.0
        for host in new:
            self.connect(host, PIECE_LENGTH, LONG_PIECES)
        for host in older:
            self.connect(host, PIECE_LENGTH)
        for host in old:
            self.connect(host)

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
    assert joined.size_bytes in (SIZE, SMALL_SIZE)
    return int(joined.piece_length)


def holding(length: int = 0, *, have: bytes = b"", size_bytes: int = SIZE) -> Announce:
    return Announce((Holding(D, size_bytes, complete=not have, have=have, piece_length=length),))


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
    [SMALL, replace(LARGE, large_swarm=3), replace(LARGE, piece_cost_s=0.002)],
)
def test_a_small_swarm_and_one_with_enough_pieces_have_the_usual_ones(settings: SchedulerSettings) -> None:
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
    assert cluster.says("old", structs.replace(JOIN, size_bytes=None)) == [OriginRefused(D, 0)]
    cluster.says("old", holding())
    (joined,) = of(Joined, cluster.says("b", JOIN))
    assert "old" in [each.host for each in joined.neighbours]


def test_a_host_that_has_divided_the_blob_otherwise_gets_it_from_the_origin() -> None:
    cluster = Cluster(LARGE, "a", "b")
    cluster.says("a", JOIN)
    part = holding(have=b"\x01")
    assert cluster.says("b", part, structs.replace(JOIN, piece_length=USUAL)) == [OriginRefused(D, 0)]
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
    said = structs.replace(JOIN, piece_length=length or USUAL, moved=True)
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
    cluster.says("a", structs.replace(JOIN, size_bytes=None))
    assert divided(cluster.says("b", JOIN)) == 0
    assert of(Sized, cluster.told["a"]) == [Sized(D, 1, SIZE)]


def test_where_pieces_come_fast_they_have_the_usual_length() -> None:
    cluster, numbers = Cluster(LARGE, "a", "b"), itertools.count()

    def comes(rate: int, *, times: int = 1) -> None:
        for _ in range(times):
            digest = next(numbers).to_bytes(DIGEST_BYTES, "big")
            cluster.says("a", structs.replace(JOIN, digest=digest), Sealed(digest, 1, piece_bytes_per_s=rate))

    def length() -> int:
        return divided(cluster.says("b", structs.replace(JOIN, digest=next(numbers).to_bytes(DIGEST_BYTES, "big"))))

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
        join = structs.replace(JOIN, digest=next(numbers).to_bytes(DIGEST_BYTES, "big"), size_bytes=size_bytes)
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


class TestABlobBesideOthers:
    def test_has_longer_pieces(self) -> None:
        cluster = Cluster(SMALL, "a", "b")
        assert divided(cluster.says("a", BESIDE)) == LONG
        (lease,) = of(Lease, cluster.told["a"])
        assert divided(cluster.says("b", SMALL_JOIN)) == LONG, "a swarm keeps to its pieces"
        cluster.says("a", LeasePieces(lease.lease, D, 0, b"p" * DIGEST_BYTES))
        assert of(PieceDigests, cluster.told["b"])
        piece_map = cluster.scheduler._state.swarms[D].map
        assert piece_map is not None
        assert piece_map.count == SMALL_SIZE // LONG

    @pytest.mark.parametrize("beside_bytes", [0, MIB, 12 * MIB])
    def test_has_the_usual_ones_if_all_of_them_are_little(self, beside_bytes: int) -> None:
        join = structs.replace(SMALL_JOIN, beside_bytes=beside_bytes)
        assert divided(Cluster(SMALL, "a").says("a", join)) == 0

    def test_has_pieces_of_twice_the_usual_length_at_most(self) -> None:
        join = structs.replace(SMALL_JOIN, beside_bytes=2**63 - 1)
        assert divided(Cluster(SMALL, "a").says("a", join)) == LONG

    @pytest.mark.parametrize(("settings", "length"), [(SMALL, 0), (LARGE, SHORT)])
    def test_that_is_large_is_divided_as_if_it_were_alone(self, settings: SchedulerSettings, length: int) -> None:
        join = structs.replace(JOIN, beside_bytes=100 * SIZE)
        assert divided(Cluster(settings, "a", "b").says("a", join)) == length

    @pytest.mark.parametrize("settings", [LARGE, replace(LARGE, piece_cost_s=1e-9)])
    def test_has_the_usual_ones_in_a_large_swarm(self, settings: SchedulerSettings) -> None:
        assert divided(Cluster(settings, "a", "b").says("a", BESIDE)) == 0

    def test_has_the_usual_ones_where_a_host_does_not_know_of_longer_ones(self) -> None:
        cluster = Cluster(SMALL, "a", older=("older",))
        assert divided(cluster.says("a", BESIDE)) == 0
        assert divided(cluster.says("older", SMALL_JOIN)) == 0
        cluster.says("a", Leave(D))
        cluster.vanishes("older")
        assert divided(cluster.says("a", BESIDE)) == LONG

    def test_does_not_keep_a_large_swarm_from_shorter_pieces(self) -> None:
        cluster = Cluster(LARGE, "a", older=("older",))
        assert divided(cluster.says("older", JOIN)) == SHORT

    def test_is_not_for_a_host_that_knows_of_no_longer_ones(self) -> None:
        cluster = Cluster(SMALL, "a", "b")
        cluster.says("a", BESIDE)
        cluster.connect("older", PIECE_LENGTH)
        assert cluster.says("older", SMALL_JOIN) == [OriginRefused(D, 0)]
        cluster.says("older", holding(size_bytes=SMALL_SIZE))
        (joined,) = of(Joined, cluster.says("b", SMALL_JOIN))
        assert "older" in [each.host for each in joined.neighbours], "whole, it may hold it for others"

    def test_is_not_for_a_host_that_waited_for_the_length_and_knows_of_no_longer_ones(self) -> None:
        cluster = Cluster(SMALL, "a", "seeder")
        cluster.connect("older", PIECE_LENGTH)
        cluster.says("older", structs.replace(JOIN, size_bytes=None))
        cluster.says("seeder", holding(LONG, size_bytes=SMALL_SIZE))
        told = [*cluster.told["older"], *cluster.says("a", SMALL_JOIN)]
        assert of(Sized, told) == [Sized(D, 1, SMALL_SIZE)], "who waits is told the usual ones"

    @pytest.mark.parametrize("length", [0, LONG])
    def test_has_the_pieces_of_its_first_holder(self, length: int) -> None:
        cluster = Cluster(SMALL, "seeder", "a", "b")
        cluster.says("seeder", holding(length, size_bytes=SMALL_SIZE))
        assert divided(cluster.says("a", BESIDE)) == length
        assert of(RequestDigests, cluster.told["seeder"]) == [RequestDigests(D)]
        other = LONG if not length else SMALL_USUAL
        part = holding(other, have=b"\x01", size_bytes=SMALL_SIZE)
        assert cluster.says("b", part, structs.replace(SMALL_JOIN, piece_length=other)) == [OriginRefused(D, 0)]

    def test_has_those_that_a_client_waits_for_leased_first(self) -> None:
        cluster = Cluster(SMALL, "a")
        cluster.says("a", Need(D, 7, 8), BESIDE)
        (lease,) = of(Lease, cluster.told["a"])
        assert lease.first == 3, "the host means usual pieces, as it does not know of others"


@pytest.mark.parametrize("length", [1, USUAL * 2, SHORT // 2, SHORT + 1])
def test_no_blob_has_pieces_of_any_length(length: int) -> None:
    assert piece_length(SIZE) == USUAL
    for message in (
        lambda: Holding(D, SIZE, complete=True, piece_length=length),
        lambda: structs.replace(JOIN, piece_length=length),
    ):
        with pytest.raises(ProtocolError, match="divided"):
            message()
    with pytest.raises(ProtocolError, match="without"):
        structs.replace(JOIN, size_bytes=None, piece_length=SHORT)


@pytest.mark.parametrize("length", [1, SMALL_USUAL // 2, LONG * 2, LONG + 1])
def test_no_short_blob_has_pieces_of_any_length(length: int) -> None:
    with pytest.raises(ProtocolError, match="divided"):
        structs.replace(SMALL_JOIN, piece_length=length)
    with pytest.raises(ProtocolError, match="divided"):
        structs.replace(SMALL_JOIN, size_bytes=MIB, piece_length=MIB // 2)


HOSTS = ("a", "b", "c", "older", "old")
FEATURES: dict[str, tuple[str, ...]] = {"older": (PIECE_LENGTH,), "old": ()}


class Step(Enum):
    HOLDS_ALL = auto()
    HOLDS_A_PART = auto()
    WANTS = auto()
    LEAVES = auto()
    HAS_ALL = auto()
    TELLS_DIGESTS = auto()
    CONNECTS_ANEW = auto()


@pytest.mark.parametrize(("size_bytes", "usual", "other"), [(SIZE, USUAL, SHORT), (SMALL_SIZE, SMALL_USUAL, LONG)])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(HOSTS), st.sampled_from(Step), st.integers(0, 2), st.booleans()), max_size=20
    )
)
def test_all_who_want_a_blob_have_divided_it_alike(
    size_bytes: int, usual: int, other: int, steps: list[tuple[str, Step, int, bool]]
) -> None:
    """Whatever is said, in any order. Nobody is told of pieces that it does not know, or has not."""
    cluster = Cluster(LARGE, "a", "b", "c")
    there, wants = {"a", "b", "c"}, dict[str, int]()
    for host, step, number, is_beside in steps:
        if step is Step.CONNECTS_ANEW or host not in there:
            if host in there:
                cluster.vanishes(host)
            cluster.connect(host, *FEATURES.get(host, (PIECE_LENGTH, LONG_PIECES)))
            there.add(host)
            continue
        knows_other = host != "old" and (host != "older" or other < usual)
        said = (0, usual, other if knows_other else usual)[number] if host != "old" else 0
        match step:
            case Step.HOLDS_ALL | Step.HOLDS_A_PART:
                part = b"\x01" if step is Step.HOLDS_A_PART else b""
                cluster.says(host, Leave(D), holding(said, have=part, size_bytes=size_bytes))
            case Step.WANTS:
                join = structs.replace(
                    JOIN, size_bytes=size_bytes, piece_length=said, beside_bytes=is_beside * 2 * size_bytes
                )
                for message in of(Joined, cluster.says(host, join)):
                    wants[host] = message.piece_length or usual
                    assert said in (0, wants[host])
                    assert knows_other or wants[host] == usual
            case Step.LEAVES:
                cluster.says(host, Leave(D))
            case Step.HAS_ALL:
                cluster.says(host, Sealed(D, 1))
            case _:
                cluster.says(host, DigestReport(D, 0, b"p" * DIGEST_BYTES, last=True))
        swarm = cluster.scheduler._state.swarms.get(D)
        wanting = [] if swarm is None else [member.host.id for member in swarm.wanting.items]
        assert len({wants[each] for each in wanting}) <= 1
