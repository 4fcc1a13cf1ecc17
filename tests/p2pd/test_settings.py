"""The settings: where they come from, which source goes first, and what is said of what is wrong."""

from __future__ import annotations

import re
import tomllib
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.config.settings import KEYS
from p2pd.config.sources import Sources, load
from p2pd.config.values import Address, ConfigError
from peer.core.eviction import DiskShare

EXAMPLE = Path(__file__).parents[2] / "docker" / "p2pd.example.toml"
NOWHERE = Path("/nonexistent/p2pd.toml")


def written(folder: Path, text: str) -> Path:
    file = folder / "p2pd.toml"
    file.write_text(text)
    return file


def problems(flags: dict[str, object], environ: dict[str, str], file: Path | None = None) -> list[str]:
    """What is wrong, a line each."""
    with pytest.raises(ConfigError) as caught:
        load(flags, environ, file=file, default_file=NOWHERE)
    return str(caught.value).splitlines()


def test_defaults() -> None:
    settings = load({}, {}, default_file=NOWHERE)
    assert settings.mirror == Address("127.0.0.1", 65001)
    assert settings.max_bytes == DiskShare(50)
    assert [upstream.name for upstream in settings.upstream] == ["docker.io"]


def test_flags_go_before_variables_those_before_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, 'max_bytes = 1\nttl_s = 1\ntag_ttl_s = 1\nupstream = ["a=http://a", "b=http://b"]')
    settings = load(
        {"max_bytes": "3"}, {"P2PD_MAX_BYTES": "2", "P2PD_TTL_S": "2", "P2PD_UPSTREAM": "c=http://c"}, file=file
    )
    assert (settings.max_bytes, settings.ttl_s, settings.tag_ttl_s) == (3, 2, 1)
    assert [upstream.name for upstream in settings.upstream] == ["c"]


def test_a_variable_has_several_upstreams_with_white_space_between() -> None:
    settings = load({}, {"P2PD_UPSTREAM": "a=http://a\n  b=http://b"}, default_file=NOWHERE)
    assert [upstream.name for upstream in settings.upstream] == ["a", "b"]


def test_a_commands_own_defaults_go_before_the_keys_and_after_all_else(tmp_path: Path) -> None:
    own = {"admin": "127.0.0.1:1", "listen": "127.0.0.1:2", "mirror": "127.0.0.1:3"}
    file = written(tmp_path, 'listen = "127.0.0.1:4"')
    settings = load({"mirror": "127.0.0.1:5"}, {}, file=file, defaults=own)
    assert [each.port for each in (settings.admin, settings.listen, settings.mirror)] == [1, 4, 5]
    assert settings.peer == load({}, {}, default_file=NOWHERE).peer


def test_an_empty_variable_says_nothing() -> None:
    assert load({}, {"P2PD_MAX_BYTES": "", "P2PD_CONFIG": ""}, default_file=NOWHERE) == load(
        {}, {}, default_file=NOWHERE
    )


def test_which_file_is_read(tmp_path: Path) -> None:
    (by_flag := tmp_path / "flag").write_text("max_bytes = 1")
    (by_variable := tmp_path / "variable").write_text("max_bytes = 2")
    (by_default := tmp_path / "default").write_text("max_bytes = 3")
    named = {"P2PD_CONFIG": str(by_variable)}
    assert load({}, named, file=by_flag, default_file=by_default).max_bytes == 1
    assert load({}, named, default_file=by_default).max_bytes == 2
    assert load({}, {}, default_file=by_default).max_bytes == 3


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    assert problems({}, {}, NOWHERE) == [f"{NOWHERE}: no such file"]
    assert problems({}, {"P2PD_CONFIG": str(NOWHERE)}) == [f"{NOWHERE}: no such file"]
    assert problems({}, {}, tmp_path) == [f"{tmp_path}: Is a directory"]


