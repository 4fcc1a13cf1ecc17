"""`p2pd drain`: pulls under way are served to their end, new ones go to the registry, and the daemon stops."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from p2pd.cli.app import app
from p2pd.demo.process import command
from tests.support.daemon_process import Daemon, ForkedDaemon
from tests.support.images import content_of, digest_of, make_image
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S

APP = "library/app"
LAYER = content_of("layer", 4 * 1024 * 1024)
ABOVE = content_of("above", 1000)
IMAGE = make_image(LAYER, ABOVE)
OTHER = make_image(content_of("other", 1000))
BLOB = f"/v2/{APP}/blobs/{digest_of(LAYER)}"


@pytest.fixture
def registry() -> Iterator[ImageRegistry]:
    with ImageRegistry() as registry:
        registry.push(APP, "1.0", IMAGE)
        registry.push(APP, "2.0", OTHER)
        yield registry


@contextmanager
def node(tmp_path: Path, registry: ImageRegistry, *, prefetch_layers: int = 0) -> Iterator[Daemon]:
    flags = {
        "data": tmp_path / "store",
        "mirror": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "upstream": f"docker.io={registry.url}",
        "min-free-bytes": 0,
        "prefetch-layers": prefetch_layers,
        "shutdown-grace-s": 0,
    }
    daemon = ForkedDaemon(tmp_path, command("run", flags))
    try:
        daemon.wait_for("READY=1")
        yield daemon
    finally:
        daemon.close()


def drain(daemon: Daemon, tmp_path: Path, *words: str) -> Result:
    options = [f"--admin={daemon.wait_for_event('ready')['admin']}", f"--data={tmp_path / 'store'}"]
    return CliRunner().invoke(app, ["drain", "--config=/dev/null", *options, *words], env={"P2PD_CONFIG": ""})


def test_a_pull_under_way_is_finished_and_a_new_one_refused(tmp_path: Path, registry: ImageRegistry) -> None:
    """Also the layers of the pull that its client asks for only now: podman takes them from nowhere else."""
    hold = registry.hold(APP, digest_of(LAYER), len(LAYER) // 2)
    ends: list[Result] = []
    with node(tmp_path, registry) as daemon:
        assert daemon.get(f"/v2/{APP}/manifests/1.0").read() == IMAGE.manifest
        response = daemon.get(BLOB)
        assert hold.reached.wait(PATIENCE_S)
        draining = threading.Thread(target=lambda: ends.append(drain(daemon, tmp_path)))
        draining.start()
        daemon.wait_for_event("draining")
        with daemon.get_admin("/readyz") as readyz:
            assert (readyz.status, b"p2pd is draining" in readyz.read()) == (503, True)
        for path in (
            f"/v2/{APP}/manifests/2.0",
            f"/v2/{APP}/manifests/1.0",
            f"/v2/{APP}/blobs/{OTHER.layer_digests[0]}",
        ):
            with daemon.get(path) as refused:
                assert (refused.status, b"ask the registry" in refused.read()) == (404, True)
        with daemon.get(f"/v2/{APP}/blobs/{digest_of(ABOVE)}") as next_layer:
            assert next_layer.read() == ABOVE
        hold.go.set()
        assert response.read() == LAYER
        draining.join(PATIENCE_S)
        assert daemon.wait() == 0
    assert (ends[0].exit_code, ends[0].output) == (0, "drained: the daemon has stopped\n")


def test_what_is_fetched_ahead_of_clients_ends(tmp_path: Path, registry: ImageRegistry) -> None:
    """With the download ends the membership, and the leases go back (tests/peer/test_host_swarm.py)."""
    ahead = content_of("ahead", len(LAYER))
    registry.push(APP, "3.0", make_image(LAYER, ahead))
    holds = [registry.hold(APP, digest_of(blob), len(LAYER) // 2) for blob in (LAYER, ahead)]
    with node(tmp_path, registry, prefetch_layers=1) as daemon:

        def arriving() -> set[str]:
            with daemon.get_admin("/status") as status:
                return {each["blob"] for each in json.load(status)["arriving"]}

        daemon.get(f"/v2/{APP}/manifests/3.0").read()
        response = daemon.get(BLOB)
        assert all(hold.reached.wait(PATIENCE_S) for hold in holds)
        wanted = arriving()
        assert len(wanted) == 2
        draining = threading.Thread(target=lambda: drain(daemon, tmp_path))
        draining.start()
        until = time.monotonic() + PATIENCE_S
        while arriving() != {each for each in wanted if digest_of(LAYER).startswith(each)}:
            assert time.monotonic() < until, arriving()
        response.close()
    draining.join(PATIENCE_S)


def test_not_for_longer_than_the_time_that_it_is_given(tmp_path: Path, registry: ImageRegistry) -> None:
    hold = registry.hold(APP, digest_of(LAYER), len(LAYER) // 2)
    with node(tmp_path, registry) as daemon:
        response = daemon.get(BLOB)
        assert hold.reached.wait(PATIENCE_S)
        done = drain(daemon, tmp_path, "--timeout=0.1s")
        assert done.exit_code == 1
        assert "not all was finished within" in done.output
        assert daemon.wait() == 0
        response.close()


def test_a_time_that_is_none(tmp_path: Path, registry: ImageRegistry) -> None:
    with node(tmp_path, registry) as daemon:
        assert drain(daemon, tmp_path, "--timeout=soon").exit_code == 2
        assert daemon.process.poll() is None
