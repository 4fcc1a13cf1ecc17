"""The time of a lease by how long pieces take from its origin: a narrow line is no reason to fetch a piece twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.core.origin_pace import MAX_ORIGINS, MAX_WITNESSES, OriginPace
from scheduler.protocol.from_host import LeasePieces
from tests.scheduler.messages_for_pull import MIB, P0, P1, PIECE, D, one_with_a_lease
from tests.scheduler.playbook import SETTINGS, Passes, Playbook

USUAL_S = 1.0 + 5.5 * PIECE / (4 * MIB)
"""What a lease may take of an origin of which nothing is known."""


def slow(seconds: float) -> Playbook:
    """A piece has come in so many seconds, and host b has the lease of the next one, as a has of the one after it."""
    play = one_with_a_lease(replace(SETTINGS, opening_s=1.0))
    play._expected.clear()
    play._got.clear()
    play._mistakes = 0
    _ = play >> Passes(seconds) >> ("a", LeasePieces(1, D, 0, P0))
    return play


@pytest.mark.parametrize(("first_s", "overdue"), [(0.01, 2), (1.2, 0)])
def test_a_lease_has_the_time_that_pieces_of_its_origin_take(first_s: float, overdue: int) -> None:
    play = slow(first_s)
    _ = play >> Passes(2 * USUAL_S)
    assert play.scheduler.statistics().leases_overdue == overdue


def test_what_others_have_shown_meanwhile_counts() -> None:
    play = slow(0.01)
    _ = play >> Passes(0.9 * USUAL_S) >> ("b", LeasePieces(2, D, 1, P1)) >> Passes(0.9 * USUAL_S)
    assert play.scheduler.statistics().leases_overdue == 0


def test_the_time_has_an_end() -> None:
    play = slow(1.2)
    _ = play >> Passes(2 * SETTINGS.lease_s)
    assert play.scheduler.statistics().leases_overdue > 0


class TestPace:
    def test_nothing_is_known_at_first(self) -> None:
        assert OriginPace().usual_s("docker.io", MIB) == 0

    def test_is_by_the_byte_and_the_origin(self) -> None:
        pace = OriginPace()
        pace.brought("docker.io", "a", MIB, 2.0)
        assert pace.usual_s("docker.io", 4 * MIB) == 8.0
        assert pace.usual_s("quay.io", MIB) == 0

    def test_a_few_that_are_slow_change_nothing(self) -> None:
        pace = OriginPace()
        for number in range(5):
            for _ in range(100 if number < 2 else 1):
                pace.brought("docker.io", f"w{number}", MIB, 60.0 if number < 2 else 1.0)
        assert pace.usual_s("docker.io", MIB) == 1.0

    def test_the_latest_of_one_counts_more_than_those_before(self) -> None:
        pace = OriginPace()
        for took_s in (1.0, *[3.0] * 20):
            pace.brought("docker.io", "a", MIB, took_s)
        assert pace.usual_s("docker.io", MIB) == pytest.approx(3.0, abs=0.01)

    def test_what_is_remembered_is_bounded(self) -> None:
        pace = OriginPace()
        for number in range(2 * MAX_ORIGINS):
            pace.brought(f"r{number}", "a", MIB, 1.0)
        for number in range(2 * MAX_WITNESSES):
            pace.brought("r127", f"w{number}", MIB, 1.0)
        assert len(pace._origins) == MAX_ORIGINS
        assert len(pace._origins["r127"]) == MAX_WITNESSES