@pytest.mark.parametrize("content", [b"max_bytes =", b"\xff", b"a = 1\na = 2"])
def test_a_file_that_is_not_toml(tmp_path: Path, content: bytes) -> None:
    (file := tmp_path / "x").write_bytes(content)
    (problem,) = problems({}, {}, file)
    assert problem.startswith(f"{file}: not TOML: ")


def test_each_problem_has_a_line_that_tells_source_value_and_what_is_expected(tmp_path: Path) -> None:
    file = written(tmp_path, 'max_bytes = "lots"\nlog_level = 4\nserve_stale_tags = 2\nupstream = ["a=b", 3]')
    assert sorted(problems({"connections_per_blob": "0"}, {"P2PD_TTL_S": "1y"}, file)) == sorted(
        [
            (
                f'{file}: max_bytes = "lots": expected a size such as 50GiB, 500MB or a whole number of bytes'
                ", or a part of the disk such as 20%"
            ),
            f"{file}: log_level = 4: expected one of debug, info, warning, error",
            f"{file}: serve_stale_tags = 2: expected true or false",
            f"{file}: upstream: 'a': expected a URL that starts with https://HOST, http://HOST or oci-layout:///PATH",
            f"{file}: upstream: '3': expected NAME=URL, such as docker.io=https://registry-1.docker.io",
            '--connections-per-blob = "0": expected a whole number from 1 to 9999',
            'P2PD_TTL_S = "1y": expected a duration such as 30d, 12h, 5m, 90s or a number of seconds',
        ]
    )


def test_what_means_nothing_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    file = written(tmp_path, 'max-bytes = 1\n"%\\n" = 1\n[mirror_]\nport = 1')
    assert problems({}, {"P2PD_MIN_FREE": "1", "P2PD_data": "/x"}, file) == [
        f'{file}: "max-bytes": no such key; did you mean max_bytes?',
        f'{file}: "%\\n": no such key; `p2pd run --help` has them all',
        f"{file}: mirror_: no such key; did you mean mirror?",
        "P2PD_MIN_FREE: no such key; did you mean P2PD_MIN_FREE_BYTES?",
        "P2PD_data: no such key; did you mean P2PD_DATA?",
    ]


@pytest.mark.parametrize("key", ["mirror", "admin", "https_proxy"])
@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "node.example:1"])
def test_an_address_that_others_reach_needs_allow_open(key: str, address: str) -> None:
    (problem,) = problems({key: address}, {})
    assert problem.startswith(f'--{key.replace("_", "-")} = "{address}": anyone who reaches this address could ')
    assert "allow_open = true" in problem
    opened = load({key: address, "allow_open": True}, {}, default_file=NOWHERE)
    assert str(getattr(opened, key)) == address


def test_a_wrong_allow_open_is_one_problem() -> None:
    assert problems({"mirror": "0.0.0.0:1"}, {"P2PD_ALLOW_OPEN": "maybe"}) == [
        'P2PD_ALLOW_OPEN = "maybe": expected true or false'
    ]


@pytest.mark.parametrize(
    ("upstream", "problem"),
    [
        ([], "--upstream: expected at least one upstream"),
        (3, "--upstream = 3: expected a list such as"),
        (["a=http://a", "A=http://b"], "--upstream: a is given twice"),
    ],
)
def test_upstreams_as_a_whole(upstream: object, problem: str) -> None:
    (line,) = problems({"upstream": upstream}, {})
    assert line.startswith(problem)


@pytest.mark.parametrize(
    "upstream", ["a=https://me:hunter2@a", "a=https://me:hun/hunter2@a", "a=https://a;password=x;hunter2,hunter2"]
)
def test_a_password_that_is_in_the_wrong_place_is_not_shown(upstream: str) -> None:
    (line,) = problems({"upstream": [upstream]}, {})
    assert "hunter2" not in line


