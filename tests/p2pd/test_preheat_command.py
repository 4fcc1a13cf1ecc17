"""`p2pd preheat` with a scheduler and a node as processes, which are killed in between."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from p2pd.cli.app import app
from p2pd.demo.process import command
from tests.support.daemon_process import Daemon, assert_fails
from tests.support.images import content_of, make_image
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S

MIB = 1 << 20


class Scheduler:
    """A scheduler that comes back at the same address."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.listen = self.admin = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        flags = {"data": self._directory / "scheduler", "listen": self.listen, "admin": self.admin}
        self.daemon = Daemon(self._directory, command("scheduler", flags))
        ready = self.daemon.wait_for_event("ready")
        self.listen, self.admin = ready["listen"], ready["admin"]

    def __call__(self, *words: str) -> Result:
        where = ["--admin", self.admin, "--data", str(self._directory / "scheduler")]
        return CliRunner().invoke(app, ["preheat", *words, *where])

    def job(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("--show", name, "--json").output)
        return found


def node_of(directory: Path, scheduler: Scheduler, registry: ImageRegistry) -> Daemon:
    (directory / "node").mkdir(mode=0o700, exist_ok=True)
    flags = {
        "data": directory / "node",
        "mirror": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "peer": "127.0.0.1:0",
        "scheduler": f"http://{scheduler.listen}",
        "upstream": f"reg.test={registry.url}",
        "min-free-bytes": 0,
    }
    daemon = Daemon(directory, command("run", flags))
    daemon.wait_for_event("ready")
    return daemon


def until(holds: Any) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < ends, "in vain"
        time.sleep(0.05)


def test_a_job_survives_that_scheduler_and_host_are_killed(tmp_path: Path, registry: ImageRegistry) -> None:
    image = make_image(content_of("layer", 2 * MIB))
    registry.push("app", "v1", image)
    hold = registry.hold("app", image.layer_digests[0], MIB)
    scheduler = Scheduler(tmp_path)
    node = node_of(tmp_path, scheduler, registry)
    try:
        until(lambda: '"hosts": 1' in json.dumps(json.load(scheduler.daemon.get_admin("/status"))))
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
        node = node_of(tmp_path, scheduler, registry)
        waited = scheduler("--show", job, "--wait")
        assert waited.exit_code == 0, waited.output
        assert waited.output.splitlines()[-1] == f"{job} succeeded: 1 done"
        where = ["--admin", node.wait_for_event("ready")["admin"], "--data", str(tmp_path / "node")]
        listed = CliRunner().invoke(app, ["cache", "ls", "--json", *where])
        assert all(blob["pinned_s"] > 0 for blob in json.loads(listed.output))
        assert job in scheduler("--list").output
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
