"""The token bucket: who waits as told gets no more than the rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.core.token_bucket import TokenBucket


def test_the_burst_is_free_and_the_rest_is_paid_for() -> None:
    bucket = TokenBucket(rate_bytes_per_s=100, burst_bytes=50)
    assert bucket.take(50, now=0.0) == 0.0
    assert bucket.take(100, now=0.0) == 1.0
    assert bucket.take(0, now=1.0) == 0.0


def test_no_more_than_the_burst_gathers() -> None:
    bucket = TokenBucket(rate_bytes_per_s=100, burst_bytes=50)
    bucket.take(50, now=0.0)
    assert bucket.take(150, now=1000.0) == 1.0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(rate_bytes_per_s=100, burst_bytes=0)
    assert bucket.take(100, now=10.0) == 1.0
    assert bucket.take(0, now=9.0) == 1.0


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, -1)])
def test_a_bucket_that_makes_no_sense_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="rate is above zero"):
        TokenBucket(rate, burst)


@given(
    rate=st.floats(1.0, 1e9),
    burst=st.floats(0.0, 1e6),
    steps=st.lists(st.tuples(st.integers(0, 1_000_000), st.floats(0.0, 10.0)), max_size=50),
)
def test_one_taker_that_waits_never_exceeds_the_rate(rate: float, burst: float, steps: list[tuple[int, float]]) -> None:
    bucket = TokenBucket(rate, burst)
    now, taken = 0.0, 0
    for amount, idle_s in steps:
        now += idle_s
        wait_s = bucket.take(amount, now)
        assert wait_s >= 0.0
        now += wait_s
        taken += amount
        assert taken <= burst + rate * now + 1e-6 * (1 + taken + rate * now)


@given(st.lists(st.tuples(st.integers(1, 1_000_000), st.floats(0.0, 10.0)), min_size=1, max_size=50))
def test_a_taker_never_waits_longer_than_all_that_was_taken_takes(steps: list[tuple[int, float]]) -> None:
    bucket = TokenBucket(1000.0, 500.0)
    now, taken = 0.0, 0
    for amount, idle_s in steps:
        now += idle_s
        taken += amount
        assert bucket.take(amount, now) <= taken / 1000.0 + 1e-9
