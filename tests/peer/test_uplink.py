"""Whether what goes out fills the line, from what has gone out so far."""

from __future__ import annotations

import pytest

from peer.core.uplink import (
    DECAY_PER_S,
    LEAST_S,
    PROBE_INTERVAL_S,
    ROUND_TRIPS,
    SETTLE_MAX_S,
    SETTLE_MIN_S,
    SPARE_FRACTION,
    STALLED_BYTES,
    STALLED_S,
    WINDOW_S,
    Progress,
    Throughput,
)

LINE = 10_000_000.0
"""Bytes per second."""

POLL_INTERVAL_S = 0.05


class Sender:
    """Sends at a rate, and looks as often as a host does."""

    def __init__(self) -> None:
        self.throughput = Throughput()
        self.now = 100.0
        self.total = 0.0

    def begins(self, *, first: bool = True, round_trip_s: float = 0.0) -> Sender:
        self.throughput.begin(int(self.total), self.now, first=first, round_trip_s=round_trip_s)
        return self

    def ends(self) -> Sender:
        """One of several pieces is out."""
        self.throughput.change(int(self.total), self.now)
        return self

    def sends(self, seconds: float, rate: float) -> Sender:
        for _ in range(round(seconds / POLL_INTERVAL_S)):
            self.now = round(self.now + POLL_INTERVAL_S, 6)
            self.total += rate * POLL_INTERVAL_S
            self.throughput.sample(int(self.total), self.now)
        return self

    def has_spare(self) -> bool:
        return self.throughput.has_spare(int(self.total), self.now)


def test_a_line_that_is_full_has_no_room() -> None:
    sender = Sender().begins()
    for _ in range(int(PROBE_INTERVAL_S / POLL_INTERVAL_S) - 1):
        assert not sender.sends(POLL_INTERVAL_S, LINE).has_spare()


def test_one_with_a_slow_receiver_has_room() -> None:
    sender = Sender().begins().sends(1.0, LINE).begins().sends(WINDOW_S, LINE * (1 - SPARE_FRACTION) * 0.9)
    assert sender.has_spare()


def test_one_whose_receiver_takes_nearly_all_has_none() -> None:
    sender = Sender().begins().sends(1.0, LINE).begins().sends(WINDOW_S, LINE * (1 - SPARE_FRACTION) * 1.1)
    assert not sender.has_spare()


def test_another_sender_of_the_same_receiver_leaves_room_within_the_window() -> None:
    sender = Sender().begins().sends(1.0, LINE)
    assert not sender.has_spare()
    assert sender.sends(WINDOW_S, LINE / 2).has_spare()


def test_nothing_is_said_of_a_piece_that_has_just_begun() -> None:
    sender = Sender().begins().sends(1.0, LINE).begins()
    sender.now += SETTLE_MIN_S - 0.001
    assert not sender.has_spare()
    sender.now += 0.002
    assert sender.has_spare(), "nothing of it has gone out"


@pytest.mark.parametrize(
    ("round_trip_s", "settle_s"),
    [(0.02, ROUND_TRIPS * 0.02), (10.0, SETTLE_MAX_S)],
    ids=["far", "nonsense"],
)
def test_nor_of_one_to_a_host_that_is_far_for_some_round_trips(round_trip_s: float, settle_s: float) -> None:
    sender = Sender().begins().sends(1.0, LINE).begins(round_trip_s=round_trip_s)
    sender.now += settle_s - 0.001
    assert not sender.has_spare()
    sender.now += 0.002
    assert sender.has_spare()


def test_not_sooner_because_another_piece_is_out() -> None:
    sender = Sender().begins().sends(1.0, LINE).begins(round_trip_s=0.02).ends()
    sender.now += ROUND_TRIPS * 0.02 - 0.001
    assert not sender.has_spare()


def test_when_a_piece_is_out_only_what_goes_out_from_then_on_says_what_is_unused() -> None:
    sender = Sender().begins().begins(first=False).sends(1.0, LINE).ends()
    sender.now, sender.total = sender.now + SETTLE_MIN_S - 0.001, sender.total + LINE * SETTLE_MIN_S / 2
    assert not sender.has_spare(), "the other has to find its rate"
    sender.now += 0.002
    assert sender.has_spare(), "though most of the time that is measured over it was full"


def test_and_what_remains_may_fill_the_line() -> None:
    sender = Sender().begins().begins(first=False).sends(1.0, LINE).ends()
    assert not sender.sends(WINDOW_S, LINE).has_spare()


def test_a_few_packets_in_a_short_time_are_no_rate() -> None:
    sender = Sender().begins().sends(1.0, LINE)
    sender.now += 2 * LEAST_S
    sender.begins()
    sender.now, sender.total = sender.now + LEAST_S / 2, sender.total + 2 * LEAST_S * LINE
    sender.throughput.sample(int(sender.total), sender.now)
    assert sender.throughput.best == pytest.approx(LINE, rel=0.05)


