"""Preheats of three schedulers as processes, with one real Redis: whichever is asked, and whichever is killed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scheduler.protocol.rendezvous import owner_of
from scheduler.shared.live_list import id_of
from scheduler.shared.redis_clients import RedisPlace
from scheduler.trust.authority import Authority
from tests.support.daemon_process import Daemon
from tests.support.images import content_of, make_image
from tests.support.preheats import Scheduler, node_of, until
from tests.support.registry import ImageRegistry
from tests.support.registry_server import HANG

NAMES = ("a", "b", "c")


class Several:
    """Three schedulers, and nodes that know all three."""

    def __init__(self, directory: Path, place: RedisPlace, registry: ImageRegistry) -> None:
        self._directory, self._registry = directory, registry
        Authority.open(directory / "ca", time.time()).close()
        ca = {"ca_cert": directory / "ca/authority/ca.crt", "ca_key": directory / "ca/authority/ca.key"}
        self.by_url: dict[str, Scheduler] = {}
        self.nodes: list[Daemon] = []
        for name in NAMES:
            (directory / name).mkdir()
            one = Scheduler(directory / name, redis=str(place.at), redis_prefix=place.prefix, **ca)
            self.by_url[f"http://{one.listen}"] = one
        self.killed: list[Scheduler] = []

    @property
    def alive(self) -> list[Scheduler]:
        return [each for each in self.by_url.values() if each not in self.killed]

    def add_node(self, name: str) -> None:
        (directory := self._directory / f"node-{name}").mkdir()
        self.nodes.append(node_of(directory, list(self.by_url), self._registry.url))

    def runner(self, job: str) -> Scheduler:
        ids = {id_of(url): one for url, one in self.by_url.items() if one not in self.killed}
        return ids[owner_of(job.encode(), list(ids))]

    def kill(self, one: Scheduler) -> None:
        one.daemon.close()  # SIGKILL
        self.killed.append(one)

    def other_than(self, one: Scheduler) -> Scheduler:
        return next(each for each in self.alive if each is not one)

    def close(self) -> None:
        for each in [*self.nodes, *(one.daemon for one in self.alive)]:
            each.close()


def hosts(one: Scheduler) -> int:
    with one.daemon.get_admin("/hosts") as answer:
        return len(json.load(answer))


def order(one: Scheduler, *words: str) -> str:
    ordered = one("reg.test/app:v1", *words, "--json")
    assert ordered.exit_code == 0, ordered.output
    name: str = json.loads(ordered.output)["id"]
    return name


def steady(found: dict[str, Any]) -> dict[str, Any]:
    """What does not change while a preheat goes on."""
    return {name: found[name] for name in ("id", "number", "images", "to", "created", "begins", "ends", "source")}


@pytest.fixture
def several(tmp_path: Path, redis_place: RedisPlace) -> Iterator[tuple[Several, ImageRegistry]]:
    with ImageRegistry() as registry, ExitStack() as stack:
        registry.push("app", "v1", make_image(content_of("layer", 1000)))
        started = Several(tmp_path, redis_place, registry)
        stack.callback(started.close)
        for name in NAMES:
            started.add_node(name)
        until(lambda: all(hosts(one) == len(NAMES) for one in started.alive))
        yield started, registry


def test_a_preheat_survives_the_schedulers_that_run_it(several: tuple[Several, ImageRegistry]) -> None:
    """Its runner is killed while it waits for a host; the next one once hosts are told; the last one ends it."""
    started, registry = several
    manifest = "/v2/app/manifests/v1"
    registry.rules[manifest] = HANG
    job = order(started.alive[0])
    first = started.runner(job)
    asked = started.other_than(first)
    until(lambda: asked.job(job)["hosts"]["told"] == len(NAMES))
    answers = [steady(one.job(job)) for one in started.alive]
    assert answers[0] == answers[1] == answers[2]
    assert [one.jobs()[0]["id"] for one in started.alive] == [job] * 3
    started.kill(first)
    second = started.runner(job)
    asked = started.other_than(second)
    until(lambda: asked.job(job)["hosts"]["told"] == len(NAMES))
    del registry.rules[manifest]
    for node in started.nodes:
        node.wait_for_event("preheated")
    started.kill(second)
    waited = asked("--show", job, "--wait")
    assert waited.exit_code == 0, waited.output
    assert waited.output.splitlines()[-1] == f"{job} succeeded: 3 done"
    pins = asked("--pinned")
    assert (pins.exit_code, pins.output.splitlines()[1].split()[0]) == (0, job)
    assert "3 of 3" in pins.output, "both that have run it are gone"
    [pinned] = json.loads(asked("--pinned", "--json").output)
    finished, until_at = (datetime.fromisoformat(pinned[name]) for name in ("finished", "pinned_until"))
    assert until_at - finished == timedelta(days=7)
    started.add_node("late")
    until(lambda: asked.job(job)["hosts"]["done"] == len(NAMES) + 1)
    assert asked.job(job)["finished"] == pinned["finished"]
    for node in started.nodes:
        assert len([each for each in node.events if each.get("event") == "preheating"]) == 1, "carried out once"


def test_nodes_that_join_later_are_told_once_though_their_scheduler_is_killed(
    several: tuple[Several, ImageRegistry],
) -> None:
    started, registry = several
    one = started.alive[0]
    job = order(one)
    assert one("--show", job, "--wait").exit_code == 0
    manifest = "/v2/app/manifests/v1"
    registry.rules[manifest] = HANG
    for name in ("d", "e"):
        started.add_node(name)
    until(lambda: one.job(job)["hosts"]["told"] == 2)
    started.kill(started.runner(job))
    asked = started.alive[0]
    del registry.rules[manifest]
    until(lambda: asked.job(job)["hosts"]["done"] == len(NAMES) + 2)
    assert asked.job(job)["state"] == "succeeded"
    started.add_node("f")
    until(lambda: asked.job(job)["hosts"]["done"] == len(NAMES) + 3)
    for node in started.nodes:
        assert len([each for each in node.events if each.get("event") == "preheating"]) == 1, "carried out once"
