"""The hours in which a preheat may run."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.preheat_window import DAY_S, WindowError, parse_window

H = 3600.0


def test_a_window_over_midnight() -> None:
    window = parse_window("22:00-05:30")
    assert [window.opens_in(at * H) for at in (22, 23, 0, 5, 6)] == [0, 0, 0, 0, 16 * H]
    assert [window.closes_in(at * H) for at in (22, 0, 5, 6)] == [7.5 * H, 5.5 * H, 0.5 * H, 0]


def test_a_window_within_a_day() -> None:
    window = parse_window("01:00-02:00")
    assert (window.opens_in(0.0), window.opens_in(1 * H), window.opens_in(2 * H)) == (H, 0, 23 * H)


@given(st.times(), st.times(), st.integers(0, int(DAY_S) - 1))
def test_once_it_has_opened_it_is_open(opens: datetime.time, closes: datetime.time, at: int) -> None:
    text = f"{opens:%H:%M}-{closes:%H:%M}"
    try:
        window = parse_window(text)
    except WindowError:
        assert text[:5] == text[6:]
        return
    waits_s = window.opens_in(at)
    assert 0 <= waits_s < DAY_S
    assert window.closes_in((at + waits_s) % DAY_S) > 0


@pytest.mark.parametrize("text", ["", "22-5", "24:00-01:00", "22:00-22:00", "22:00-05:00 ", "22:60-23:00"])
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(WindowError):
        parse_window(text)
