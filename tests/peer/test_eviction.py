"""Who makes room: the oldest that are not in use, no more of them than needed, and none in vain."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peer.core.eviction import COLD_S, Bounds, Candidate, Choice, DiskShare, Quota, Room, Wanted, expired, to_evict

PLENTY = 1 << 40

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        digest=st.uuids().map(str),
        size_bytes=st.integers(0, 100),
        last_used=st.integers(0, 10).map(float),
        in_use=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda candidate: candidate.digest,
)


def _blob(digest: str, last_used: float, *, size_bytes: int = 10, in_use: bool = False) -> Candidate:
    return Candidate(digest, size_bytes, last_used, in_use)


def evict(
    blobs: list[Candidate], bounds: Bounds, *, used_bytes: int, free_bytes: int, wanted_bytes: int
) -> list[str] | None:
    """What goes for a new blob of `wanted_bytes` on a large disk; None if all of it would not do."""
    room = Room(free_bytes, 2 * PLENTY)
    choice = to_evict(blobs, bounds, room, Wanted(wanted_bytes), used_bytes=used_bytes, now=0.0)
    return list(choice.digests) if choice.is_enough else None


def test_the_oldest_go_first_and_no_more_than_needed() -> None:
    blobs = [_blob("new", 3.0), _blob("old", 1.0), _blob("middle", 2.0)]
    bounds = Bounds(30, 0)
    chosen = [evict(blobs, bounds, used_bytes=30, free_bytes=PLENTY, wanted_bytes=wanted) for wanted in (0, 1, 11, 30)]
    assert chosen == [[], ["old"], ["old", "middle"], ["old", "middle", "new"]]


def test_what_is_in_use_stays_and_may_make_it_impossible() -> None:
    blobs = [_blob("old", 1.0, in_use=True), _blob("new", 2.0)]
    bounds = Bounds(20, 0)
    assert evict(blobs, bounds, used_bytes=20, free_bytes=PLENTY, wanted_bytes=10) == ["new"]
    assert evict(blobs, bounds, used_bytes=20, free_bytes=PLENTY, wanted_bytes=11) is None


def test_the_disk_counts_as_much_as_the_quota() -> None:
    bounds = Bounds(PLENTY, 100)
    blobs = [_blob("a", 1.0), _blob("b", 2.0)]
    assert evict(blobs, bounds, used_bytes=20, free_bytes=110, wanted_bytes=10) == []
    assert evict(blobs, bounds, used_bytes=20, free_bytes=109, wanted_bytes=10) == ["a"]
    assert evict(blobs, bounds, used_bytes=20, free_bytes=90, wanted_bytes=11) is None


def test_where_all_would_not_do_it_goes_as_far_as_it_gets() -> None:
    bounds = Bounds(PLENTY, 100)
    blobs = [_blob("old", 1.0, in_use=True), _blob("middle", 2.0), _blob("new", 3.0)]
    choice = to_evict(blobs, bounds, Room(50, 1000), Wanted(), used_bytes=30, now=0.0)
    assert choice == Choice(("middle", "new"), is_enough=False)


def test_what_no_disk_of_this_size_can_have_free_costs_no_blob() -> None:
    bounds = Bounds(PLENTY, 1001)
    choice = to_evict([_blob("a", 1.0)], bounds, Room(900, 1000), Wanted(), used_bytes=10, now=0.0)
    assert choice == Choice((), is_enough=True)
    assert evict([_blob("a", 1.0)], Bounds(PLENTY, 4 * PLENTY), used_bytes=10, free_bytes=900, wanted_bytes=1) is None


def test_inodes_are_room_as_bytes_are() -> None:
    bounds = Bounds(PLENTY, 0)
    blobs = [_blob(name, float(index)) for index, name in enumerate("abc")]

    def gone(free_inodes: int, wanted: Wanted) -> Choice:
        room = Room(PLENTY, 2 * PLENTY, free_inodes, total_inodes=500)  # ten are spared
        return to_evict(blobs, bounds, room, wanted, used_bytes=30, now=0.0)

    assert gone(13, Wanted(1)) == Choice((), is_enough=True)
    assert gone(12, Wanted(1)) == Choice(("a",), is_enough=True)
    assert gone(10, Wanted(1)) == Choice(("a", "b"), is_enough=True)
    assert gone(0, Wanted(1)) == Choice(("a", "b", "c"), is_enough=False)
    assert gone(9, Wanted()) == Choice(("a",), is_enough=True)
    uncounted = Room(PLENTY, 2 * PLENTY, 0, total_inodes=0)
    assert to_evict(blobs, bounds, uncounted, Wanted(1), used_bytes=30, now=0.0).digests == ()


def test_what_is_fetched_ahead_takes_no_room_of_what_clients_use() -> None:
    bounds = Bounds(40, 0)
    blobs = [
        _blob("cold", 0.0),
        _blob("warm", COLD_S),
        Candidate("ahead", 10, COLD_S - 1, in_use=False, is_ahead=True),
        _blob("hot", COLD_S + 1),
    ]

    def gone(size_bytes: int, *, background: bool) -> Choice:
        wanted = Wanted(size_bytes, background)
        return to_evict(blobs, bounds, Room(PLENTY, 2 * PLENTY), wanted, used_bytes=40, now=COLD_S + 1)

    assert gone(10, background=True) == Choice(("cold",), is_enough=True)
    assert not gone(11, background=True).is_enough
    assert gone(40, background=False) == Choice(("cold", "warm", "hot", "ahead"), is_enough=True)


@given(CANDIDATES, st.integers(0, 600), st.integers(0, 600), st.integers(0, 600), st.integers(0, 300))
def test_any_choice_is_enough_necessary_and_oldest_first(
    blobs: list[Candidate], max_bytes: int, min_free_bytes: int, free_bytes: int, wanted_bytes: int
) -> None:
    bounds = Bounds(max_bytes, min_free_bytes)
    used_bytes = sum(blob.size_bytes for blob in blobs)
    sizes = {blob.digest: blob.size_bytes for blob in blobs}

    def fits(gone: list[str]) -> bool:
        freed = sum(sizes[digest] for digest in gone)
        return used_bytes - freed + wanted_bytes <= max_bytes and free_bytes + freed - wanted_bytes >= min_free_bytes

    loose = [blob.digest for blob in sorted(blobs, key=lambda blob: blob.last_used) if not blob.in_use]
    chosen = evict(blobs, bounds, used_bytes=used_bytes, free_bytes=free_bytes, wanted_bytes=wanted_bytes)
    if chosen is None:
        assert not fits(loose)
    else:
        assert chosen == loose[: len(chosen)]
        assert fits(chosen)
        assert not chosen or not fits(chosen[:-1])


def test_what_nobody_used_for_the_ttl_expires() -> None:
    quota = Quota(max_bytes=PLENTY, min_free_bytes=0, ttl_s=60)
    blobs = [_blob("stale", 39.0), _blob("busy", 39.0, in_use=True), _blob("at the limit", 40.0), _blob("fresh", 99.0)]
    assert expired(blobs, quota, now=100.0) == ["stale"]


def test_without_a_ttl_nothing_expires() -> None:
    assert expired([_blob("stale", 0.0)], Quota(PLENTY, 0, ttl_s=0), now=1e12) == []


def test_a_part_of_the_disk_is_worked_out_anew() -> None:
    quota = Quota(DiskShare(50), DiskShare(20), ttl_s=0)
    assert quota.on(Room(900, 1000), 0) == Bounds(500, 200)
    assert quota.on(Room(1, 4000), 300) == Bounds(2000, 800)


@given(total=st.integers(1, 10**6), others=st.floats(0, 1), used=st.floats(0, 1), wanted=st.integers(1, 10**6))
def test_a_share_that_yields_leaves_room_on_any_disk_and_never_more_than_half_of_it_to_others(
    total: int, others: float, used: float, wanted: int
) -> None:
    """However full the disk is with what others have, a blob fits that is no larger than half of the rest."""
    left = int(total * (1 - others))
    used_bytes = int(left * used)
    room = Room(left - used_bytes, total)
    bounds = Quota(total, DiskShare(20, yields=True), ttl_s=0).on(room, used_bytes)
    assert bounds.min_free_bytes == min(total // 5, left // 2)
    choice = to_evict(
        [_blob("a", 1.0, size_bytes=used_bytes)], bounds, room, Wanted(wanted), used_bytes=used_bytes, now=0
    )
    assert choice.is_enough == (wanted <= left - bounds.min_free_bytes)
