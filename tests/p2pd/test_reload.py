"""Settings that change while a daemon runs: by SIGHUP and `p2pd reload`, and what `p2pd config` shows of them."""

from __future__ import annotations

import base64
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from click.testing import CliRunner, Result

from p2pd.cli.app import app
from p2pd.config.own_addresses import own_addresses
from p2pd.config.upstream import make_upstreams
from p2pd.config.values import parse_address
from p2pd.daemon.preheating import SchedulerPreheats
from p2pd.daemon.reload import NodeReload
from p2pd.demo.process import command
from peer.core.eviction import DiskShare, Quota
from peer.host import Host, Limits
from peer.net.peer_server import PeerServer
from peer.net.upload_sender import Uploading
from peer.store import Store
from peer.tasks import BackgroundTasks
from proxy.access import Access
from proxy.catalog import Catalog
from proxy.local_authority import authority_file
from proxy.origins import Origins
from proxy.tags import Tags
from tests.p2pd.app_image import APP, LAYER, LAYER_DIGEST
from tests.support.daemon_process import Daemon, ForkedDaemon
from tests.support.images import content_of, make_image
from tests.support.node import asynchronous, settings_for
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S

MIB = 1 << 20
PRIVATE = make_image(content_of("private", 1000))

pytestmark = pytest.mark.usefixtures("app_is_pushed")


@dataclass
class Reloading:
    """A daemon whose settings are in `file`, but for ports and directory."""

    daemon: Daemon
    file: Path
    data: Path

    def write(self, *lines: str) -> None:
        self.file.write_text("\n".join(lines))

    def hang_up(self) -> dict[str, Any]:
        """Send SIGHUP; returns the event that tells what came of it."""
        before = len(self.daemon.events)
        self.daemon.process.send_signal(signal.SIGHUP)
        names = {"reloaded", "not reloaded, all stays as it was"}
        while not (found := [each for each in self.daemon.events[before:] if each["event"] in names]):
            assert self.daemon.process.poll() is None, "SIGHUP has ended the daemon"
        return found[0]

    def command(self, *words: str) -> Result:
        admin = self.daemon.wait_for_event("ready")["admin"]
        options = ["--config=/dev/null", f"--admin={admin}", f"--data={self.data}"]
        return CliRunner().invoke(app, [*words, *options], env={"P2PD_CONFIG": ""})

    def get(self, path: str) -> tuple[int, bytes]:
        with self.daemon.get(path) as response:
            return response.status, response.read()


@contextmanager
def reloading(tmp_path: Path, *lines: str) -> Iterator[Reloading]:
    file, data = tmp_path / "p2pd.toml", tmp_path / "store"
    file.write_text("\n".join(lines))
    flags = {"config": file, "data": data, "mirror": "127.0.0.1:0", "admin": "127.0.0.1:0", "min-free-bytes": 0}
    daemon = ForkedDaemon(tmp_path, command("run", flags))
    try:
        daemon.wait_for("READY=1")
        yield Reloading(daemon, file, data)
    finally:
        daemon.close()


@pytest.fixture
def other() -> Iterator[ImageRegistry]:
    """Another registry, which wants a password."""
    with ImageRegistry() as other:
        other.push(APP, "2.0", PRIVATE)
        other.members[APP] = {"Bearer pullers"}
        other.tokens["Basic " + base64.b64encode(b"puller:hunter2").decode()] = "Bearer pullers"
        yield other


def upstreams(*texts: str) -> str:
    return f"upstream = {json.dumps(texts)}"


