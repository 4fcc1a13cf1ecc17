"""What an operator sees of the hosts."""

from __future__ import annotations

import math

import pytest

from scheduler.core.rate import RATE_OVER_S, Rate
from scheduler.core.roster import HostFacts, added_up, merged
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.from_host import (
    Announce,
    Fault,
    Holding,
    LeaseEnded,
    LeaseOutcome,
    NeighbourFailed,
    Progress,
    Sealed,
)
from tests.scheduler.messages_for_pull import JOIN, MIB, PIECE, D, one_with_a_lease
from tests.scheduler.playbook import Passes, Playbook, hello

UNLEASED = SchedulerSettings(leases_per_blob=0)


def facts(play: Playbook, host: str = "a") -> HostFacts:
    return next(each for each in play.scheduler.hosts(play.now) if each.id == host)


def test_a_host_as_it_introduced_itself() -> None:
    play = Playbook(settings=UNLEASED)
    _ = play >> ("a", hello("a", site="east", zone="z", rack="r", software="1.2.3")) >> ("a", JOIN) >> Passes(5.0)
    found = facts(play)
    assert (found.address, found.site, found.zone, found.rack, found.version) == ("a:1", "east", "z", "r", "1.2.3")
    assert (found.connected_s, found.certified, found.swarms, found.wants) == (5.0, True, 1, 1)
    assert (found.missed_by, found.last_error) == (0, "")
    _ = play >> ("a", Sealed(D, 1))
    assert (facts(play).swarms, facts(play).wants) == (1, 0)


def test_the_rate_is_what_a_host_that_pulls_has_gained() -> None:
    play = Playbook("a", "b", settings=UNLEASED)
    _ = play >> ("a", JOIN) >> ("b", Announce((Holding(D, MIB, complete=True),)))
    assert facts(play).rate_bytes_per_s == 0
    _ = play >> ("a", Progress(D, 1, b"\x03")) >> ("a", Progress(D, 1, b"\x03"))
    assert facts(play).rate_bytes_per_s == round(2 * PIECE / RATE_OVER_S)
    _ = play >> ("a", Sealed(D, 1))
    assert facts(play).rate_bytes_per_s == round(MIB / RATE_OVER_S)
    assert facts(play, "b").rate_bytes_per_s == 0, "what is held already was not gained"


def test_a_rate_is_forgotten() -> None:
    rate = Rate()
    rate.add(1000, 0.0)
    assert rate.now(RATE_OVER_S) == pytest.approx(1000 / RATE_OVER_S / math.e)
    rate.add(1000, RATE_OVER_S)
    assert rate.now(0.0) == rate.now(RATE_OVER_S) == pytest.approx(1000 / RATE_OVER_S * (1 + 1 / math.e))


def test_a_steady_rate_is_itself() -> None:
    rate = Rate()
    for second in range(200):
        rate.add(1000, float(second))
    assert rate.now(199.5) == pytest.approx(1000, rel=0.06)


def test_the_last_error_of_a_host() -> None:
    play = Playbook("a", "b", settings=UNLEASED)
    _ = play >> ("a", JOIN) >> ("b", JOIN) >> ("b", NeighbourFailed(D, "a", Fault.GONE))
    assert (facts(play).last_error, facts(play).missed_by) == ("b could not reach it", 1)
    play = one_with_a_lease()
    _ = play >> ("a", LeaseEnded(1, D, LeaseOutcome.FAILED, 503))
    assert facts(play).last_error == "no blob from docker.io (status 503)"


HERE = HostFacts("a", "a:1", "east", "z", "r", "1", 5.0, True, 3, 1, 100, 0, "")


def test_a_host_of_several_schedulers_is_told_once() -> None:
    there = HERE._replace(connected_s=9.0, swarms=4, rate_bytes_per_s=11, missed_by=2, last_error="its disk is full")
    both = there._replace(swarms=7, wants=2, rate_bytes_per_s=111)
    other = HERE._replace(id="b")
    assert merged([[HERE], [there, other]]) == [both, other]
    late = there._replace(last_error="gone", error_age_s=5.0)
    assert added_up(late, there).last_error == added_up(there, late).last_error == "its disk is full", "the latest"
