"""The command line as a whole: help, flags, exit codes, and `p2pd status`."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from p2pd.admin.client import AdminClient, DaemonRefusedError
from p2pd.cli.app import COMMANDS, App, app
from p2pd.cli.options import GROUPS, with_settings
from p2pd.cli.status import _swarm
from p2pd.config.settings import KEYS, Settings
from p2pd.config.values import ConfigError, parse_address, show_room
from peer.errors import P2pdError
from peer.store import Store
from tests.p2pd.admin import Admin, serve
from tests.support.registry_server import PATIENCE_S


def p2pd(*args: str, **environ: str) -> Result:
    return CliRunner().invoke(app, args, env={"P2PD_CONFIG": None, **environ})


def test_help_names_every_command_and_imports_none() -> None:
    result = p2pd("--help")
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    assert all(f" {name} {text}" in shown for name, text in COMMANDS.items())
    code = "import sys, p2pd.cli.app; sys.exit(bool({'pydantic', 'structlog', 'aiohttp', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE_S).returncode == 0


def test_help_fills_the_terminal() -> None:
    wide = CliRunner().invoke(app, ["run", "--help"], terminal_width=118, env={"P2PD_CONFIG": None}).stdout
    assert 100 < max(map(len, wide.splitlines())) <= 118


@pytest.mark.parametrize("daemon", ["run", "scheduler"])
def test_help_has_the_keys_by_subject(daemon: str) -> None:
    shown = re.split(r"^([A-Z][a-z ]+):\n", p2pd(daemon, "--help").stdout, flags=re.MULTILINE)[1:]
    by_subject = {
        title: re.findall(r"^  (?:-h, )?--([a-z-]+)", text, re.MULTILINE)
        for title, text in zip(shown[::2], shown[1::2], strict=True)
    }
    flags = {flag for own in by_subject.values() for flag in own}
    known = {title: [name.replace("_", "-") for name in names] for title, names in GROUPS.items()}
    present = {title: [flag for flag in own if flag in flags] for title, own in known.items()}
    assert by_subject == {title: own for title, own in present.items() if own} | {"More": ["config", "help"]}
    assert daemon != "run" or present == known


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("stauts",), "status"),
        (("cache", "verfy"), "verify"),
        (("host", "revok"), "revoke"),
        (("configure", "dockr"), "docker"),
        (("completion", "bsh"), "bash"),
    ],
)
def test_what_is_misspelt_gets_the_nearest_word(words: tuple[str, ...], near: str) -> None:
    result = p2pd(*words)
    assert result.exit_code == 2
    assert f"Did you mean '{near}'?" in result.stderr
    assert result.stderr.count("Did you mean") == 1


def test_what_is_like_nothing_gets_no_suggestion() -> None:
    result = p2pd("qqqqq")
    assert (result.exit_code, "Did you mean" in result.stderr) == (2, False)


def test_version_of_the_command_and_of_the_daemon(admin: Admin) -> None:
    own = metadata.version("p2pd")
    admin.status = {"version": own}
    assert p2pd("version", "--admin", admin.address).stdout.splitlines() == [
        f"p2pd {own}, Python {platform.python_version()}",
        f"the daemon at {admin.address}: the same",
    ]
    admin.status = {"version": "0.0.7"}
    assert "0.0.7; restart it" in p2pd("version", "--admin", admin.address).stdout
    assert json.loads(p2pd("version", "--json", "--admin", "127.0.0.1:1").stdout)["daemon"] is None


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_completes_commands(shell: str) -> None:
    printed = p2pd("completion", shell).stdout
    assert "_P2PD_COMPLETE" in printed
    argv = [sys.executable, "-m", "p2pd"]
    words = {"COMP_WORDS": "p2pd sta", "COMP_CWORD": "1" if shell != "fish" else "sta"}
    environ = {**os.environ, "_P2PD_COMPLETE": f"{shell}_complete", **words}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert "status" in done.stdout
    assert "scheduler" not in done.stdout


def test_every_command_has_a_module() -> None:
    assert all(importlib.util.find_spec(f"p2pd.cli.{name.replace('-', '_')}") for name in COMMANDS)


def test_run_has_a_flag_for_every_key() -> None:
    result = p2pd("run", "--help")
    assert result.exit_code == 0
    for key in KEYS:
        assert f"--{key.replace('_', '-')}" in result.stdout
        assert f"P2PD_{key.upper()}" in result.stdout
    assert "default: ]" not in result.stdout


@pytest.mark.parametrize(
    ("args", "environ"),
    [
        (["run", "--max-bytes", "lots"], {}),
        (["run"], {"P2PD_MAX_BYTES": "lots"}),
        (["run", "--config", "/nonexistent/p2pd.toml"], {}),
        (["status", "--admin", "0.0.0.0:1"], {}),
    ],
)
def test_a_wrong_configuration_is_one_line_and_exit_code_2(args: list[str], environ: dict[str, str]) -> None:
    result = p2pd(*args, **environ)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("p2pd: ")


@pytest.mark.parametrize("args", [["rum"], ["run", "--max-byte", "1"], ["run", "extra"], ["cache", "rm"]])
def test_a_wrong_command_line_is_exit_code_2(args: list[str]) -> None:
    assert p2pd(*args).exit_code == 2


@click.command("show")
@with_settings("max_bytes", "serve_stale_tags", "upstream")
def show(settings: Settings) -> None:
    """Prints what came of the flags."""
    names = [upstream.name for upstream in settings.upstream]
    click.echo(f"{show_room(settings.max_bytes)} {settings.serve_stale_tags} {names} {settings.ttl_s}")


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ([], "50% False ['docker.io'] 7.0"),
        (["--max-bytes", "1k", "--serve-stale-tags"], "1000 True ['docker.io'] 7.0"),
        (
            ["--no-serve-stale-tags", "--upstream", "a=http://a", "--upstream", "b=http://b"],
            "50% False ['a', 'b'] 7.0",
        ),
    ],
)
def test_flags_and_variables_become_settings(args: list[str], shown: str) -> None:
    result = CliRunner().invoke(show, args, env={"P2PD_TTL_S": "7", "P2PD_CONFIG": None})
    assert (result.exit_code, result.stdout) == (0, f"{shown}\n")


class One(App):
    """The command line with one command, that ends as it is told."""

    def __init__(self, ending: BaseException) -> None:
        super().__init__("p2pd")
        self.ending = ending

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:  # noqa: ARG002 # click's signature
        def callback() -> None:
            raise self.ending

        return click.Command(cmd_name, callback=callback)


@pytest.mark.parametrize(
    ("ending", "exit_code", "stderr"),
    [
        (P2pdError("the disk is full"), 1, "p2pd: the disk is full\n"),
        (ConfigError("a\nb"), 2, "p2pd: a\nb\n"),  # what is below may be for pasting
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(7), 7, ""),
    ],
)
def test_how_a_command_ends(ending: BaseException, exit_code: int, stderr: str) -> None:
    result = CliRunner().invoke(One(ending), ["x"])
    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", stderr)


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    store = Store.open(tmp_path / "store", max_bytes=1, min_free_bytes=0, ttl_s=0)
    try:
        with serve(Admin(store)) as serving:
            yield serving
    finally:
        store.close()


NODE = {
    "version": "1.2.0",
    "uptime_s": 7200.5,
    "ready": True,
    "degraded": ["the store is full, nothing new is stored: free disk space"],
    "scheduler": "http://10.0.0.1:65003",
    "admin": "127.0.0.1:65004",
    "advertise": "10.0.0.7:65002",
    "mirror": "127.0.0.1:65001",
    "data": "/var/lib/p2pd",
    "upstreams": ["docker.io", "*"],
    "upstream_settings": [{"name": "docker.io", "urls": ["https://registry-1.docker.io"]}],
    "cache": {
        "blobs": 3,
        "used_bytes": 2048,
        "max_bytes": 4096,
        "min_free_bytes": 1024,
        "evicted": 2,
        "lost": 1,
        "condition": "full",
        "cause": "no room",
    },
    "scrub": {"rate_bytes_per_s": 0, "read_bytes": 0, "bad": 0, "last_pass": None},
    "served": {
        "hits": 3,
        "misses": 1,
        "hit_bytes": 3072,
        "miss_bytes": 1024,
        "last_refusal": {"status": 502, "upstream": "docker.io", "kind": "blobs", "client": "containers", "age_s": 61},
    },
    "downloads": {"active": 2, "origin_bytes": 1024, "peer_bytes": 3072, "corrupt": 1, "corrupt_pieces": 0},
    "swarm": {
        "host": "node-1",
        "place": ["east", "r1"],
        "scheduler_connected": False,
        "alone": True,
        "neighbours": 2,
        "unreachable_reports": 1,
        "scheduler_out_s": 180.0,
        "last_error": "http://10.0.0.1:65003: connection refused",
        "last_error_age_s": 2.0,
        "certificate_expires_s": 86400.0,
        "sent_bytes": 5120,
    },
    "clients": {"docker": 1.6, "containers": 60.0, "libpod": 5.0, "curl": 3.0},
}
NODE_FOR_PEOPLE = """\
Daemon
  version          1.2.0, up for 2h
  ready            yes
  problem          the store is full, nothing new is stored: free disk space
  mirror           127.0.0.1:65001, for runtimes
  admin            127.0.0.1:65004, for commands

