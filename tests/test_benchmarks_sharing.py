"""A server's line, shared by streams in virtual time: the rates are the max-min fair ones, and no byte is lost."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.policies.sharing import SharedServer, level
from p2pd.simulation.event_queue import EventQueue

RATE = 1000.0


class Served:
    """A server, and when each transfer of each host ended."""

    def __init__(self, *, streams: int | None = None, site_rate: float | None = None) -> None:
        self.event_queue = EventQueue()
        self.server = SharedServer(self.event_queue, RATE, streams=streams, site_rate=site_rate)
        self.ended: dict[str, float] = {}

    def send(self, host: str, size: float, *, most: float = 10 * RATE, site: str | None = None) -> None:
        self.server.send(host, site, most, size, self._end, host)

    def _end(self, host: str) -> None:
        self.ended[host] = self.event_queue.now

    def play(self) -> dict[str, float]:
        while self.event_queue.next() is not None:
            self.event_queue.step()
        return self.ended


class TestTheLevel:
    @pytest.mark.parametrize(
        ("demands", "expected"),
        [
            ([(10.0, 1)], math.inf),
            ([(100.0, 4)], 25.0),
            ([(10.0, 2), (100.0, 2)], 40.0),
            ([(100.0, 2), (10.0, 2)], 40.0),
            ([(25.0, 4)], math.inf),
            ([], math.inf),
        ],
    )
    def test_by_hand(self, demands: list[tuple[float, int]], expected: float) -> None:
        assert level(100.0, demands) == pytest.approx(expected)

    @given(st.lists(st.tuples(st.floats(0.1, 100.0), st.integers(1, 50)), min_size=1, max_size=8))
    def test_all_of_the_rate_is_used_or_all_have_what_they_could_use(self, demands: list[tuple[float, int]]) -> None:
        most = level(100.0, demands)
        used = sum(min(most, demand) * count for demand, count in demands)
        assert used == pytest.approx(min(100.0, sum(demand * count for demand, count in demands)))


def test_streams_share_evenly() -> None:
    served = Served()
    served.send("a", 500.0)
    served.send("b", 1500.0)
    assert served.play() == {"a": pytest.approx(1.0, abs=0.01), "b": pytest.approx(2.0, abs=0.01)}


def test_a_slow_host_leaves_the_rest_to_the_others() -> None:
    served = Served()
    served.send("slow", 100.0, most=100.0)
    served.send("quick", 900.0)
    assert served.play() == {"slow": pytest.approx(1.0, abs=0.01), "quick": pytest.approx(1.0, abs=0.01)}


def test_a_host_s_transfers_go_one_after_the_other_in_one_share() -> None:
    served = Served()
    for _ in range(3):
        served.send("a", 500.0)
    served.send("b", 1500.0)
    assert served.play() == {"a": pytest.approx(3.0, abs=0.01), "b": pytest.approx(3.0, abs=0.01)}


def test_who_finds_no_connection_waits_for_one() -> None:
    served = Served(streams=2)
    for host in "abcd":
        served.send(host, 500.0)
    expected = {"a": 1.0, "b": 1.0, "c": 2.0, "d": 2.0}
    assert served.play() == {host: pytest.approx(end, abs=0.02) for host, end in expected.items()}


def test_a_site_s_line_holds_its_hosts_back_and_no_others() -> None:
    served = Served(site_rate=200.0)
    for host in "ab":
        served.send(host, 100.0, site="near")
    served.send("c", 800.0)
    expected = {"a": 1.0, "b": 1.0, "c": 1.0}
    assert served.play() == {host: pytest.approx(end, abs=0.02) for host, end in expected.items()}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(2.0, 1e4), st.floats(0.0, 5.0)), min_size=1))
def test_the_line_is_never_idle_and_nothing_is_lost(sent: list[tuple[str, float, float]]) -> None:
    served = Served(streams=3)
    for host, size, at_s in sent:
        served.event_queue.at(at_s, served.send, host, size)
    last = max(served.play().values())
    total = sum(size for _, size, _ in sent)
    assert served.server.sent_bytes == pytest.approx(total)
    assert total / RATE - 0.1 <= last <= max(at_s for _, _, at_s in sent) + total / RATE + 0.1
