"""Who makes room: the oldest that are not in use, no more of them than needed, and none in vain."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peer.core.eviction import Candidate, Quota, expired, to_evict

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


def test_the_oldest_go_first_and_no_more_than_needed() -> None:
    blobs = [_blob("new", 3.0), _blob("old", 1.0), _blob("middle", 2.0)]
    quota = Quota(max_bytes=30, min_free_bytes=0, ttl_s=0)
    chosen = [
        to_evict(blobs, quota, used_bytes=30, free_bytes=PLENTY, wanted_bytes=wanted) for wanted in (0, 1, 11, 30)
    ]
    assert chosen == [[], ["old"], ["old", "middle"], ["old", "middle", "new"]]


def test_what_is_in_use_stays_and_may_make_it_impossible() -> None:
    blobs = [_blob("old", 1.0, in_use=True), _blob("new", 2.0)]
    quota = Quota(max_bytes=20, min_free_bytes=0, ttl_s=0)
    assert to_evict(blobs, quota, used_bytes=20, free_bytes=PLENTY, wanted_bytes=10) == ["new"]
    assert to_evict(blobs, quota, used_bytes=20, free_bytes=PLENTY, wanted_bytes=11) is None


def test_the_disk_counts_as_much_as_the_quota() -> None:
    quota = Quota(max_bytes=PLENTY, min_free_bytes=100, ttl_s=0)
    blobs = [_blob("a", 1.0), _blob("b", 2.0)]
    assert to_evict(blobs, quota, used_bytes=20, free_bytes=110, wanted_bytes=10) == []
    assert to_evict(blobs, quota, used_bytes=20, free_bytes=109, wanted_bytes=10) == ["a"]
    assert to_evict(blobs, quota, used_bytes=20, free_bytes=90, wanted_bytes=11) is None


@given(CANDIDATES, st.integers(0, 600), st.integers(0, 600), st.integers(0, 600), st.integers(0, 300))
def test_any_choice_is_enough_necessary_and_oldest_first(
    blobs: list[Candidate], max_bytes: int, min_free_bytes: int, free_bytes: int, wanted_bytes: int
) -> None:
    quota = Quota(max_bytes, min_free_bytes, ttl_s=0)
    used_bytes = sum(blob.size_bytes for blob in blobs)
    sizes = {blob.digest: blob.size_bytes for blob in blobs}

    def fits(gone: list[str]) -> bool:
        freed = sum(sizes[digest] for digest in gone)
        return used_bytes - freed + wanted_bytes <= max_bytes and free_bytes + freed - wanted_bytes >= min_free_bytes

    loose = [blob.digest for blob in sorted(blobs, key=lambda blob: blob.last_used) if not blob.in_use]
    chosen = to_evict(blobs, quota, used_bytes=used_bytes, free_bytes=free_bytes, wanted_bytes=wanted_bytes)
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
