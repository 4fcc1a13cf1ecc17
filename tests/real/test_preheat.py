"""A tag that is pushed to a real docker-registry is preheated where its repository is in use."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from click.testing import CliRunner

from p2pd.cli.app import app
from tests.real.image import Image
from tests.real.programs import environment
from tests.real.registry import Registry
from tests.support.preheats import Scheduler, node_of, until


def test_what_is_pushed_is_preheated_where_it_is_used(place: Path, programs: None, image: Image) -> None:
    scheduler = Scheduler(place)
    token = scheduler("--token").output.strip()
    endpoint = {
        "name": "p2pd",
        "url": f"http://{scheduler.admin}/registry/notifications?upstream=reg.test",
        "headers": {"Authorization": [f"Bearer {token}"]},
        "timeout": "5s",
        "threshold": 3,
        "backoff": "1s",
    }
    registry = Registry(place, place / "storage", {"notifications": {"endpoints": [endpoint]}})
    node = node_of(place, scheduler, registry.url)
    try:
        until(lambda: scheduler.has_hosts(1))
        registry.push(image, "used/app")
        registry.push(image, "unused/app")
        until(lambda: [job["state"] for job in scheduler.jobs()] == ["succeeded"] * 2)
        for job in scheduler.jobs():
            assert (job["source"], scheduler.job(job["id"])["hosts"]["skipped"]) == ("push", 1)
        pull = ["pull", "reg.test/used/app:1", "--quiet", "--mirror", node.wait_for_event("ready")["mirror"]]
        assert CliRunner().invoke(app, pull).exit_code == 0
        _tag(place, registry, "used/app", "2")
        until(lambda: [job["state"] for job in scheduler.jobs()] == ["succeeded"] * 3)
        used = scheduler.job(scheduler.jobs()[0]["id"])
        assert (used["images"], used["hosts"]["done"]) == (["reg.test/used/app:2"], 1)
        where = ["--admin", node.wait_for_event("ready")["admin"], "--data", str(place / "node")]
        blobs = json.loads(CliRunner().invoke(app, ["cache", "ls", "--json", *where]).output)
        assert any("reg.test/used/app:2" in blob["images"] and blob["pinned_s"] > 0 for blob in blobs)
    finally:
        registry.stop()
        node.close()
        scheduler.daemon.close()


def _tag(place: Path, registry: Registry, repository: str, tag: str) -> None:
    """Give an image that the registry has another tag."""
    at = registry.url.removeprefix("http://")
    names = (f"docker://{at}/{repository}:1", f"docker://{at}/{repository}:{tag}")
    flags = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--quiet", "--all", *flags, *names], env=environment(place), check=True
    )
