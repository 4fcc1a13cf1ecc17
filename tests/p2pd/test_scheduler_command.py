"""`p2pd scheduler` as a process: hosts join it, the admin port tells of it, and it ends in order."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from p2pd.cli.app import app
from p2pd.config.settings import Settings
from p2pd.config.sources import load
from p2pd.daemon.scheduler_inside import scheduling_of
from p2pd.demo.process import command
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.codec import FROM_HOST, TO_HOST
from scheduler.protocol.connection import PATH, Closing
from scheduler.protocol.from_host import Hello, Join
from scheduler.protocol.to_host import Welcome
from tests.support.daemon_process import Daemon, assert_fails
from tests.support.registry_server import PATIENCE_S

HELLO = Hello("host-1", 1, 1, "127.0.0.1:1")
JOIN = Join(b"d" * 32, "docker.io", "library/app", 1 << 20)


def argv_for(**options: object) -> list[str]:
    return command("scheduler", {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", **options})


def scheduler_in(tmp_path: Path) -> AbstractContextManager[Daemon]:
    """A scheduler that is ready."""
    return running(tmp_path, data=tmp_path / "data")


@contextmanager
def running(tmp_path: Path, **options: object) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path, argv_for(**options))
    try:
        daemon.wait_for("READY=1")
        daemon.wait_for(f"STATUS=listen at {daemon.wait_for_event('ready')['listen']}")
        yield daemon
    finally:
        daemon.close()


def metrics(daemon: Daemon) -> dict[str, float]:
    with daemon.get_admin("/metrics") as response:
        families = text_string_to_metric_families(response.read().decode())
        return {sample.name: sample.value for family in families for sample in family.samples}


def test_it_is_healthy_and_ready(tmp_path: Path) -> None:
    with scheduler_in(tmp_path) as daemon:
        assert daemon.admin_json("/healthz") == (200, {"healthy": True})
        assert daemon.admin_json("/readyz") == (200, {"ready": True, "reasons": [], "degraded": []})
        assert daemon.admin_json("/cache")[0] == 404
        ready = daemon.wait_for_event("ready")
        status = daemon.admin_json("/status")[1]
        assert (status["listen"], status["admin"], status["ready"]) == (ready["listen"], ready["admin"], True)
        assert status["scheduler"]["hosts"] == 0


def test_a_host_is_let_in_and_told_when_the_scheduler_stops(tmp_path: Path) -> None:
    async def pull(daemon: Daemon) -> None:
        host, port = daemon.address("listen")
        async with (
            asyncio.timeout(PATIENCE_S),
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://{host}:{port}{PATH}") as link,
        ):
            await link.send_bytes(FROM_HOST.encode(HELLO))
            assert isinstance(TO_HOST.decode(await link.receive_bytes()), Welcome)
            await link.send_bytes(FROM_HOST.encode(JOIN))
            await link.receive_bytes()  # it has joined: what is told of it from now on has it
            now = await asyncio.to_thread(metrics, daemon)
            assert now["p2pd_build_info"] == 1
            assert now["process_resident_memory_bytes"] > 0
            names = ("hosts", "swarms", "members", "leases_active", "leases_total", "quarantined")
            assert [now[f"p2pd_scheduler_{name}"] for name in names] == [1, 1, 1, 1, 1, 0]
            status = (await asyncio.to_thread(daemon.admin_json, "/status"))[1]["scheduler"]
            assert (status["hosts"], status["members"], status["leases_given"]) == (1, 1, 1)
            daemon.process.send_signal(signal.SIGTERM)
            async for _ in link:
                pass
            assert link.close_code == Closing.STOPPING

    with scheduler_in(tmp_path) as daemon:
        asyncio.run(pull(daemon))
        assert daemon.wait() == 0
        daemon.wait_for("STOPPING=1")
        assert [event["event"] for event in daemon.events] == ["ready", "stopping", "stopped"]


def test_host_ls_shows_what_the_scheduler_sees(tmp_path: Path) -> None:
    hello = replace(HELLO, address="10.0.0.7:65002", site="east", rack="r1", software="1.2.3")

    async def join_and_list(daemon: Daemon) -> list[Result]:
        host, port = daemon.address("listen")
        async with (
            asyncio.timeout(PATIENCE_S),
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://{host}:{port}{PATH}") as link,
        ):
            await link.send_bytes(FROM_HOST.encode(hello))
            await link.receive_bytes()
            await link.send_bytes(FROM_HOST.encode(JOIN))
            await link.receive_bytes()
            place = ("--admin", daemon.wait_for_event("ready")["admin"], "--data", str(tmp_path / "data"))
            return [
                await asyncio.to_thread(CliRunner().invoke, app, ["host", "ls", *place, *more])
                for more in ((), ("--json",))
            ]

    with scheduler_in(tmp_path) as daemon:
        listed, as_json = asyncio.run(join_and_list(daemon))
    head, line = (each.split() for each in listed.stdout.splitlines())
    assert head[:7] == ["HOST", "STATE", "ADDRESS", "PLACE", "VERSION", "RATE", "SWARMS"]
    assert line[:7] == ["host-1", "connected", "10.0.0.7:65002", "east/r1", "1.2.3", "0B/s", "1"]
    [row] = json.loads(as_json.stdout)
    assert (row["id"], row["version"], row["swarms"], row["wants"], row["connected"]) == ("host-1", "1.2.3", 1, 1, True)
    assert (row["certified"], row["expires"], row["revoked"]) == (False, None, None)


def test_a_web_page_whose_name_was_bound_to_this_machine_reads_nothing(tmp_path: Path) -> None:
    with scheduler_in(tmp_path) as daemon:
        connection = http.client.HTTPConnection(*daemon.address("admin"), timeout=PATIENCE_S)
        connection.request("GET", "/status", headers={"Host": "evil.example", "Connection": "close"})
        with connection.getresponse() as response:
            assert (response.status, list(json.load(response))) == (421, ["error"])


def test_its_keys_are_what_it_goes_by() -> None:
    settings = load(
        {"connections_per_origin": 8, "connections_per_blob": 2, "tag_ttl_s": "3s", "scheduler_wait_s": "4s"},
        {},
        default_file=Path("/nonexistent/p2pd.toml"),
    )
    going = scheduling_of(settings)
    assert (going.leases_per_origin, going.leases_per_host, going.leases_per_blob) == (8, 6, 2)
    assert (going.tag_ttl_s, going.tag_tell_s) == (3, 2)
    assert scheduling_of(Settings()) == SchedulerSettings(), "the defaults are the scheduler's own"


@pytest.mark.parametrize("name", ["listen", "admin"])
def test_the_port_is_taken(name: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_fails(
            argv_for(data=tmp_path, **{name: address}), f"p2pd: cannot listen on {address}: Address already in use"
        )


def test_it_has_its_own_defaults() -> None:
    shown = " ".join(CliRunner().invoke(app, ["scheduler", "--help"], env={"P2PD_CONFIG": None}).stdout.split())
    assert "[P2PD_LISTEN; default: 127.0.0.1:65003]" in shown
    assert "[P2PD_ADMIN; default: 127.0.0.1:65005]" in shown
    assert all(f"--{name} " in shown for name in ("connections-per-origin", "connections-per-blob", "tag-ttl-s"))
    assert "default:/var/lib/p2pd-scheduler]" in shown.replace(" ", ""), "a line may end within it"


def test_others_reach_its_admin_port_only_if_that_was_said(tmp_path: Path) -> None:
    (file := tmp_path / "p2pd.toml").touch()
    result = CliRunner().invoke(app, ["scheduler", "--config", str(file), "--admin", "0.0.0.0:65005"])
    assert result.exit_code == 2
    assert "allow_open = true" in result.stderr


def test_where_no_ca_can_be_kept_it_serves_open_clusters_as_before(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with running(tmp_path, data=tmp_path / "data") as daemon:
        assert daemon.wait_for_event("no CA can be kept: hosts are served without certificates")
    assert_fails(
        argv_for(data=tmp_path / "data", listen="0.0.0.0:0"),
        f"p2pd: {tmp_path}/data/scheduler cannot be made: Not a .*",
    )


def test_sighup_has_the_level_of_the_log_read_again(tmp_path: Path) -> None:
    file = tmp_path / "p2pd.toml"
    file.touch()
    with running(tmp_path, config=file, data=tmp_path / "data") as daemon:
        file.write_text('log_level = "debug"\ntag_ttl_s = 1')
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.wait_for_event("reloaded")["changed"] == ["log_level: info -> debug"]
        waiting = daemon.wait_for_event("changed, and needs a restart")["keys"]
        assert waiting == ["tag_ttl_s: 10s -> 1s"]
        assert daemon.admin_json("/healthz") == (200, {"healthy": True})
