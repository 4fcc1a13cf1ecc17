"""What flows through lines, whoever shares them: never more than a line carries, and nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.simulation.bandwidth import Flow, Line, Lines
from p2pd.simulation.event_queue import EventQueue

RATE = 1000.0


class Pipes:
    """Lines and a timeline, with when each transfer ended."""

    def __init__(self, *rates: float) -> None:
        self.event_queue = EventQueue()
        self.lines = Lines(self.event_queue)
        self.pipes = [Line(rate) for rate in rates]
        self.ended: dict[int, float] = {}

    def send(self, number: int, size: float, *through: int) -> Flow:
        return self.lines.send(size, tuple(self.pipes[index] for index in through), self._end, number)

    def _end(self, number: int) -> None:
        self.ended[number] = self.event_queue.now

    def run(self) -> None:
        while self.event_queue.next() is not None:
            self.event_queue.step()
            for line in self.pipes:
                assert line.used == pytest.approx(sum(flow.rate for flow in line.flows), abs=1e-3)
                assert line.used <= line.rate * (1 + 1e-9) + 1e-3
                assert all(flow.rate > 0 for flow in line.flows)


def test_one_transfer_has_what_its_narrowest_line_carries() -> None:
    pipes = Pipes(RATE, RATE / 4, RATE / 2)
    pipes.send(0, 500.0, 0, 1, 2)
    pipes.run()
    assert pipes.ended[0] == pytest.approx(2.0)


def test_equals_share_evenly_and_who_is_left_has_all() -> None:
    pipes = Pipes(RATE)
    pipes.send(0, 500.0, 0)
    pipes.send(1, 1500.0, 0)
    pipes.run()
    assert pipes.ended == {0: pytest.approx(1.0, abs=0.01), 1: pytest.approx(2.0, abs=0.01)}


def test_what_a_slow_receiver_cannot_take_is_for_the_others() -> None:
    pipes = Pipes(RATE, RATE / 10, RATE)
    pipes.send(0, 100.0, 0, 1)
    pipes.send(1, 900.0, 0, 2)
    pipes.run()
    assert pipes.ended == {0: pytest.approx(1.0, abs=0.01), 1: pytest.approx(1.0, abs=0.01)}


def test_what_is_stopped_tells_how_much_has_passed_and_makes_room() -> None:
    pipes = Pipes(RATE)
    stopped = pipes.send(0, 10_000.0, 0)
    pipes.send(1, 1000.0, 0)
    pipes.event_queue.at(1.0, lambda: passed.append(pipes.lines.stop(stopped)))
    passed: list[float] = []
    pipes.run()
    assert passed == [pytest.approx(500.0, abs=5)]
    assert pipes.ended == {1: pytest.approx(1.5, abs=0.01)}
    assert pipes.pipes[0].carried == pytest.approx(1500.0, abs=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(2.0, 1e4), min_size=1, max_size=30))
def test_a_line_that_all_share_is_never_idle(sizes: list[float]) -> None:
    pipes = Pipes(RATE)
    for number, size in enumerate(sizes):
        pipes.send(number, size, 0)
    pipes.run()
    # What is below a byte, or a byte per second, is not worth an event.
    assert max(pipes.ended.values()) == pytest.approx(sum(sizes) / RATE, rel=0.01, abs=0.05)


@dataclass(frozen=True, slots=True)
class Sending:
    """A transfer that begins at a time, through lines."""

    at_s: float
    size: float
    through: tuple[int, ...]


COUNT = 6
sendings = st.builds(
    Sending,
    st.floats(0, 20.0),
    st.floats(2.0, 1e4),
    st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=4, unique=True).map(tuple),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(10.0, 1e4), min_size=COUNT, max_size=COUNT),
    st.lists(sendings, min_size=1, max_size=25),
)
def test_whatever_is_sent_arrives_at_no_more_than_the_rate_of_each_line(
    rates: list[float], sent: list[Sending]
) -> None:
    pipes = Pipes(*rates)
    for number, sending in enumerate(sent):
        pipes.event_queue.at(sending.at_s, pipes.send, number, sending.size, *sending.through)
    pipes.run()
    assert set(pipes.ended) == set(range(len(sent)))
    for index, line in enumerate(pipes.pipes):
        through = [sending for sending in sent if index in sending.through]
        assert line.carried == pytest.approx(sum(sending.size for sending in through), rel=1e-6)
        assert line.flows == []
        assert line.used == pytest.approx(0.0, abs=1e-3)
    for number, sending in enumerate(sent):
        least_s = (sending.size - 1) / min(rates[index] for index in sending.through)
        assert pipes.ended[number] >= sending.at_s + least_s - 1e-9