def test_a_look_that_comes_late_measures_all_the_same() -> None:
    sender = Sender().begins()
    sender.now, sender.total = sender.now + 3 * WINDOW_S, 3 * WINDOW_S * LINE
    sender.throughput.sample(int(sender.total), sender.now)
    assert sender.throughput.best == pytest.approx(LINE, rel=0.01)


def test_before_anything_was_sent() -> None:
    assert not Throughput().has_spare(0, 100.0)


def test_the_highest_rate_fades() -> None:
    sender = Sender().begins().sends(1.0, LINE)
    assert sender.throughput.best == pytest.approx(LINE, rel=0.01)
    sender.sends(1.0, LINE / 10)
    assert sender.throughput.best == pytest.approx(LINE * (1 - DECAY_PER_S), rel=0.03)


def test_a_line_that_has_become_slower_is_full_again_in_the_end() -> None:
    sender = Sender().begins().sends(1.0, LINE)
    for _ in range(20):
        sender.begins().sends(1.0, LINE / 2)
    assert not sender.has_spare()


def test_what_a_line_does_not_carry_while_it_is_idle_does_not_count() -> None:
    sender = Sender().begins().sends(1.0, LINE)
    sender.now += 10.0
    sender.begins().sends(0.1, LINE)
    assert sender.throughput.best == pytest.approx(LINE, rel=0.01)
    assert not sender.has_spare()


def test_pieces_that_take_milliseconds_show_the_rate_together() -> None:
    sender = Sender()
    for _ in range(20):
        sender.begins()
        sender.now, sender.total = sender.now + LEAST_S / 10, sender.total + LINE * LEAST_S / 10
        sender.ends()
    assert sender.throughput.best == pytest.approx(LINE, rel=0.01)


class TestProbing:
    def test_once_in_a_while_one_more_is_let_out(self) -> None:
        sender = Sender().begins().sends(PROBE_INTERVAL_S, LINE)
        assert sender.has_spare()

    def test_there_is_room_until_it_is_taken(self) -> None:
        """Who is told that there is room comes a moment later, and must find it."""
        sender = Sender().begins().sends(PROBE_INTERVAL_S, LINE)
        assert sender.has_spare()
        assert sender.sends(POLL_INTERVAL_S, LINE).has_spare()
        sender.begins(first=False).sends(2 * POLL_INTERVAL_S, LINE)
        assert not sender.has_spare()
        assert sender.sends(PROBE_INTERVAL_S, LINE).has_spare()

    def test_pieces_that_begin_beside_others_do_not_put_it_off(self) -> None:
        sender = Sender().begins()
        for _ in range(5):
            sender.sends(PROBE_INTERVAL_S / 4, LINE).begins(first=False)
        sender.sends(PROBE_INTERVAL_S / 4, LINE)
        assert not sender.has_spare(), "one was let out at the fourth"
        sender.begins(first=False).sends(PROBE_INTERVAL_S / 4, LINE).begins(first=False).sends(
            PROBE_INTERVAL_S / 2, LINE
        )
        assert sender.has_spare()

    def test_one_more_that_brings_more_shows_that_the_line_is_faster(self) -> None:
        """The first receiver that a host ever has is slow: its rate is all that is known of the line."""
        sender = Sender().begins().sends(1.0, LINE / 10)
        assert not sender.has_spare()
        assert sender.sends(PROBE_INTERVAL_S, LINE / 10).has_spare()
        sender.begins(first=False).sends(0.5, 2 * LINE / 10)
        assert not sender.has_spare()
        assert sender.sends(0.5, LINE / 10).has_spare(), "one of the two is out"


class TestWhoIsStalled:
    """Each looks once a second, for a minute."""

    def stalled_after_s(self, rate: float, *, waits: bool = True) -> int | None:
        progress = Progress(0.0)
        for second in range(60):
            if progress.is_stalled(float(second), int(second * rate), waits=waits):
                return second
        return None

    def test_who_takes_nothing_of_what_waits(self) -> None:
        assert self.stalled_after_s(0.0) == STALLED_S + 1

    def test_who_takes_a_byte_now_and_then(self) -> None:
        assert self.stalled_after_s(STALLED_BYTES / STALLED_S / 2) == STALLED_S + 1

    @pytest.mark.parametrize("senders", [1, 6])
    def test_not_a_line_of_1_mbit_that_has_several_senders(self, senders: int) -> None:
        assert self.stalled_after_s(1e6 / 8 / senders) is None

    def test_not_who_has_taken_all_that_it_was_sent(self) -> None:
        assert self.stalled_after_s(0.0, waits=False) is None, "the sender is slow: its disk, or its `upload_rate`"
