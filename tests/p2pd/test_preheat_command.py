"""`p2pd preheat` with a scheduler and a node as processes, which are killed in between."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from click.testing import CliRunner

from p2pd.cli.app import app
from p2pd.config.values import parse_address
from p2pd.preheat.following import Follower
from tests.support.daemon_process import assert_fails
from tests.support.images import content_of, make_image
from tests.support.preheats import Scheduler, node_of, until
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S

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
        follower = Follower(
            ["reg.test/app:v1", "reg.test/app:none"], parse_address(node.wait_for_event("ready")["mirror"])
        )
        first, error = follower.moved()
        assert (first, "404" in str(error)) == (f"reg.test/app@{image.digest}", True)
        assert [each for each in follower.moved() if isinstance(each, str)] == []
    finally:
        scheduler.daemon.close()
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
