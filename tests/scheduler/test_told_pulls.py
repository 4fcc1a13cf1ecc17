"""Hosts tell of pulls: who is asked to, what is handed on, and how much of it."""

from __future__ import annotations

from dataclasses import replace

from scheduler.core.told_pulls import HOUR_S, PULLS_PER_HOUR
from scheduler.protocol.from_host import PULLS, Pulled
from scheduler.protocol.to_host import Welcome
from tests.scheduler.playbook import SETTINGS, Passes, Playbook, hello

PULLED = Pulled("reg.test", "team/app", "v1", b"a" * 32, 10, 4)
KEEPS = replace(SETTINGS, hears_pulls=True)


def test_a_scheduler_without_a_history_asks_for_no_pulls_and_keeps_none() -> None:
    play = Playbook()
    _ = play >> ("a", hello("a", features=(PULLS,))) << ("a", Welcome(1)) >> ("a", PULLED)
    assert play
    assert play.pulls == []


def test_a_pull_is_of_the_site_of_its_host() -> None:
    play = Playbook(settings=KEEPS)
    assert play >> ("a", hello("a", features=(PULLS,), site="east")) << ("a", Welcome(1, (PULLS,))) >> ("a", PULLED)
    assert [(each.host, each.site, each.pulled) for each in play.pulls] == [("a", "east", PULLED)]


def test_a_host_is_heard_a_bounded_number_of_times_in_an_hour() -> None:
    play = Playbook("a", settings=KEEPS)
    for _ in range(PULLS_PER_HOUR + 5):
        _ = play >> ("a", PULLED)
    assert len(play.pulls) == PULLS_PER_HOUR
    assert play >> Passes(HOUR_S) >> ("a", PULLED)
    assert len(play.pulls) == PULLS_PER_HOUR + 1
