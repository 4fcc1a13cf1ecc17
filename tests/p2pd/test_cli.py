"""The command line as a whole: help, flags, exit codes, and `p2pd status`."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from p2pd.admin.client import AdminClient, DaemonRefusedError
from p2pd.cli.app import COMMANDS, App, app
from p2pd.cli.options import with_settings
from p2pd.config.settings import KEYS, Settings
from p2pd.config.values import ConfigError, parse_address
from peer.errors import P2pdError
from peer.store import Store
from tests.p2pd.admin import Admin, serve


def p2pd(*args: str, **environ: str) -> Result:
    return CliRunner().invoke(app, args, env={"P2PD_CONFIG": None, **environ})


def test_help_names_every_command_and_imports_none() -> None:
    result = p2pd("--help")
    assert result.exit_code == 0
    assert all(f"  {name} " in result.stdout and text in result.stdout for name, text in COMMANDS.items())
    code = "import sys, p2pd.cli.app; sys.exit(bool({'pydantic', 'structlog', 'aiohttp', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_every_command_has_a_module() -> None:
    assert all(importlib.util.find_spec(f"p2pd.cli.{name}") for name in COMMANDS)


def test_run_has_a_flag_for_every_key() -> None:
    result = p2pd("run", "--help")
    assert result.exit_code == 0
    for key in KEYS:
        assert f"--{key.replace('_', '-')}" in result.stdout
        assert f"P2PD_{key.upper()}" in result.stdout


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
    click.echo(f"{settings.max_bytes} {settings.serve_stale_tags} {names} {settings.ttl_s}")


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ([], "53687091200 False ['docker.io'] 7.0"),
        (["--max-bytes", "1k", "--serve-stale-tags"], "1000 True ['docker.io'] 7.0"),
        (
            ["--no-serve-stale-tags", "--upstream", "a=http://a", "--upstream", "b=http://b"],
            "53687091200 False ['a', 'b'] 7.0",
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


def test_status_for_people(admin: Admin) -> None:
    admin.status = {
        "ready": True,
        "cache": {"used_bytes": 2048, "blobs": 3},
        "uptime_s": 7200.5,
        "reasons": [],
        "upstreams": [{"upstream": "docker.io"}],
    }
    result = p2pd("status", "--admin", admin.address)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "ready                 yes",
        "cache.used_bytes      2.0KiB",
        "cache.blobs           3",
        "uptime_s              2h",
        "reasons               -",
        "upstreams.0.upstream  docker.io",
    ]


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
