"""The daemon as a process: how it starts, how it says that it cannot, and how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pd.demo.process import command
from scheduler.protocol.geometry import piece_length
from tests.p2pd.app_image import APP, LAYER, LAYER_DIGEST
from tests.support.daemon_process import Daemon, assert_fails
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S

PIECE = piece_length(len(LAYER))

pytestmark = pytest.mark.usefixtures("app_is_pushed")


def argv_for(data: Path, registry: ImageRegistry, **options: object) -> list[str]:
    flags = {
        "data": data,
        "mirror": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "upstream": f"docker.io={registry.url}",
        "min-free-bytes": 0,
        **options,
    }
    return command("run", flags)


@contextlib.contextmanager
def daemon_of(tmp_path: Path, registry: ImageRegistry, **options: object) -> Iterator[Daemon]:
    """A daemon that is ready."""
    daemon = Daemon(tmp_path, argv_for(tmp_path / "store", registry, **options))
    try:
        daemon.wait_for("READY=1")
        daemon.wait_for(f"STATUS=mirror at {daemon.wait_for_event('ready')['mirror']}")
        yield daemon
    finally:
        daemon.close()


class TestEnd:
    def test_what_clients_are_receiving_is_finished(self, tmp_path: Path, registry: ImageRegistry) -> None:
        """Also what is still arriving from the origin; then the last pulls are told of, and all is well."""
        hold = registry.hold(APP, LAYER_DIGEST, 2 * PIECE)
        with daemon_of(tmp_path, registry) as daemon:
            daemon.get(f"/v2/{APP}/manifests/1.0").read()
            response = daemon.get(f"/v2/{APP}/blobs/{LAYER_DIGEST}", {"Range": "bytes=0-"})
            got = response.read(PIECE)
            daemon.process.send_signal(signal.SIGTERM)
            daemon.wait_for("STOPPING=1")
            with pytest.raises((ConnectionRefusedError, ConnectionResetError)):
                refused_soon(daemon)
            with daemon.get_admin("/readyz") as readyz:
                assert (readyz.status, json.load(readyz)["ready"]) == (503, False)
            hold.go.set()
            got += response.read()
            assert got == LAYER
            assert daemon.wait() == 0
            assert [event["event"] for event in daemon.events if event["level"] != "info"] == []
            (pulled,) = [event for event in daemon.events if event["event"] == "pulled"]
            assert (pulled["image"], pulled["blobs"], pulled["failed"]) == (f"docker.io/{APP}:1.0", 1, 0)
            sources = [pulled[name] for name in ("origin_bytes", "peer_bytes", "store_bytes")]
            assert sources == [len(LAYER), 0, 0]
            assert [event["event"] for event in daemon.events][-2:] == ["pulled", "stopped"]

    @pytest.mark.parametrize("grace_s", ["0.2", "0"])
    def test_not_for_longer_than_the_grace(self, tmp_path: Path, registry: ImageRegistry, grace_s: str) -> None:
        registry.hold(APP, LAYER_DIGEST, PIECE)
        with daemon_of(tmp_path, registry, **{"shutdown-grace-s": grace_s}) as daemon:
            response = daemon.get(f"/v2/{APP}/blobs/{LAYER_DIGEST}")
            daemon.process.send_signal(signal.SIGINT)
            assert daemon.wait() == 0
            with pytest.raises(http.client.IncompleteRead):  # a short body, that ends as one: no reset
                response.read()

    def test_a_second_signal_ends_it_at_once(self, tmp_path: Path, registry: ImageRegistry) -> None:
        registry.hold(APP, LAYER_DIGEST, PIECE)
        with daemon_of(tmp_path, registry) as daemon:
            response = daemon.get(f"/v2/{APP}/blobs/{LAYER_DIGEST}")
            daemon.process.send_signal(signal.SIGTERM)
            daemon.wait_for("STOPPING=1")
            daemon.process.send_signal(signal.SIGTERM)
            assert daemon.wait() == 1
            response.close()

    def test_killed_it_goes_on_where_it_was(self, tmp_path: Path, registry: ImageRegistry) -> None:
        hold = registry.hold(APP, LAYER_DIGEST, 3 * PIECE)
        path = f"/v2/{APP}/blobs/{LAYER_DIGEST}"
        with daemon_of(tmp_path, registry) as daemon:
            response = daemon.get(path)
            assert response.read(3 * PIECE) == LAYER[: 3 * PIECE]
            daemon.process.kill()
            daemon.wait()
            response.close()
            hold.go.set()
        registry.seen.clear()
        with daemon_of(tmp_path, registry) as daemon:
            assert daemon.get(path).read() == LAYER
        asked = [seen.headers["range"] for seen in registry.seen if seen.method == "GET"]
        assert min(int(each.removeprefix("bytes=").partition("-")[0]) for each in asked) == 3 * PIECE


def refused_soon(daemon: Daemon) -> None:
    """Connect until it is refused: the listener closes a moment after the service manager is told."""
    for _ in range(1000):
        with (
            socket.create_connection(daemon.address("mirror"), PATIENCE_S) as connection,
            contextlib.suppress(ConnectionResetError),
        ):
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)


class TestCannotStart:
    """One line that says what is wrong, and code 1: no traceback."""

    def test_another_has_the_directory(self, tmp_path: Path, registry: ImageRegistry) -> None:
        data = tmp_path / "store"
        with daemon_of(tmp_path, registry):
            assert_fails(argv_for(data, registry), f"p2pd: another p2pd uses {re.escape(str(data))}: stop it, .*")

    def test_the_directory_is_somebody_elses(self, tmp_path: Path, registry: ImageRegistry) -> None:
        (tmp_path / "thesis.tex").touch()
        assert_fails(argv_for(tmp_path, registry), r"p2pd: .* has files in it and is not a store of p2pd's: .*")
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    @pytest.mark.parametrize("name", ["mirror", "admin"])
    def test_the_port_is_taken(self, tmp_path: Path, registry: ImageRegistry, name: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            argv = argv_for(tmp_path / "store", registry, **{name: address})
            assert_fails(argv, f"p2pd: cannot listen on {address}: Address already in use")