class TestUpstreams:
    def test_a_slow_client_across_a_reload(self, tmp_path: Path, registry: ImageRegistry, other: ImageRegistry) -> None:
        """It gets all of its layer from where that came from; the next request goes elsewhere, with a password."""
        hold = registry.hold(APP, LAYER_DIGEST, len(LAYER) // 2)
        password = tmp_path / "password"
        password.write_text("hunter2\n")
        with reloading(tmp_path, upstreams(f"docker.io={registry.url}", f"gone.example={registry.url}")) as it:
            with it.daemon.get(f"/v2/{APP}/blobs/{LAYER_DIGEST}") as response:
                begun = response.read(1024)
                assert hold.reached.wait(PATIENCE_S)
                it.write(upstreams(f"docker.io={other.url};username=puller;password_file={password}"))
                told = it.hang_up()
                hold.go.set()
                assert begun + response.read() == LAYER
            assert [each.split(":")[0] for each in told["changed"]] == ["upstream docker.io", "upstream gone.example"]
            assert "puller" not in json.dumps(it.daemon.events)
            assert it.get(f"/v2/{APP}/manifests/2.0") == (200, PRIVATE.manifest)
            assert it.get(f"/v2/gone.example/{APP}/manifests/1.0")[0] == 404

    def test_what_was_granted_by_other_credentials_is_asked_anew(self, tmp_path: Path, other: ImageRegistry) -> None:
        password = tmp_path / "password"
        password.write_text("hunter2")
        paths = [f"/v2/{APP}/manifests/{reference}" for reference in (PRIVATE.digest, "2.0")]
        with reloading(tmp_path, upstreams(f"docker.io={other.url};username=puller;password_file={password}")) as it:
            assert [it.get(path) for path in paths] == [(200, PRIVATE.manifest)] * 2
            it.write(upstreams(f"docker.io={other.url}"))
            assert it.command("reload").exit_code == 0
            assert [it.get(path)[0] for path in paths] == [401, 401]

    def test_the_https_proxy_has_an_authority_for_a_new_upstream(self, tmp_path: Path, registry: ImageRegistry) -> None:
        """`p2pd configure docker --https-proxy` reads it."""
        hub, proxy = f"docker.io={registry.url}", 'https_proxy = "127.0.0.1:0"'
        with reloading(tmp_path, upstreams(hub), proxy) as it:
            file = authority_file(it.data, "quay.io")
            assert not file.exists()
            it.write(upstreams(hub, "quay.io"), proxy)
            assert it.hang_up()["event"] == "reloaded"
            deadline = time.monotonic() + PATIENCE_S
            while not file.exists():
                assert time.monotonic() < deadline

    def test_the_address_of_an_upstream_that_is_gone_challenges_for_no_other(
        self, tmp_path: Path, registry: ImageRegistry, other: ImageRegistry
    ) -> None:
        """A client would send another registry the password that it has for that address."""
        hub, gone = f"docker.io={other.url}", f"gone.example={registry.url}"
        with reloading(tmp_path, upstreams(hub, gone)) as it:
            mirror = parse_address(it.daemon.wait_for_event("ready")["mirror"])
            own = own_addresses(mirror, ["docker.io", "gone.example"])["gone.example"]
            url = f"http://{own}/v2/"
            with urlopen(url, timeout=PATIENCE_S) as answer:
                assert answer.status == 200
            it.write(upstreams(hub))
            assert it.hang_up()["event"] == "reloaded"
            with pytest.raises(HTTPError) as refused:
                urlopen(url, timeout=PATIENCE_S)
            assert (refused.value.code, refused.value.headers["WWW-Authenticate"]) == (404, None)
            refused.value.close()

    def test_counters_go_on(self, tmp_path: Path, registry: ImageRegistry) -> None:
        def answers() -> int:
            with it.daemon.get_admin("/metrics") as page:
                name = 'p2pd_origin_answers_total{class="2xx",upstream="docker.io"}'
                lines = page.read().decode().splitlines()
            return next(int(float(line.split()[-1])) for line in lines if line.startswith(name))

        with reloading(tmp_path, upstreams(f"docker.io={registry.url}")) as it:
            assert it.get(f"/v2/{APP}/manifests/1.0")[0] == 200
            before = answers()
            it.write(upstreams(f"docker.io={registry.url};rate=1GB"))
            it.hang_up()
            assert answers() == before > 0


class TestLimits:
    def test_a_smaller_cache_is_smaller_at_once(self, tmp_path: Path, registry: ImageRegistry) -> None:
        with reloading(tmp_path, upstreams(f"docker.io={registry.url}")) as it:
            it.get(f"/v2/{APP}/blobs/{LAYER_DIGEST}")
            it.write(upstreams(f"docker.io={registry.url}"), 'max_bytes = "1MiB"')
            done = it.command("reload")
            assert (done.exit_code, done.output) == (0, "max_bytes: 50% -> 1MiB\n")
            assert it.daemon.wait_for_event("evicted")["digest"] == LAYER_DIGEST

    def test_the_level_of_the_log(self, tmp_path: Path, registry: ImageRegistry) -> None:
        with reloading(tmp_path, upstreams(f"docker.io={registry.url}")) as it:
            it.write(upstreams(f"docker.io={registry.url}"), 'log_level = "error"')
            it.command("reload")
            it.write(upstreams(f"docker.io={registry.url}"), 'log_level = "info"')
            assert it.hang_up()["changed"] == ["log_level: error -> info"]
            assert [each["event"] for each in it.daemon.events].count("reloaded") == 1

    @asynchronous
    async def test_rates_and_room(self, tmp_path: Path) -> None:
        """Of bytes from neighbours, and to them, and of the store."""
        hub = "docker.io=http://a"
        settings = settings_for(
            tmp_path,
            hub,
            preheat="a.test/b:1",
            max_bytes=5,
            min_free_bytes="7%",
            ttl_s=9,
            upload_rate=MIB,
            download_rate=MIB,
        )
        store = Store.open(tmp_path / "store", max_bytes=1, min_free_bytes=0, ttl_s=0)
        catalog, origins = Catalog.open(tmp_path / "catalog"), Origins(make_upstreams(settings))
        async with BackgroundTasks() as tasks:
            host = Host(store, Limits(), tasks)
            uploading = Uploading(1, host.send_unchoke)
            server = PeerServer(
                host.servable, host.links.accept, uploading=uploading, is_far=host.is_far, rate_bytes_per_s=0
            )
            access = Access(origins, catalog, tasks, ttl_s=1)
            tags = Tags(origins, access, catalog, tasks, ttl_s=1, serve_stale=False)
            assert (host.pace.slice_bytes, server.is_paced) == (None, False)
            rules = SchedulerPreheats(replace(settings, preheat=()))
            NodeReload(origins, access, tags, host, server, tasks, preheats=rules).prepare(settings)()
            assert rules._rules._rules == settings.preheat
            assert store.quota == Quota(5, DiskShare(7), 9)
            assert host.pace.slice_bytes is not None
            assert server.is_paced
            host.close()
        origins.close()
        catalog.close()
        store.close()


class TestWhatIsNotTakenUp:
    def test_a_wrong_file_changes_nothing(self, tmp_path: Path, registry: ImageRegistry) -> None:
        with reloading(tmp_path, upstreams(f"docker.io={registry.url}")) as it:
            it.write(upstreams("docker.io=http://127.0.0.1:1"), "max_byte = 3")
            wrong = f"{it.file}: max_byte: no such key; did you mean max_bytes?"
            assert it.hang_up()["problems"] == [wrong]
            done = it.command("reload")
            assert (done.exit_code, done.output) == (2, f"p2pd: {wrong}\n")
            assert it.get(f"/v2/{APP}/manifests/1.0")[0] == 200

    def test_a_password_that_cannot_be_read_changes_nothing(self, tmp_path: Path, registry: ImageRegistry) -> None:
        with reloading(tmp_path, upstreams(f"docker.io={registry.url}")) as it:
            missing = f"docker.io=http://127.0.0.1:1;username=puller;password_file={tmp_path}/missing"
            it.write(upstreams(missing), "max_bytes = 1")
            done = it.command("reload")
            assert done.exit_code == 2
            assert "missing cannot be read" in done.output
            assert it.get(f"/v2/{APP}/manifests/1.0")[0] == 200
            assert "max_bytes = 50% (" in it.command("config").output

    def test_what_needs_a_restart_is_said_until_it_comes(self, tmp_path: Path, registry: ImageRegistry) -> None:
        with reloading(tmp_path, upstreams(f"docker.io={registry.url}")) as it:
            it.write(upstreams(f"docker.io={registry.url}"), "prefetch_layers = 1", 'join = "p2pd1_secret"')
            lines = ["needs a restart: join: none -> [hidden]", "needs a restart: prefetch_layers: 3 -> 1"]
            for _ in range(2):
                assert it.command("reload").output.splitlines() == lines
            warned = it.daemon.wait_for_event("changed, and needs a restart")
            assert warned["keys"] == ["join: none -> [hidden]", "prefetch_layers: 3 -> 1"]

    def test_who_has_no_secret(self, tmp_path: Path, registry: ImageRegistry) -> None:
        with reloading(tmp_path, upstreams(f"docker.io={registry.url}")) as it:
            (it.data / "admin-secret").unlink()
            assert it.command("reload").exit_code == 1
            with it.daemon.get_admin("/config") as page:
                assert (page.status, json.load(page)) == (403, [])


class TestInForce:
    def test_where_each_key_is_from(self, tmp_path: Path, registry: ImageRegistry) -> None:
        with reloading(tmp_path, "# first", upstreams(f"docker.io={registry.url}"), 'ttl_s = "7d"') as it:
            it.write("max_bytes = 5_000_000", 'site = "x"', upstreams(f"docker.io={registry.url}"))
            it.hang_up()
            shown = it.command("config", "--json")
            found = json.loads(shown.output)
            rows = {row["key"]: (row["value"], row["from"]) for row in found["settings"]}
            assert found["running"] is True
            assert rows["max_bytes"] == ("5000000", f"{it.file}:1")
            assert rows["upstream"] == (f"docker.io={registry.url}", f"{it.file}:3")
            assert rows["ttl_s"] == ("30d", None)
            assert rows["site"] == ("", None)  # it waits for a restart
            assert rows["mirror"] == ("127.0.0.1:0", "--mirror")

    def test_without_a_daemon_what_one_would_start_with(self, tmp_path: Path) -> None:
        file = tmp_path / "p2pd.toml"
        file.write_text('join = "p2pd1_secret"\nscheduler = """\nttl_s = 3\n"""\n'.replace("ttl_s = 3", "https://a:1"))
        options = [f"--config={file}", "--admin=127.0.0.1:1", f"--data={tmp_path}"]
        done = CliRunner().invoke(app, ["config", *options], env={"P2PD_MAX_BYTES": "1GiB"})
        assert done.exit_code == 0
        first, *lines = done.output.splitlines()
        assert first == "# No daemon answers at 127.0.0.1:1: this is what one would start with."
        rows = [line.split() for line in lines]
        assert ["join", "=", "[hidden]", f"{file}:1"] in rows
        assert ["scheduler", "=", "https://a:1", f"{file}:2"] in rows
        [room] = [row for row in rows if row[0] == "max_bytes"]
        assert (room[:3], room[-1]) == (["max_bytes", "=", "1GiB"], "P2PD_MAX_BYTES")
        assert ["upload_slots", "=", "5", "default"] in rows
        assert "secret" not in done.output
