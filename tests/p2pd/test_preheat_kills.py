"""Jobs survive that scheduler and host are killed: behind the answer to each order, and behind the host's report.

What is under way, and what is queued, is in `tests/p2pd/test_preheat_command.py`. Nothing ends but by SIGKILL.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from p2pd.admin.client import AdminClient
from p2pd.cli.app import app
from p2pd.config.values import parse_address
from p2pd.daemon.host_id import host_id
from scheduler.core.preheat_record import MAX_KEPT
from scheduler.shell.sqlite_preheats import SqlitePreheats
from scheduler.trust.files import make_private_directory
from tests.support.daemon_process import Daemon
from tests.support.images import content_of, make_image
from tests.support.preheats import Scheduler, node_of, until
from tests.support.registry import ImageRegistry

IMAGE = make_image(content_of("layer", 1000))


@pytest.fixture
def scheduler(tmp_path: Path, registry: ImageRegistry) -> Iterator[Scheduler]:
    registry.push("app", "v1", IMAGE)
    started = Scheduler(tmp_path)
    yield started
    started.daemon.close()


def killed_and_started(scheduler: Scheduler) -> AdminClient:
    scheduler.daemon.close()
    scheduler.start()
    return AdminClient(parse_address(scheduler.admin), scheduler.data)


def pins(node: Daemon, data: Path) -> list[bool]:
    """Of each blob that a node has whole: whether it is kept for more than six days."""
    where = ["--admin", node.wait_for_event("ready")["admin"], "--data", str(data)]
    listed = json.loads(CliRunner().invoke(app, ["cache", "ls", "--json", *where]).output)
    return [blob["pinned_s"] > 6 * 86_400 for blob in listed if blob["complete"]]


def test_what_was_answered_stands(scheduler: Scheduler, tmp_path: Path, registry: ImageRegistry) -> None:
    """The order with its key, its end, and that it goes on."""
    (tmp_path / "node").mkdir(mode=0o700)
    order = {"images": ["reg.test/app:v1"], "to": host_id(tmp_path / "node" / "host-id")}
    api = AdminClient(parse_address(scheduler.admin), scheduler.data)
    job = api.preheat(order, "rollout-1")["id"]
    api = killed_and_started(scheduler)
    assert api.preheat(order, "rollout-1")["id"] == job
    until(lambda: bool(api.preheat_of(job)["results"]))
    assert api.preheat_of(job, "cancel")["state"] == "cancelled"
    api = killed_and_started(scheduler)
    assert api.preheat_of(job)["state"] == "cancelled"
    assert api.preheat_of(job, "retry")["state"] == "running"
    api = killed_and_started(scheduler)
    node = node_of(tmp_path, scheduler, registry.url)
    try:
        until(lambda: api.preheat_of(job)["state"] == "succeeded")
    finally:
        node.close()
    (result,) = api.preheat_of(job)["results"]
    assert (result["state"], result["attempt"], result["confirmed"]) == ("done", 2, True)
    assert [each["id"] for each in api.preheats()] == [job]


def test_a_result_stands_when_its_host_is_killed(scheduler: Scheduler, tmp_path: Path, registry: ImageRegistry) -> None:
    """As soon as it has reported, whether the scheduler has heard or not, and once the scheduler has the result."""

    def ordered() -> str:
        name: str = json.loads(scheduler("reg.test/app:v1", "--json").output)["id"]
        return name

    node = node_of(tmp_path, scheduler, registry.url)
    try:
        until(lambda: scheduler.has_hosts(1))
        job = ordered()
        node.wait_for_event("preheated")
        node.close()
        sent = registry.sent.total()
        node = node_of(tmp_path, scheduler, registry.url)
        until(lambda: scheduler.job(job)["state"] == "succeeded")
        (result,) = scheduler.job(job)["results"]
        assert (result["state"], result["attempt"], result["confirmed"]) == ("done", 1, True)
        node.close()
        until(lambda: scheduler.has_hosts(0))
        node = node_of(tmp_path, scheduler, registry.url)
        assert pins(node, tmp_path / "node") == [True] * 3, "as the operator was told"
        until(lambda: scheduler.has_hosts(1))
        later = ordered()
        until(lambda: scheduler.job(later)["state"] == "succeeded")
        until(lambda: later in orders_of(node))
        assert orders_of(node) == [later], "it is not told again of what is over"
        assert scheduler.job(job)["results"] == [result]
        assert registry.sent.total() == sent, "nothing is fetched again"
    finally:
        node.close()


def test_a_node_that_joins_later_is_told_though_the_scheduler_was_killed(
    scheduler: Scheduler, tmp_path: Path, registry: ImageRegistry
) -> None:
    """The node keeps the image for what is left of its time, and is not told again."""
    nodes = []
    for name in ("first", "late"):
        (tmp_path / name).mkdir()
    try:
        nodes.append(node_of(tmp_path / "first", scheduler, registry.url))
        until(lambda: scheduler.has_hosts(1))
        done = scheduler("reg.test/app:v1", "--ttl=10d", "--wait", "--json")
        assert done.exit_code == 0, done.output
        job = json.loads(done.output)
        killed_and_started(scheduler)
        nodes.append(node_of(tmp_path / "late", scheduler, registry.url))
        until(lambda: scheduler.job(job["id"])["hosts"]["done"] == 2)
        shown = scheduler.job(job["id"])
        assert [each["confirmed"] for each in shown["results"]] == [True, True]
        same = ("state", "finished", "pinned_until", "newcomers_until")
        assert [shown[name] for name in same] == [job[name] for name in same]
        assert shown["newcomers_until"] == shown["pinned_until"]
        assert pins(nodes[1], tmp_path / "late/node") == [True] * 3
        assert "are told, too" in scheduler("--show", job["id"]).output
        assert "told" in scheduler("--pinned").output
        assert [len(orders_of(node)) for node in nodes] == [1, 1]
    finally:
        for node in nodes:
            node.close()


def orders_of(node: Daemon) -> list[Any]:
    return [each["job"] for each in node.events if each["event"] == "preheating"]


WRITES = """
import sys, time
from pathlib import Path
from scheduler.core.preheat_job import JobState, Order, Target, TargetState
from scheduler.core.preheat_record import JobRecord
from scheduler.shell.sqlite_preheats import SqlitePreheats
store = SqlitePreheats.open(Path(sys.argv[1]))
for number in range(100_000):
    job = JobRecord(Order(f"j{number}", ("app:v1",), ttl_s=1.0), ("all",), 1.0, 1.0, 2.0)
    store.add(job, key=f"k{number}", credential="secret")
    targets = [Target(f"h{host}", state=TargetState.DONE) for host in range(50)]
    store.keep(job.id, JobState.SUCCEEDED, "", 2.0, targets)
    print(number, flush=True)
"""


def test_what_was_written_stands_when_the_scheduler_is_killed_while_it_writes(tmp_path: Path) -> None:
    directory = tmp_path / "scheduler"
    make_private_directory(directory)
    last = -1
    for lines in (1, 7):
        with subprocess.Popen([sys.executable, "-c", WRITES, str(directory)], stdout=subprocess.PIPE) as writing:
            assert writing.stdout is not None
            said = [int(writing.stdout.readline()) for _ in range(lines)]
            writing.kill()
            last = max([said[-1], *map(int, writing.stdout.read().split())])
        with closing(SqlitePreheats.open(directory)) as store:
            kept = store.jobs(MAX_KEPT)
            assert len(store.targets(f"j{last}")) == 50
            assert all(len(store.targets(each.id)) == (0 if each.is_open else 50) for each in kept)
            assert all(store.credential(each.id) == ("secret" if each.is_open else "") for each in kept)
            assert store.add(kept[-1], key=f"k{last}").id == f"j{last}"
        with closing(sqlite3.connect(directory / "preheats.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            database.execute("DELETE FROM jobs")
            database.commit()
