"""Conversations about preheats, and whatever may happen to one, in any order."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import structs

from scheduler.core.events import (
    Connected,
    Disconnected,
    Event,
    PreheatAdded,
    PreheatCancelled,
    PreheatChanged,
    Received,
    Send,
    Tick,
)
from scheduler.core.preheat_hosts import parse_selection
from scheduler.core.preheat_job import Job, JobState, Order, TargetState
from scheduler.core.preheats import AWAY, LATE
from scheduler.core.scheduler import Scheduler
from scheduler.protocol.from_host import (
    PREHEAT,
    PREHEAT_BOUND,
    Announce,
    Bye,
    Holding,
    PreheatReport,
    PreheatState,
)
from scheduler.protocol.to_host import Preheat, PreheatEnded, Welcome
from tests.scheduler.playbook import SETTINGS, VANISHES, Passes, Playbook, hello

A, B = b"a" * 32, b"b" * 32
ORDER = Order("j1", ("alpine",), ("linux/arm64",), 1000, 60.0)
TOLD = Preheat("j1", 1, ("alpine",), ("linux/arm64",), 1000, 60.0)
DONE = PreheatReport("j1", 1, PreheatState.DONE, 10, 10, digests=A + B)
ALL_HELD = Announce((Holding(A, 5, complete=True), Holding(B, 5, complete=True)))


def job(play: Playbook, *to: str, within_s: float = 100.0, in_s: float = 0.0) -> Job:
    return Job(ORDER, parse_selection(to or ("all",)), play.now + in_s, play.now + in_s + within_s)


def connected(*hosts: str) -> Playbook:
    play = Playbook()
    for host in hosts:
        come(play, host)
    return play


def come(play: Playbook, host: str, *messages: object) -> None:
    """A host that takes preheats connects, and is told these."""
    _ = play >> (host, hello(host, features=(PREHEAT,))) << (host, Welcome(1, (PREHEAT,)))
    for message in messages:
        _ = play << (host, message)


def test_an_order_with_a_bound_is_for_hosts_that_keep_to_it() -> None:
    play = connected("old")
    features = (PREHEAT, PREHEAT_BOUND)
    _ = play >> ("new", hello("new", features=features)) << ("new", Welcome(1, features))
    bounded = job(play, "new", "old")
    bounded.order = replace(ORDER, most_bytes=7)
    add(play, bounded)
    assert play << ("new", structs.replace(TOLD, most_bytes=7))
    assert bounded.targets["old"].state is TargetState.UNSUPPORTED


def add(play: Playbook, new: Job) -> Job:
    play.tell(PreheatAdded(new))
    return new


def states(of: Job) -> dict[str, TargetState]:
    return {host: target.state for host, target in of.targets.items()}


def test_hosts_are_told_and_report() -> None:
    play = connected("a", "b")
    new = add(play, job(play))
    _ = play << ("a", TOLD) << ("b", TOLD)
    assert play.kept == [(JobState.RUNNING, {"a": TargetState.TOLD, "b": TargetState.TOLD})], "read when all is done"
    _ = play >> ("a", PreheatReport("j1", 1, PreheatState.RUNNING, 10, 4)) >> ("a", ALL_HELD) >> ("a", DONE)
    assert states(new) == {"a": TargetState.DONE, "b": TargetState.TOLD}
    _ = play >> ("b", ALL_HELD) >> ("b", DONE)
    assert play
    assert (new.shown_state, new.targets["b"].confirmed) == (JobState.SUCCEEDED, True)
    assert play.kept[1:] == [
        (JobState.RUNNING, {"a": TargetState.DONE}),
        (JobState.SUCCEEDED, {"b": TargetState.DONE}),
    ]
    assert play.scheduler.preheat("j1") is new, "hosts that join are told while the pins last"
    assert play >> Passes(60.0)
    assert play.scheduler.preheat("j1") is None


def test_a_host_that_claims_what_it_has_not_announced_has_failed() -> None:
    play = connected("a")
    new = add(play, job(play))
    _ = play << ("a", TOLD)
    _ = play >> ("a", Announce((Holding(A, 5, complete=True),))) >> ("a", DONE)
    assert states(new) == {"a": TargetState.CONFIRMING}
    assert play >> Passes(30.0)
    assert new.shown_state is JobState.FAILED
    assert new.targets["a"].reason == "it says that it holds 2 blobs, and has announced 1 of them"


def test_part_of_a_blob_is_not_the_blob() -> None:
    play = connected("a")
    new = add(play, job(play))
    _ = play << ("a", TOLD)
    _ = play >> ("a", Announce((Holding(A, 5, complete=True), Holding(B, 5 << 20, complete=False, have=b"\1"))))
    assert play >> ("a", DONE) >> Passes(30.0)
    assert new.shown_state is JobState.FAILED


def test_a_host_that_says_nothing_of_what_it_holds_is_not_believed() -> None:
    play = connected("a")
    new = add(play, job(play))
    _ = play << ("a", TOLD)
    assert play >> ("a", structs.replace(DONE, digests=b"")) >> Passes(30.0)
    assert new.shown_state is JobState.FAILED


def test_an_announcement_that_comes_after_the_report_counts() -> None:
    play = connected("a")
    new = add(play, job(play))
    _ = play << ("a", TOLD)
    assert play >> ("a", DONE) >> Passes(1.0) >> ("a", ALL_HELD) >> Passes(2.0)
    assert new.shown_state is JobState.SUCCEEDED


def test_a_host_with_a_certificate_may_not_call_what_it_holds_private() -> None:
    for certified, state in ((True, JobState.FAILED), (False, JobState.SUCCEEDED)):
        play = Playbook()
        play.certified, play.seen_at = certified, "10.0.0.1"
        _ = play >> ("a", hello("a", features=(PREHEAT,)))
        _ = play << ("a", Welcome(1, (PREHEAT,), seen_at="10.0.0.1"))
        new = add(play, job(play))
        _ = play << ("a", TOLD)
        assert play >> ("a", structs.replace(DONE, private=True)) >> Passes(30.0)
        assert new.shown_state is state
        assert not new.targets["a"].confirmed


@pytest.mark.parametrize(("elsewhere", "state"), [(True, JobState.SUCCEEDED), (False, JobState.FAILED)])
def test_blobs_that_are_announced_to_other_schedulers_are_not_looked_for_here(elsewhere: bool, state: JobState) -> None:
    play = connected("a")
    new = add(play, job(play))
    _ = play << ("a", TOLD)
    assert play >> ("a", structs.replace(DONE, digests=b"", elsewhere=elsewhere)) >> Passes(30.0)
    assert new.shown_state is state
    assert not new.targets["a"].confirmed


def test_those_that_are_here_still_are() -> None:
    play = connected("a")
    new = add(play, job(play))
    _ = play << ("a", TOLD)
    assert play >> ("a", structs.replace(DONE, elsewhere=True)) >> Passes(30.0)
    assert new.shown_state is JobState.FAILED


def test_a_host_of_the_version_before_is_not_asked() -> None:
    play = Playbook("old")
    come(play, "new")
    new = add(play, job(play))
    _ = play << ("new", TOLD)
    assert play >> ("new", ALL_HELD) >> ("new", DONE)
    assert states(new) == {"old": TargetState.UNSUPPORTED, "new": TargetState.DONE}
    assert new.shown_state is JobState.PARTLY


def test_a_host_that_was_away_is_told_when_it_comes() -> None:
    play = connected()
    new = add(play, job(play, "a,b"))
    assert states(new) == {"a": TargetState.WAITING, "b": TargetState.WAITING}
    come(play, "a", TOLD)
    _ = play >> ("a", VANISHES)
    assert states(new)["a"] is TargetState.WAITING
    come(play, "a", TOLD)
    assert play >> ("a", ALL_HELD) >> ("a", DONE) >> Passes(200.0)
    assert (new.shown_state, new.targets["b"].reason) == (JobState.PARTLY, AWAY)


def test_a_host_that_is_not_done_in_time_is_told_to_stop() -> None:
    play = connected("a")
    new = add(play, job(play))
    _ = play << ("a", TOLD)
    _ = play >> Passes(100.0) << ("a", PreheatEnded("j1"))
    assert play >> ("a", DONE)  # too late
    assert (new.shown_state, new.targets["a"].reason) == (JobState.FAILED, LATE)


def test_a_job_is_cancelled() -> None:
    play = connected("a")
    new = add(play, job(play, "a,b"))
    _ = play << ("a", TOLD)
    play.tell(PreheatCancelled("j1"))
    assert play << ("a", PreheatEnded("j1"))
    assert new.shown_state is JobState.CANCELLED
    assert play.scheduler.statistics().preheats == {JobState.CANCELLED: 1}
    assert set(states(new).values()) == {TargetState.CANCELLED}
    play.tell(PreheatCancelled("j1"))
    assert play


def test_a_job_begins_when_it_is_to() -> None:
    play = connected("a")
    new = add(play, job(play, in_s=50.0))
    assert play >> Passes(49.0)
    assert new.shown_state is JobState.PENDING
    assert play >> Passes(1.0) << ("a", TOLD)


def test_the_hosts_are_not_chosen_before_they_can_have_connected() -> None:
    play = Playbook(settings=replace(SETTINGS, settle_s=2.0))
    new = add(play, job(play))
    assert new.shown_state is JobState.PENDING
    come(play, "a")
    assert play >> Passes(2.0) << ("a", TOLD)


def test_a_job_for_nobody_fails() -> None:
    play = connected("a")
    new = add(play, job(play, "site=nowhere"))
    assert (new.shown_state, new.reason) == (JobState.FAILED, "no host that is connected is selected")


def test_a_report_of_another_attempt_or_job_or_host_is_dropped() -> None:
    play = connected("a", "b")
    new = add(play, job(play, "a"))
    _ = play << ("a", TOLD)
    _ = (
        play
        >> ("b", ALL_HELD)
        >> ("b", DONE)
        >> ("a", structs.replace(DONE, attempt=2))
        >> ("a", structs.replace(DONE, job="j2"))
    )
    assert play
    assert states(new) == {"a": TargetState.TOLD}


def test_after_a_restart_the_rest_is_told_again() -> None:
    play = connected("a", "b")
    new = add(play, job(play, "a,b"))
    _ = play << ("a", TOLD) << ("b", TOLD) >> ("a", ALL_HELD) >> ("a", DONE)
    again = Playbook()
    again.now = play.now
    kept = add(again, revived(new))
    assert states(kept) == {"a": TargetState.DONE, "b": TargetState.WAITING}
    come(again, "a")
    come(again, "b", TOLD)
    assert again >> ("b", ALL_HELD) >> ("b", DONE)
    assert kept.shown_state is JobState.SUCCEEDED


def test_a_job_whose_end_was_not_kept_ends_at_once() -> None:
    play = connected("a")
    new = add(play, job(play))
    _ = play << ("a", TOLD) >> ("a", ALL_HELD) >> ("a", DONE)
    assert new.shown_state is JobState.SUCCEEDED
    again = Playbook()
    kept = add(again, replace(revived(new), state=JobState.RUNNING))
    assert kept.shown_state is JobState.SUCCEEDED


def secret_job(play: Playbook) -> Job:
    """A job with a credential for three hosts of one site, which have certificates."""
    play.certified = True
    for host in "abc":
        come(play, host)
    new = job(play)
    new.credential = "s3cret"
    return add(play, new)


SECRET = structs.replace(TOLD, credential="s3cret")
BY_DIGEST = structs.replace(TOLD, images=(f"alpine@sha256:{A.hex()}",), from_hosts=True)


def test_a_credential_goes_to_the_hosts_that_fetch_from_the_origin() -> None:
    play = Playbook()
    new = secret_job(play)
    _ = play << ("a", SECRET) << ("b", SECRET)
    _ = play >> ("a", ALL_HELD) >> ("a", structs.replace(DONE, roots=A)) << ("c", BY_DIGEST)
    assert play >> ("c", ALL_HELD) >> ("c", DONE) >> ("b", ALL_HELD) >> ("b", DONE)
    assert new.shown_state is JobState.SUCCEEDED


def test_another_host_fetches_if_one_fails_or_leaves() -> None:
    play = Playbook()
    secret_job(play)
    _ = play << ("a", SECRET) << ("b", SECRET)
    assert play >> ("a", structs.replace(DONE, state=PreheatState.FAILED)) << ("c", SECRET)
    play = Playbook()
    secret_job(play)
    _ = play << ("a", SECRET) << ("b", SECRET)
    assert play >> ("a", VANISHES) << ("c", SECRET)


def test_what_a_fetcher_claims_and_has_not_announced_goes_to_nobody() -> None:
    play = Playbook()
    new = secret_job(play)
    _ = play << ("a", SECRET) << ("b", SECRET)
    _ = play >> ("a", structs.replace(DONE, roots=A)) >> Passes(30.0) << ("c", SECRET)
    assert play
    assert states(new)["a"] is TargetState.FAILED


def test_what_a_fetcher_has_announced_elsewhere_goes_to_nobody() -> None:
    """Its word on that was not looked at; the others fetch with the credential."""
    play = Playbook()
    secret_job(play)
    _ = play << ("a", SECRET) << ("b", SECRET) >> ("a", ALL_HELD)
    assert play >> ("a", structs.replace(DONE, roots=b"r" * 32, elsewhere=True)) << ("c", SECRET)


def test_a_job_keeps_to_its_hours() -> None:
    """It begins again a day later with the same hosts, and with those that came in between."""
    play = connected("a")
    new = job(play, within_s=200_000.0)
    new.open_s = 3600.0
    add(play, new)
    _ = play << ("a", TOLD)
    _ = play >> Passes(3600.0) << ("a", PreheatEnded("j1"))
    assert (new.shown_state, states(new)) == (JobState.PENDING, {"a": TargetState.WAITING})
    _ = play >> ("a", ALL_HELD) >> ("a", DONE) >> ("a", VANISHES)
    come(play, "a")
    come(play, "b")
    _ = play >> Passes(86_400.0 - 3600.0) << ("a", TOLD) << ("b", TOLD)
    assert play >> ("a", DONE) >> ("b", DONE) >> Passes(30.0)
    assert new.shown_state is JobState.FAILED, "what it announced went with its connection"


def test_the_credential_is_forgotten_at_the_end_and_never_shown() -> None:
    play = connected("a")
    new = job(play)
    new.credential = "s3cret"
    add(play, new)
    _ = play << ("a", structs.replace(TOLD, credential="s3cret"))
    assert "s3cret" not in repr(new) + repr(structs.replace(TOLD, credential="s3cret"))
    assert play >> ("a", ALL_HELD) >> ("a", DONE)
    assert new.credential == ""


def revived(job: Job) -> Job:
    """The job as the shell reads it from the disk, which has no credential of one that is over."""
    again = replace(deepcopy(job), still_open={}, at_it=0)
    return again if again.result is None else replace(again, state=JobState.PENDING)


HOSTS = "abcd"
hosts = st.sampled_from(HOSTS)
jobs = st.sampled_from(("j1", "j2"))


class AnyOrder(RuleBasedStateMachine):
    """Hosts come, go and report, jobs are made and cancelled, and the scheduler is killed: no job is lost or stuck."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(SETTINGS)
        self.now = 10.0
        self.numbers = 0
        self.connections: dict[str, int] = {}
        self.told: dict[tuple[str, str], Preheat] = {}
        self.kept: dict[str, Job] = {}
        """What the shell has on its disk."""

    def tell(self, event: Event) -> None:
        names = {number: host for host, number in self.connections.items()}
        for instruction in self.scheduler.handle(event, self.now):
            if isinstance(instruction, PreheatChanged):
                self.kept[instruction.job.order.id] = deepcopy(instruction.job)
            elif isinstance(instruction, Send) and isinstance(instruction.message, Preheat):
                for number in instruction.connections:
                    self.told[names[number], instruction.message.job] = instruction.message

    @rule(host=hosts, new=st.booleans())
    def connects(self, host: str, new: bool) -> None:
        if host not in self.connections:
            self.numbers += 1
            self.connections[host] = self.numbers
            features = (PREHEAT,) if new else ()
            self.tell(Connected(self.numbers, hello(host, features=features), certified=True))

    @rule(host=hosts, says_bye=st.booleans())
    def goes(self, host: str, says_bye: bool) -> None:
        if (number := self.connections.pop(host, None)) is not None:
            self.tell(Received(number, Bye()) if says_bye else Disconnected(number))

    @rule(
        name=jobs,
        to=st.sampled_from(("all", "2", "a,b,x", "50%", "1/site")),
        in_s=st.sampled_from((0.0, 3.0)),
        open_s=st.sampled_from((0.0, 4.0)),
    )
    def orders(self, name: str, to: str, in_s: float, open_s: float) -> None:
        if name not in self.kept:
            begins = self.now + in_s
            new = Job(replace(ORDER, id=name), parse_selection((to,)), begins, begins + 20.0, open_s=open_s)
            new.credential = "s3cret" if name == "j2" else ""
            self.kept[name] = deepcopy(new)
            self.tell(PreheatAdded(new))

    @rule(name=jobs)
    def cancels(self, name: str) -> None:
        self.tell(PreheatCancelled(name))

    @rule(host=hosts)
    def announces(self, host: str) -> None:
        if host in self.connections:
            self.tell(Received(self.connections[host], ALL_HELD))

    @rule(host=hosts, name=jobs, state=st.sampled_from(PreheatState), attempt=st.sampled_from((1, 1, 2)))
    def reports(self, host: str, name: str, state: PreheatState, attempt: int) -> None:
        if host in self.connections:
            report = structs.replace(DONE, job=name, state=state, attempt=attempt, roots=A)
            self.tell(Received(self.connections[host], report))

    @rule(seconds=st.sampled_from((1.0, 5.0, 30.0)))
    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Tick())

    @rule()
    def is_killed(self) -> None:
        """What was not kept is lost, and so are all connections."""
        self.scheduler = Scheduler(SETTINGS)
        self.connections.clear()
        self.tell(Tick())
        for each in list(self.kept.values()):
            if each.is_open or each.result is not None:
                self.tell(PreheatAdded(revived(each)))

    @invariant()
    def holds(self) -> None:
        self.scheduler.validate()
        for name, kept in self.kept.items():
            known = self.scheduler.preheat(name)
            assert kept.is_open == (known is not None and known.is_open)

    def teardown(self) -> None:
        """Each job ends, at the latest when its time is over, and stands no longer than its pins last."""
        for _ in range(2):
            self.now += 100.0
            self.tell(Tick())
            assert not any(each.is_open for each in self.kept.values())
        assert not any(target.is_open for each in self.kept.values() for target in each.targets.values())
        assert not any(self.scheduler.preheat(name) for name in self.kept)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = hypothesis_settings(max_examples=40, stateful_step_count=40, deadline=None)