@given(key=st.sampled_from(list(KEYS)), text=st.text(min_size=1))
def test_any_text_in_a_variable_gives_settings_or_lines_that_name_it(key: str, text: str) -> None:
    name = f"P2PD_{key.upper()}"
    try:
        load({}, {name: text}, default_file=NOWHERE)
    except ConfigError as error:
        lines = str(error).splitlines()
    else:
        lines = []
    assert all(line.startswith(name) for line in lines)


def test_everything_and_what_is_inside_by_flag_by_variable_and_by_file(tmp_path: Path) -> None:
    file = written(tmp_path, 'upstream = ["ghcr.io", "*"]\nallow_private = ["10.0.0.0/8", "registry.corp"]')
    variables = {"P2PD_UPSTREAM": "ghcr.io *", "P2PD_ALLOW_PRIVATE": "10.0.0.0/8 registry.corp"}
    flags = {"upstream": ("ghcr.io", "*"), "allow_private": ("10.0.0.0/8", "registry.corp")}
    for settings in (load({}, {}, file=file), load({}, variables), load(flags, {}, default_file=NOWHERE)):
        assert [upstream.name for upstream in settings.named_upstreams] == ["ghcr.io"]
        assert settings.any_host is not None
        assert settings.allow_private == ("10.0.0.0/8", "registry.corp")
    assert load({}, {}, default_file=NOWHERE).any_host is None


def test_nonsense_about_everything_is_told() -> None:
    assert problems({"upstream": ("*=https://a",), "allow_private": ("10.0.0.0/40",)}, {}) == [
        "--upstream: '*': the upstream * is every registry at its own address: it has no URL",
        "--allow-private: expected hosts, addresses and networks, such as registry.corp, *.corp or 10.0.0.0/8",
    ]


def test_settings_do_not_change() -> None:
    settings = load({}, {}, default_file=NOWHERE)
    with pytest.raises(FrozenInstanceError):
        settings.max_bytes = 1  # type: ignore[misc]


def test_the_example_has_every_key_with_its_default(tmp_path: Path) -> None:
    """What is commented out there says what is so without it."""
    text = EXAMPLE.read_text()
    assert load({}, {}, file=EXAMPLE) == load({}, {}, default_file=NOWHERE)
    keys_alone = re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE)
    assert set(tomllib.loads(keys_alone)) == set(KEYS)
    assert load({}, {}, file=written(tmp_path, keys_alone)) == load({}, {}, default_file=NOWHERE)


def test_services_wait_longer_than_the_daemon_takes_to_stop() -> None:
    grace_s = load({}, {}, default_file=NOWHERE).shutdown_grace_s
    waits = {
        "p2pd.service": r"TimeoutStopSec=(\d+)",
        "compose.yaml": r"stop_grace_period: (\d+)s",
        "kubernetes.yaml": r"terminationGracePeriodSeconds: (\d+)",
    }
    for file, pattern in waits.items():
        found = re.search(pattern, (EXAMPLE.parent / file).read_text())
        assert found is not None
        assert int(found[1]) > grace_s


def test_services_can_be_reloaded() -> None:
    for file, how in {
        "p2pd.service": "/opt/p2pd/bin/p2pd reload",
        "p2pd-scheduler.service": '/bin/sh -c "kill -HUP $MAINPID"',
    }.items():
        assert f"\nExecReload={how}\n" in (EXAMPLE.parent / file).read_text()


def test_a_key_is_found_on_its_line(tmp_path: Path) -> None:
    """Also where a text of several lines has something like it."""
    file = written(tmp_path, '# max_bytes = 1\nscheduler = """\nhttp://a:1\n"""\n\n  "max_bytes" = 2\n')
    places = Sources({"ttl_s": "3"}, {"P2PD_SITE": "x"}, file).read().places
    assert places == {
        "scheduler": f"{file}:2",
        "max_bytes": f"{file}:6",
        "site": "P2PD_SITE",
        "ttl_s": "--ttl-s",
    }
