"""Rendezvous hashing: what one scheduler leaves, or takes, moves, and nothing else does."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.protocol.rendezvous import owner_of, ranked

IDS = st.lists(st.from_regex(r"[0-9a-f]{16}", fullmatch=True), min_size=2, max_size=8, unique=True)
KEYS = [hashlib.sha256(bytes([each])).digest() for each in range(64)]


@given(IDS, st.data())
def test_only_the_blobs_of_a_scheduler_that_goes_move(ids: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(ids))
    left = [each for each in ids if each != gone]
    for key in KEYS:
        before, after = owner_of(key, ids), owner_of(key, left)
        assert after == before or before == gone
        assert after == ranked(key, ids)[1 if before == gone else 0]


@given(IDS)
def test_the_order_in_which_the_schedulers_are_known_does_not_matter(ids: list[str]) -> None:
    backwards = list(reversed(ids))
    assert all(owner_of(key, ids) == owner_of(key, backwards) for key in KEYS)
    assert all(ranked(key, ids)[0] == owner_of(key, ids) for key in KEYS)


def test_each_scheduler_has_about_its_share() -> None:
    ids = ["0123456789abcdef", "fedcba9876543210", "0000000000000001"]
    keys = [hashlib.sha256(str(each).encode()).digest() for each in range(3000)]
    for each in ids:
        assert 900 < sum(owner_of(key, ids) == each for key in keys) < 1100


def test_the_owner_is_the_same_in_each_version() -> None:
    """Hosts and schedulers of several versions must agree."""
    ids = ["http://a:65003", "http://b:65003", "http://c:65003"]
    assert "".join(owner_of(key, ids)[7] for key in KEYS[:8]) == "cbbbcbac"


def test_nobody_owns_a_blob_where_there_is_no_scheduler() -> None:
    with pytest.raises(ValueError, match="empty"):
        owner_of(KEYS[0], [])
