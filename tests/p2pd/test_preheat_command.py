"""`p2pd preheat` with a scheduler and a node as processes, which are killed in between."""

from __future__ import annotations

import io
import json
import re
import sys
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from click.testing import CliRunner

from p2pd.cli import preheat as preheat_command
from p2pd.cli.app import app
from p2pd.config.values import parse_address
from p2pd.daemon.host_id import host_id
from p2pd.preheat.following import Follower
from tests.support.daemon_process import assert_fails
from tests.support.images import content_of, make_image
from tests.support.preheats import Scheduler, node_of, until
from tests.support.registry import ImageRegistry
from tests.support.registry_server import HANG, PATIENCE_S

MIB = 1 << 20


def test_a_job_survives_that_scheduler_and_host_are_killed(tmp_path: Path, registry: ImageRegistry) -> None:
    image = make_image(content_of("layer", 2 * MIB))
    registry.push("app", "v1", image)
    hold = registry.hold("app", image.layer_digests[0], MIB)
    scheduler = Scheduler(tmp_path)
    node = node_of(tmp_path, scheduler, registry.url)
    try:
        until(lambda: scheduler.has_hosts(1))
        ordered = scheduler("reg.test/app:v1", "--json")
        assert ordered.exit_code == 0, ordered.output
        job = json.loads(ordered.output)["id"]
        assert hold.reached.wait(PATIENCE_S)
        assert scheduler.job(job)["hosts"]["told"] == 1
        for daemon in (scheduler.daemon, node):
            daemon.close()  # kill -9
        hold.go.set()
        scheduler.start()
        assert scheduler.job(job)["state"] == "running"
        node = node_of(tmp_path, scheduler, registry.url)
        waited = scheduler("--show", job, "--wait")
        assert waited.exit_code == 0, waited.output
        assert waited.output.splitlines()[-1] == f"{job} succeeded: 1 done"
        assert scheduler.job(job)["results"][0]["confirmed"], "also what was fetched in part before it was killed"
        where = ["--admin", node.wait_for_event("ready")["admin"], "--data", str(tmp_path / "node")]
        listed = CliRunner().invoke(app, ["cache", "ls", "--json", *where])
        assert all(blob["pinned_s"] > 0 for blob in json.loads(listed.output))
        assert job in scheduler("--list").output
        assert "1 of 1" in scheduler("--pinned").output
        assert scheduler("reg.test/app:none", "--ttl=0s", "--wait").exit_code == 1
        assert len(scheduler("--pinned").output.splitlines()) == 2, "what nobody has is kept by nobody"
        follower = Follower(
            ["reg.test/app:v1", "reg.test/app:none"], parse_address(node.wait_for_event("ready")["mirror"])
        )
        first, error = follower.moved()
        assert (first, "404" in str(error)) == (f"reg.test/app@{image.digest}", True)
        assert [each for each in follower.moved() if isinstance(each, str)] == []
    finally:
        scheduler.daemon.close()
        node.close()


