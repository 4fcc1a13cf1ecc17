"""Hosts that connect when a preheat has chosen its hosts, or is over: who is told, when, and what of it shows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from scheduler.core.events import PreheatAdded, PreheatCancelled
from scheduler.core.preheat_hosts import parse_selection
from scheduler.core.preheat_job import Job, JobState, Target, TargetState
from scheduler.core.preheats import MAX_ATTEMPTS, MAX_STANDING, NEWCOMERS_AT_ONCE
from scheduler.protocol.from_host import PREHEAT, PreheatState
from scheduler.protocol.to_host import PreheatEnded, Welcome
from tests.scheduler.playbook import VANISHES, Passes, Playbook, hello
from tests.scheduler.test_preheats import (
    ALL_HELD,
    BY_DIGEST,
    DONE,
    ORDER,
    SECRET,
    TOLD,
    A,
    add,
    come,
    connected,
    job,
    revived,
    states,
)

FAILED = structs.replace(DONE, state=PreheatState.FAILED)


def over(play: Playbook, new: Job, host: str = "a") -> Job:
    """The job is over: this host has everything."""
    add(play, new)
    assert play << (host, TOLD)
    assert play >> (host, ALL_HELD) >> (host, DONE)
    assert new.shown_state is JobState.SUCCEEDED
    return new


def keeps(seconds: float, attempt: int = 1, name: str = "j1") -> object:
    return structs.replace(TOLD, job=name, attempt=attempt, ttl_s=seconds)


def test_a_host_that_joins_is_told_for_as_long_as_the_pins_last() -> None:
    play = connected("a")
    new = over(play, job(play))
    _ = play >> Passes(20.0)
    come(play, "late", keeps(40.0))
    assert play >> ("late", ALL_HELD) >> ("late", DONE)
    assert states(new) == {"a": TargetState.DONE, "late": TargetState.DONE}
    assert (new.shown_state, play.kept[-1]) == (JobState.SUCCEEDED, (JobState.SUCCEEDED, {"late": TargetState.DONE}))
    assert play.scheduler.statistics().preheats == {JobState.SUCCEEDED: 1}, "it has ended once"
    assert play >> Passes(40.0)
    come(play, "later")
    assert play


def test_what_it_makes_of_it_changes_nothing_of_how_the_job_has_ended() -> None:
    play = connected("a")
    new = over(play, job(play))
    come(play, "late", keeps(60.0))
    assert play >> ("late", structs.replace(FAILED, reason="no room"))
    assert (new.shown_state, new.targets["late"].reason) == (JobState.SUCCEEDED, "no room")


def test_a_host_that_joins_while_the_job_runs_is_one_of_its_hosts() -> None:
    play = connected("a")
    new = add(play, job(play))
    _ = play << ("a", TOLD)
    come(play, "late", TOLD)
    _ = play >> ("a", ALL_HELD) >> ("a", DONE)
    assert new.is_open
    assert play >> ("late", ALL_HELD) >> ("late", DONE)
    assert new.shown_state is JobState.SUCCEEDED


@pytest.mark.parametrize("to", ["1", "100%", "1/site", "a"])
def test_numbers_and_named_hosts_do_not_grow(to: str) -> None:
    play = connected("a")
    over(play, job(play, to))
    come(play, "late")
    assert play
    assert play.scheduler.preheat("j1") is None


def test_labels_do() -> None:
    play = Playbook()
    for host, site in (("a", "berlin"), ("b", "paris")):
        _ = play >> (host, hello(host, features=(PREHEAT,), site=site)) << (host, Welcome(1, (PREHEAT,)))
    over(play, job(play, "site=berlin"))
    for host, site, told in (("c", "paris", False), ("d", "berlin", True)):
        _ = play >> (host, hello(host, features=(PREHEAT,), site=site)) << (host, Welcome(1, (PREHEAT,)))
        if told:
            _ = play << (host, keeps(60.0))
        assert play


@pytest.mark.parametrize("order", [replace(ORDER, ttl_s=0.0), replace(ORDER, only_where_used=True)])
def test_what_pins_nothing_or_is_for_those_that_use_it_does_not_grow(order: object) -> None:
    play = connected("a")
    new = job(play)
    new.order = order  # type: ignore[assignment] # one of two
    add(play, new)
    _ = play << ("a", structs.replace(TOLD, ttl_s=new.order.ttl_s, only_where_used=new.order.only_where_used))
    assert play >> ("a", ALL_HELD) >> ("a", DONE)
    come(play, "late")
    assert play


def test_what_no_host_has_is_for_nobody() -> None:
    play = connected("a")
    add(play, job(play))
    _ = play << ("a", TOLD) >> ("a", FAILED)
    come(play, "late")
    assert play


def test_a_host_that_failed_or_was_away_is_told_when_it_comes_back_and_one_that_has_it_is_not() -> None:
    play = connected("a", "b", "c")
    new = add(play, job(play))
    _ = play << ("a", TOLD) << ("b", TOLD) << ("c", TOLD)
    _ = play >> ("a", ALL_HELD) >> ("a", DONE) >> ("b", FAILED) >> ("c", VANISHES) >> Passes(100.0)
    assert new.shown_state is JobState.PARTLY
    for host in "ab":
        _ = play >> (host, VANISHES)
    come(play, "a")
    come(play, "b", keeps(60.0, 2))
    come(play, "c", keeps(60.0, 2))
    assert play


def test_one_that_always_fails_is_not_told_for_ever() -> None:
    play = connected("a")
    over(play, job(play))
    for attempt in range(1, MAX_ATTEMPTS + 1):
        come(play, "bad", keeps(60.0, attempt))
        _ = play >> ("bad", structs.replace(FAILED, attempt=attempt)) >> ("bad", VANISHES)
    come(play, "bad")
    assert play


def test_they_are_told_so_many_at_a_time() -> None:
    play = connected("a")
    new = over(play, job(play))
    for number in range(NEWCOMERS_AT_ONCE):
        come(play, f"n{number}", keeps(60.0))
    for host in ("x", "y", "z"):
        come(play, host)
    assert play
    assert states(new)["x"] is TargetState.WAITING
    assert play >> ("n0", FAILED) << ("x", keeps(60.0))
    assert play >> ("n1", VANISHES) << ("y", keeps(60.0))
    assert play >> ("n2", ALL_HELD) >> ("n2", DONE) << ("z", keeps(60.0))


def test_within_its_hours() -> None:
    play = connected("a")
    new = job(play)
    new.order, new.open_s = replace(ORDER, ttl_s=200_000.0), 3600.0
    add(play, new)
    _ = play << ("a", structs.replace(TOLD, ttl_s=200_000.0))
    _ = play >> ("a", ALL_HELD) >> ("a", DONE)
    come(play, "b", keeps(200_000.0))
    _ = play >> Passes(3600.0) << ("b", PreheatEnded("j1"))
    come(play, "c")
    assert play
    _ = play >> Passes(86_400.0 - 3600.0) << ("b", keeps(113_600.0)) << ("c", keeps(113_600.0))
    assert play


def test_a_private_image_comes_from_other_hosts_without_the_credential() -> None:
    """Where no other host may be told, it fetches as itself."""
    play = Playbook()
    play.certified = True
    come(play, "a")
    new = job(play)
    new.credential = "s3cret"
    add(play, new)
    _ = play << ("a", SECRET)
    _ = play >> ("a", ALL_HELD) >> ("a", structs.replace(DONE, roots=A))
    assert (new.result, new.credential) == (JobState.SUCCEEDED, "")
    come(play, "late", BY_DIGEST)
    play = connected("a")
    new = add(play, replace(job(play), credential="s3cret"))
    _ = play << ("a", SECRET) >> ("a", ALL_HELD) >> ("a", DONE)
    come(play, "late", TOLD)
    assert play


def test_a_cancelled_one_is_for_nobody_and_what_came_of_hosts_stays() -> None:
    play = connected("a")
    new = over(play, job(play))
    come(play, "late", keeps(60.0))
    play.tell(PreheatCancelled("j1"))
    assert play << ("late", PreheatEnded("j1"))
    assert (new.shown_state, new.is_open) == (JobState.CANCELLED, False)
    assert states(new) == {"a": TargetState.DONE, "late": TargetState.CANCELLED}
    come(play, "later")
    assert play


def test_one_that_is_tried_again_stands_again() -> None:
    play = connected("a")
    new = over(play, job(play))
    come(play, "late", keeps(60.0))
    again = replace(revived(new), state=JobState.RUNNING, result=None, pinned_until=0.0, ends_at=play.now + 50.0)
    _ = play >> Passes(10.0)
    play.tell(PreheatAdded(again))
    assert play << ("late", PreheatEnded("j1")) << ("late", TOLD)
    assert play >> ("late", ALL_HELD) >> ("late", DONE)
    come(play, "later", keeps(60.0))
    assert play


def test_after_a_restart_it_stands_and_who_has_it_is_not_told() -> None:
    play = connected("a")
    new = over(play, job(play))
    come(play, "late", keeps(60.0))
    again = Playbook()
    again.now = play.now
    kept = add(again, revived(new))
    come(again, "a")
    come(again, "late", keeps(60.0))
    come(again, "later", keeps(60.0))
    assert again >> ("late", ALL_HELD) >> ("late", DONE) >> Passes(60.0) << ("later", PreheatEnded("j1"))
    assert states(kept) == {"a": TargetState.DONE, "late": TargetState.DONE, "later": TargetState.FAILED}
    assert kept.shown_state is JobState.SUCCEEDED


def standing(play: Playbook, name: str, image: str = "alpine") -> Job:
    order = replace(ORDER, id=name, images=(image,))
    ends = play.now + 60.0
    return Job(
        order,
        parse_selection(("all",)),
        play.now,
        ends,
        targets={"a": Target("a", state=TargetState.DONE)},
        result=JobState.SUCCEEDED,
        pinned_until=ends,
    )


def test_of_those_that_order_the_same_the_last_to_end_stands() -> None:
    play = connected("a")
    for name, image in (("j1", "alpine"), ("j2", "alpine"), ("j3", "busybox")):
        add(play, standing(play, name, image))
    come(play, "late", keeps(60.0, name="j2"), structs.replace(TOLD, job="j3", images=("busybox",)))
    assert play
    assert play.scheduler.preheat("j1") is None


def test_there_is_a_bound_and_the_oldest_goes() -> None:
    play = connected("a")
    for number in range(MAX_STANDING + 1):
        add(play, standing(play, f"j{number}", f"image{number}"))
    assert play
    assert play.scheduler.preheat("j0") is None
    assert play.scheduler.preheat("j1") is not None
    assert play.scheduler.open_preheats == 0, "they leave room for those that are not over"
