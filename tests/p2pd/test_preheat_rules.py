"""Rules for preheats: what is written, what matches, the times of a crontab, and what is ordered when."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from p2pd.config.cron import CronError, parse_cron
from p2pd.config.preheat_rules import PreheatRule, parse_preheat_rules
from p2pd.config.settings import Settings
from p2pd.config.sources import Loaded, Sources, load
from p2pd.config.values import ConfigError, parse_address
from p2pd.daemon.control import Control
from p2pd.daemon.scheduler import serve
from p2pd.demo.process import command
from p2pd.preheat.rules import PreheatRules, next_time
from peer.tasks import BackgroundTasks
from scheduler.core.preheat_record import JobRecord
from tests.support.daemon_process import ForkedDaemon
from tests.support.node import asynchronous, until

NOW = datetime(2026, 11, 29, 12, 0)  # noqa: DTZ001 # the wall clock's, a Sunday
NOTHING = Path("/nowhere/p2pd.toml")


def rule(text: str) -> PreheatRule:
    (one,) = parse_preheat_rules([text])
    return one


def test_a_rule_in_the_file_by_a_variable_and_by_a_flag(tmp_path: Path) -> None:
    (file := tmp_path / "p2pd.toml").write_text(
        'rack = "a"\n[[preheat]]\nmatch = "registry.example/team/*:v*"\nto = "site=a,30%"\nkeep = "2d"\n'
        'when = "cron 0 2 * * 1-5"\n[[preheat]]\nmatch = "alpine:3"\n'
    )
    texts = ("registry.example/team/*:v*;to=site=a,30%;keep=2d;when=cron 0 2 * * 1-5", "alpine:3")
    by_variable = load({}, {"P2PD_PREHEAT": "\n".join(texts)}, default_file=NOTHING)
    by_flag = load({"preheat": texts}, {}, default_file=NOTHING)
    for settings in (load({}, {}, file=file), by_variable, by_flag):
        first, second = settings.preheat
        assert (first.match, first.to, first.keep) == ("registry.example/team/*:v*", "site=a,30%", "2d")
        assert first.cron is not None
        assert str(second) == "docker.io/library/alpine:3;to=all;keep=7d;when=push"
        assert parse_preheat_rules([str(first), str(second)]) == (first, second)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (3, "expected at most 1000 rules"),
        ([3], "rule 1: expected a table"),
        (["a.test/b:1", {}], "rule 2: match: expected REGISTRY"),
        ([{"match": "a.test/b:1", "colour": "red"}], "'colour': there is no such member"),
        ([{"match": "a.test/b:1", "to": 3}], "are texts"),
        (["a.test/b"], "match: expected REGISTRY"),
        (["team/*:v*"], "the registry is part of it"),
        (["a.test/***:1"], "match: expected REGISTRY"),
        ([f"a.test/b@sha256:{'0' * 64}"], "match: expected REGISTRY"),
        (["a.test/b:1;to=0"], "selects no hosts"),
        (["a.test/b:1;keep=400d"], "keep: expected"),
        (["a.test/b:1;keep=long"], "expected a duration"),
        (["a.test/b:1;when=later"], "when: expected push, or cron"),
        (["a.test/b:1;when=cron 0 2"], "expected five fields"),
        (["a.test/b:1;when=cron 0 25 * * *"], "expected numbers from 0 to 23"),
        (["a.test/b:1;when=cron 0 0 30 2 *"], "there is no such day"),
    ],
)
def test_what_is_wrong_is_said(value: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_preheat_rules(value)
    assert problem in str(raised.value)


def test_what_matches() -> None:
    one = rule("reg.test:5000/team/*:v*")
    images = (
        "reg.test:5000/team/app:v1",
        "reg.test:5000/team/a/b:v1",
        "reg.test:5000/team/app:1",
        "reg.test/team/app:v1",
    )
    assert [one.matches(image) for image in images] == [True, False, False, False]
    assert rule("reg.test/**:*").matches("reg.test/a/b/c:v1")
    assert not rule("reg.test/a.b:1").matches("reg.test/axb:1")


@pytest.mark.parametrize(
    ("cron", "at"),
    [
        ("* * * * *", (2026, 11, 29, 12, 1)),
        ("0 2 * * *", (2026, 11, 30, 2, 0)),
        ("*/20 12 * * *", (2026, 11, 29, 12, 20)),
        ("30 8-10 1,15 * *", (2026, 12, 1, 8, 30)),
        ("0 0 * * 0", (2026, 12, 6, 0, 0)),
        ("0 0 * * 7", (2026, 12, 6, 0, 0)),
        ("0 0 15 * 3", (2026, 12, 2, 0, 0)),
        ("0 0 29 2 *", (2028, 2, 29, 0, 0)),
        ("5/30 13 * * *", (2026, 11, 29, 13, 5)),
    ],
)
def test_the_next_time(cron: str, at: tuple[int, ...]) -> None:
    assert parse_cron(cron).after(NOW) == datetime(*at)  # type: ignore[arg-type] # noqa: DTZ001 # as NOW


@given(st.text(alphabet="0123456789*/,- ", max_size=30))
def test_any_text_is_times_or_an_error(text: str) -> None:
    try:
        cron = parse_cron(text)
    except CronError:
        return
    assert cron.after(NOW) > NOW


@pytest.fixture
def berlin() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_an_hour_that_comes_twice_is_taken_once_and_one_that_does_not_come_is_not_waited_for() -> None:
    daily = parse_cron("30 2 * * *")
    at, times = datetime(2026, 10, 24, 12).timestamp(), []  # noqa: DTZ001 # as NOW
    for _ in range(3):
        at = next_time(daily, at)
        times.append(at)
    assert [later - earlier for earlier, later in pairwise(times)] == [25 * 3600.0, 24 * 3600.0]
    again = datetime(2026, 10, 25, 2, 10, fold=1).timestamp()  # noqa: DTZ001 # as NOW
    assert next_time(daily, again) == times[1]
    spring = next_time(daily, datetime(2027, 3, 27, 12).timestamp())  # noqa: DTZ001 # as NOW
    assert next_time(daily, spring) > spring


class Jobs:
    """What `scheduler.shell.preheating` is for rules."""

    def __init__(self) -> None:
        self.records: dict[str | int, JobRecord] = {}

    async def add(self, record: JobRecord, *, key: str | None = None) -> None:
        self.records.setdefault(len(self.records) if key is None else key, record)

    @property
    def ordered(self) -> list[tuple[str, tuple[str, ...], float, float]]:
        records = self.records.values()
        return [(each.order.images[0], each.to, each.begins, each.order.ttl_s) for each in records]


def test_a_push_is_for_the_next_time_of_its_rule_once() -> None:
    async def main() -> None:
        jobs, now = Jobs(), NOW.timestamp()
        service: Any = lambda: jobs  # noqa: E731
        at_two = rule("a.test/**:v*;keep=1d;to=site=b;when=cron 0 2 * * *")
        named = rule("a.test/x/y:v1;when=cron 0 2 * * *")  # comes at its times, pushed or not
        rules = PreheatRules([at_two, structs.replace(at_two, cron=None), named], service, clock=lambda: now)
        for image in ("a.test/x/y:v1", "a.test/x/y:v1", "a.test/x/y:latest"):
            await rules.pushed(image)
        at = datetime(2026, 11, 30, 2).timestamp()  # noqa: DTZ001 # as NOW
        (first, second, third) = jobs.ordered
        assert first == ("a.test/x/y:v1", ("site=b",), at, 86_400.0)
        assert second == third == ("a.test/x/y:v1", ("site=b",), now, 86_400.0), "a push is preheated each time"

    asyncio.run(main())


@asynchronous
async def test_a_tag_that_is_named_is_preheated_at_its_times_and_other_rules_are_taken_up() -> None:
    jobs = Jobs()
    service: Any = lambda: jobs  # noqa: E731
    at = datetime(2026, 11, 30, 2).timestamp()  # noqa: DTZ001 # as NOW
    before = iter((at - 0.01, at - 0.01))  # without rules, and with them
    rules = PreheatRules((), service, clock=lambda: next(before, at))
    async with BackgroundTasks() as tasks:
        tasks.start(rules.run())
        await asyncio.sleep(0)
        rules.replace([rule("a.test/b:1;when=cron 0 2 * * *"), rule("a.test/*:1;when=cron 0 2 * * *")])
        await until(lambda: bool(jobs.records))
    assert [(image, begins) for image, _, begins, _ in jobs.ordered] == [("a.test/b:1", at)]


def test_a_scheduler_takes_up_rules_while_it_runs(tmp_path: Path) -> None:
    (file := tmp_path / "p2pd.toml").write_text("")
    flags = {"config": file, "data": tmp_path / "data", "listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
    daemon = ForkedDaemon(tmp_path, command("scheduler", flags))
    try:
        daemon.wait_for_event("ready")
        file.write_text('[[preheat]]\nmatch = "a.test/b:1"\n')
        daemon.process.send_signal(signal.SIGHUP)
        reloaded = daemon.wait_for_event("reloaded")
        assert reloaded["changed"] == ["preheat: none -> a.test/b:1;to=all;keep=7d;when=push"]
    finally:
        daemon.close()


@asynchronous
async def test_rules_that_a_scheduler_took_up_are_in_force(tmp_path: Path) -> None:
    somewhere = parse_address("127.0.0.1:0")
    settings = Settings(data=tmp_path / "data", admin=somewhere, listen=somewhere)
    control = Control(Sources({}, {}), Loaded(settings), {"preheat"})
    other = replace(settings, preheat=parse_preheat_rules("a.test/b:1"))
    async with serve(settings, list, control):
        assert control.prepare is not None
        commit: Any = control.prepare(other)
        commit()
        assert commit.func.__self__._rules == other.preheat