def test_a_job_survives_kills_while_it_is_queued_once_it_is_told_and_once_it_is_reported(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    """What was half fetched is above. Nothing is killed but by SIGKILL."""
    registry.push("app", "v1", make_image(content_of("layer", 1000)))
    manifest = "/v2/app/manifests/v1"
    (tmp_path / "node").mkdir(mode=0o700)
    host, node = host_id(tmp_path / "node" / "host-id"), None
    scheduler = Scheduler(tmp_path)
    try:
        ordered = scheduler("reg.test/app:v1", "--to", host, "--json")
        assert ordered.exit_code == 0, ordered.output
        job = json.loads(ordered.output)["id"]
        assert scheduler.job(job)["hosts"]["told"] == 0, "queued: the host is away"
        scheduler.daemon.close()
        scheduler.start()
        registry.rules[manifest] = HANG
        node = node_of(tmp_path, scheduler, registry.url)
        until(lambda: scheduler.job(job)["hosts"]["told"] == 1)
        scheduler.daemon.close()
        node.close()
        del registry.rules[manifest]
        scheduler.start()
        node = node_of(tmp_path, scheduler, registry.url)
        node.wait_for_event("preheated")
        scheduler.daemon.close()  # whether it has heard, or has kept it, or not
        scheduler.start()
        waited = scheduler("--show", job, "--wait")
        assert waited.output.splitlines()[-1] == f"{job} succeeded: 1 done"
        assert scheduler.job(job)["results"][0]["confirmed"]
    finally:
        scheduler.daemon.close()
        if node is not None:
            node.close()


def test_an_image_is_carried_to_a_site_that_has_no_line(tmp_path: Path, registry: ImageRegistry) -> None:
    """A node's cache gives it, verified, to a directory; there the directory is the upstream of the same name."""
    image = make_image(content_of("layer", 1000))
    registry.push("team/app", "v1", image)
    scheduler = Scheduler(tmp_path)
    node = node_of(tmp_path, scheduler, registry.url)
    try:
        where = ["--mirror", node.wait_for_event("ready")["mirror"], "--all-platforms", "--quiet"]
        for _ in range(2):  # as an earlier one is brought up to date
            words = ["pull", "reg.test/team/app:v1", "--to", str(tmp_path / "carried" / "team" / "app"), *where]
            pulled = CliRunner().invoke(app, words)
            assert pulled.exit_code == 0, pulled.output
        node.close()
        (tmp_path / "there").mkdir()
        node = node_of(tmp_path / "there", scheduler, f"oci-layout://{tmp_path / 'carried'}")
        until(lambda: scheduler.has_hosts(1))
        before = registry.sent.total()
        done = scheduler("reg.test/team/app:v1", "--wait")
        assert (done.exit_code, done.output.splitlines()[-1].partition(" ")[2]) == (0, "succeeded: 1 done")
        with node.get("/v2/team/app/manifests/v1?ns=reg.test") as answer:
            assert answer.headers["Docker-Content-Digest"] == image.digest
        assert registry.sent.total() == before
    finally:
        scheduler.daemon.close()
        node.close()


def test_what_is_asked_wrongly(tmp_path: Path) -> None:
    scheduler = Scheduler(tmp_path)
    try:
        for words, text in (
            ((), "give images, or one of"),
            (("alpine", "--list"), "give images, or one of"),
            (("alpine", "--to", "0%"), "to: '0%' selects no hosts: give all, a number"),
            (("ALPINE", "--rate", "x"), "images: repository"),
            (("alpine", "--window", "22-5"), "window: expected hours such as 22:00-05:00"),
        ):
            done = scheduler(*words)
            assert (done.exit_code, text in done.output) == (2, True), done.output
        assert scheduler("--show", "none").exit_code == 1
        done = scheduler("alpine", "--wait")
        assert done.exit_code == 1
        assert done.output.splitlines()[-1].endswith("failed (no host that is connected is selected): no hosts")
    finally:
        scheduler.daemon.close()
    nobody = [sys.executable, "-m", "p2pd", "preheat", "--list", "--admin", scheduler.admin, "--data", str(tmp_path)]
    assert_fails(nobody, r"p2pd: no daemon answers at .*")


class Terminal(io.StringIO):
    """Standard error, as a terminal has it."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_each_site_while_it_goes_on_and_the_hosts_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    at_it = {"done": 1, "told": 2, "confirming": 1, "waiting": 4, "failed": 1, "unsupported": 1, "cancelled": 0}
    sizes = {"fetched_bytes": 3 * MIB, "size_bytes": 4 * MIB}
    job = {"sites": [{"site": "berlin", **at_it, **sizes}, {"site": "", **dict.fromkeys(at_it, 0), **sizes}]}
    terminal = Terminal()
    with redirect_stderr(terminal), preheat_command._view(shown=True) as tell:
        tell(job)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|[│┃]", " ", terminal.getvalue())
    shown = [line.split() for line in text.splitlines()]
    assert ["SITE", "HOSTS", "DONE", "AT", "IT", "AWAY", "FAILED", "FETCHED", "OF"] in shown
    assert ["berlin", "10", "1", "3", "4", "2", "3.0MiB", "4.0MiB"] in shown
    assert ["-", "0", "0", "0", "0", "0", "3.0MiB", "4.0MiB"] in shown
    result = {"host": "n1", "site": "berlin", "confirmed": True, "reason": "", "unpinned_bytes": 0, **sizes}
    results = [{**result, "state": "done"}, {**result, "host": "n2", "state": "failed", "reason": "it was away"}]
    preheat_command._print(
        {"id": "j1", "state": "partly", "reason": "", "hosts": {"done": 1, "failed": 1, "told": 0}, "results": results}
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["HOST", "SITE", "STATE", "SIZE", "FETCHED", "REASON"],
        ["n2", "berlin", "failed", "4.0MiB", "3.0MiB", "it", "was", "away"],
        ["n1", "berlin", "done", "4.0MiB", "3.0MiB"],
        ["j1", "partly:", "1", "done,", "1", "failed"],
    ]