Clients
  answers          4 manifests and blobs, 75 % from the cache (hit rate)
  bytes            4.0KiB, 3.0KiB from the cache
  docker           served 2s ago
  podman           served 5s ago
  curl             served 3s ago
  last error       1m ago: status 502 for blobs of docker.io, asked by podman

Downloads
  from registries  1.0KiB
  from neighbours  3.0KiB, 75 % of what came
  to neighbours    5.0KiB
  now              2 blobs on their way
  discarded        1 blobs: they were not what their digests say

Swarm
  this host        node-1 in east / r1
  address          10.0.0.7:65002, for other hosts: 1 hosts could not connect there
  scheduler        not connected for 3m: http://10.0.0.1:65003
  alone            yes: without a scheduler new images come from registries
  neighbours       2 hosts to exchange pieces with now
  last error       2s ago: http://10.0.0.1:65003: connection refused
  certificate      good for 1d

Cache
  used             2.0KiB of 4.0KiB, by 3 blobs
  directory        /var/lib/p2pd
  kept free        1.0KiB of the disk
  state            full: no room
  removed          2 blobs for room or age, 1 missing or damaged
  re-read          never (scrub_rate is 0)

Upstreams
  docker.io        https://registry-1.docker.io
  *                any registry with a public address
"""


def test_status_for_people(admin: Admin) -> None:
    admin.status = NODE
    result = p2pd("status", "--admin", admin.address)
    assert (result.exit_code, result.stdout) == (0, NODE_FOR_PEOPLE)


def test_status_of_a_node_without_a_swarm(admin: Admin) -> None:
    admin.status = {"swarm": {"host": "", "scheduler_connected": False, "alone": True}, "clients": {}}
    assert p2pd("status", "--admin", admin.address).stdout.splitlines() == [
        "Clients",
        "  runtimes   none was served since the start",
        "",
        "Swarm",
        "  scheduler  none is configured: this node pulls from registries, and shares with nobody",
    ]


def test_status_of_a_scheduler(admin: Admin) -> None:
    admin.status = {"listen": "10.0.0.1:65003", "scheduler": {"hosts": 16, "swarms": 2, "leases_given": 7}}
    assert p2pd("status", "--admin", admin.address).stdout.splitlines() == [
        "Daemon",
        "  listen        10.0.0.1:65003, for hosts",
        "",
        "Scheduler",
        "  hosts         16 hosts: p2pd host ls",
        "  swarms        2 blobs that hosts want or hold",
        "  leases given  7 such ranges since the start",
    ]


@pytest.mark.parametrize("wrong", [None, 1, "x", [], {}, [{}], {"a": []}])
def test_status_of_another_version_is_shown_as_far_as_it_goes(admin: Admin, wrong: object) -> None:
    for key in NODE:
        admin.status = {**NODE, key: wrong}
        result = p2pd("status", "--admin", admin.address)
        assert result.exit_code == 0, result.exception


def test_status_as_json(admin: Admin) -> None:
    admin.status = {"ready": False, "reasons": ["no origin"]}
    result = p2pd("status", "--json", P2PD_ADMIN=admin.address)
    assert (result.exit_code, json.loads(result.stdout)) == (0, admin.status)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((503, b'{"error": "stopping: try again"}'), "stopping: try again"),
        ((500, b"{}"), "the daemon answered with status 500"),
        ((200, b"[1, 2]"), "is not understood: is the daemon of another version?"),
        ((200, b"<html>"), "is not the admin port of p2pd"),
        ((200, b"\xff"), "is not the admin port of p2pd"),
    ],
)
def test_status_from_what_is_not_well(admin: Admin, answer: Any, said: str) -> None:
    admin.answers["/status"] = answer
    result = p2pd("status", "--admin", admin.address)
    assert result.exit_code == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_daemon_that_hangs_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = parse_address(f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DaemonRefusedError, match=r"gave no answer within 0\.05 s"):
            AdminClient(address, answer_timeout_s=0.05).status()


def test_status_has_a_line_for_each_of_several_schedulers() -> None:
    found = {
        "scheduler": "http://a:1,http://b:1",
        "swarm": {
            "host": "node-1",
            "scheduler_connected": True,
            "schedulers": [
                {"url": "http://a:1", "connected": True, "blobs": 12},
                {"url": "http://b:1", "connected": False, "blobs": 0, "out_s": 180.0},
            ],
        },
    }
    assert [row for row in _swarm(found) if row[0] == "scheduler"] == [
        ("scheduler", "connected: http://a:1, which has 12 of this host's blobs"),
        ("scheduler", "not connected for 3m: http://b:1, others have its blobs meanwhile"),
    ]


def test_status_has_what_runtimes_hold(admin: Admin) -> None:
    admin.status = {
        "cache": {"used_bytes": 0, "max_bytes": 1024, "blobs": 0},
        "adopted": {"blobs": 2, "size_bytes": 2048, "unread": 3},
    }
    shown = p2pd("status", "--admin", admin.address).stdout
    assert "2.0KiB in files of container runtimes, 3 files are still to be read" in shown
