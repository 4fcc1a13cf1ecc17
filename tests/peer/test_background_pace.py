"""The pace of what no client waits for, and of a client that comes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from peer.background_pace import BackgroundPace
from peer.origin.clock import SystemClock
from peer.pacing import LOOK_EVERY_S, PACED_BYTES
from peer.peer_piece import Pace


@dataclass
class Waits(SystemClock):
    """Time that passes while somebody waits, and not else."""

    now: float = 0.0
    client_comes_at: float = float("inf")
    waits: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return event.is_set()

    def is_background(self) -> bool:
        return self.now < self.client_comes_at


def paced(clock: Waits, rate: int, *, host_rate: int = 0) -> BackgroundPace:
    pace = BackgroundPace(Pace(host_rate, clock), Pace(rate, clock), clock.is_background)
    pace.clock = clock
    return pace


def test_it_keeps_to_its_rate() -> None:
    clock = Waits()
    pace = paced(clock, PACED_BYTES)
    assert pace.slice_bytes == PACED_BYTES
    for _ in range(5):
        pace.wait(PACED_BYTES, threading.Event())
    assert 3.9 < clock.now < 4.2


def test_a_client_that_comes_is_not_held_up() -> None:
    clock = Waits(client_comes_at=1.0)
    pace = paced(clock, 1000)
    pace.wait(100 * PACED_BYTES, threading.Event())
    assert 1.0 <= clock.now <= 1.0 + 2 * LOOK_EVERY_S
    assert pace.slice_bytes is None
    pace.wait(100 * PACED_BYTES, threading.Event())
    assert clock.now <= 1.0 + 2 * LOOK_EVERY_S


def test_one_that_is_stopped_does_not_wait() -> None:
    clock, stopped = Waits(), threading.Event()
    stopped.set()
    paced(clock, 1000).wait(100 * PACED_BYTES, stopped)
    assert clock.now == 0.0


def test_it_keeps_to_the_host_s_rate_too() -> None:
    clock = Waits()
    pace = paced(clock, 0, host_rate=PACED_BYTES)
    for _ in range(3):
        pace.wait(PACED_BYTES, threading.Event())
    assert 1.9 < clock.now < 2.2


def test_what_has_come_at_these_rates_by_another_way_is_waited_for_by_what_comes_next() -> None:
    clock = Waits()
    pace = paced(clock, PACED_BYTES, host_rate=PACED_BYTES // 2)
    assert 7.9 < pace.owed_s(5 * PACED_BYTES) < 8.2
    assert clock.now == 0.0
    pace.wait(PACED_BYTES, threading.Event())
    assert 9.9 < clock.now < 10.2
