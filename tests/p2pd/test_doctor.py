"""What the doctor says of a node, on fakes of what it sees."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from p2pd.config.settings import Settings, load
from p2pd.configure.plan import configure
from p2pd.configure.request import request_of
from p2pd.configure.runtime import ConfigureError
from p2pd.configure.runtimes import RUNTIMES
from p2pd.doctor import daemon, disk_space, runtimes, upstreams
from p2pd.doctor.environment import (
    DiskSpace,
    Environment,
    HttpReply,
    Owner,
    UnreachableError,
)
from p2pd.doctor.result import Check, Level
from p2pd.doctor.run import CHECKS, run_checks
from tests.p2pd.memory_tree import MemoryTree

GIB = 1024**3
ROOMY = DiskSpace(500 * GIB, 100 * GIB)
PRIVATE = Owner(1234, 0o700)
NO_FILE = Path("/nonexistent/p2pd.toml")
MIRROR, ADMIN = "http://127.0.0.1:65001", "http://127.0.0.1:65004"
METRICS = """\
# TYPE p2pd_mirror_last_success_timestamp_seconds gauge
p2pd_mirror_last_success_timestamp_seconds{upstream="a"} 100.0
p2pd_mirror_last_success_timestamp_seconds{upstream="b"} 940.0
# TYPE process_max_fds gauge
process_max_fds 1.048576e+06
# TYPE process_open_fds gauge
process_open_fds 40.0
"""


def settings_of(**flags: object) -> Settings:
    return load(flags, {}, default_file=NO_FILE)


SETTINGS = settings_of()


@dataclass
class Node:
    """A node on which all is well, to be broken."""

    replies: dict[str, HttpReply | str] = field(
        default_factory=lambda: {
            f"{MIRROR}/v2/": HttpReply(200, b"{}"),
            f"{ADMIN}/readyz": HttpReply(200, b'{"ready": true}'),
            f"{ADMIN}/metrics": HttpReply(200, METRICS.encode()),
            f"{ADMIN}/status": HttpReply(200, b'{"clients": {"docker": 60, "podman": 7200}}'),
            "https://registry-1.docker.io/v2/": HttpReply(401, b""),
            "/info": HttpReply(200, json.dumps({"RegistryConfig": {"Mirrors": [f"{MIRROR}/"]}}).encode()),
        }
    )
    files: MemoryTree = field(default_factory=lambda: MemoryTree({"/usr/bin/podman": b"", "/usr/sbin/dockerd": b""}))
    space: DiskSpace | None = ROOMY
    owner: Owner | None = PRIVATE

    def configured(self, *names: str) -> Node:
        for name in names:
            configure(RUNTIMES[name], request_of(SETTINGS), self.files)
        return self

    def replying(self, url: str, reply: HttpReply | str) -> Node:
        """`reply` is the reason if nobody answers."""
        self.replies[url] = reply
        return self

    def environment(self) -> Environment:
        def ask(url: str) -> HttpReply:
            reply = self.replies.get(url, "connection refused")
            if isinstance(reply, str):
                raise UnreachableError(reply)
            return reply

        return Environment(
            files=self.files,
            get=ask,
            get_upstream=lambda url, _: ask(url),
            ask_socket=lambda _, target: ask(target),
            space=lambda _: self.space,
            owner=lambda _: self.owner,
            now_s=lambda: 1000.0,
        )


def findings(check: Check, node: Node, settings: Settings = SETTINGS) -> list[tuple[Level, str]]:
    return [(finding.level, finding.title) for finding in check(settings, node.environment())]


def levels(check: Check, node: Node, settings: Settings = SETTINGS) -> list[Level]:
    return [level for level, _ in findings(check, node, settings)]


def test_a_node_on_which_all_is_well() -> None:
    node = Node().configured("docker", "podman")
    assert {finding.level for finding in run_checks(SETTINGS, node.environment())} == {Level.OK}


def test_a_machine_without_anything_is_told_what_to_do() -> None:
    node = Node(replies={}, files=MemoryTree({}), space=None, owner=None)
    found = run_checks(SETTINGS, node.environment())
    assert Level.OK not in {finding.level for finding in found}
    assert all(finding.advice or finding.check == "runtimes" for finding in found)


def test_the_upstreams_are_asked_at_their_own_address_and_any_registry_is_told() -> None:
    project = settings_of(upstream=["docker.io=https://harbor.corp/v2/hub", "*"], allow_private=["10.0.0.0/8"])
    node = Node().replying("https://harbor.corp/v2/", HttpReply(401, b""))
    assert findings(upstreams.check_upstreams, node, project) == [
        (Level.OK, "https://harbor.corp/v2/hub answers"),
        (Level.OK, "every other registry with a public address is served, and so are 10.0.0.0/8"),
    ]
    alone = settings_of(upstream="*")
    assert [title for _, title in findings(upstreams.check_upstreams, Node(), alone)] == [
        "https://registry-1.docker.io answers",
        "every other registry with a public address is served",
    ]


def test_a_mirror_of_everything_wants_runtimes_that_ask_it_for_everything() -> None:
    everything = settings_of(upstream=["docker.io", "*"])
    node = Node(files=MemoryTree({"/usr/bin/containerd": b""})).configured("containerd")
    (found,) = findings(runtimes.check_configured, node, everything)
    assert found[0] is Level.WARN
    assert "/etc/containerd/certs.d/_default/hosts.toml" in found[1]


def test_what_may_not_be_seen_is_a_finding() -> None:
    class Closed(MemoryTree):
        def names(self, directory: str) -> frozenset[str] | None:
            raise ConfigureError(f"cannot read {directory}: permission denied (run it as root)")

    found = run_checks(SETTINGS, Node(files=Closed({})).environment())
    told = [finding for finding in found if "permission denied" in finding.title]
    assert [(finding.level, finding.check) for finding in told] == [
        (Level.WARN, "configured"),
        (Level.WARN, "dockerd"),
        (Level.WARN, "clients"),
    ]
    assert len(found) > len(told)


# the daemon


@pytest.mark.parametrize(
    ("reply", "level", "title"),
    [
        (HttpReply(200, b""), Level.OK, "answers at 127.0.0.1:65001"),
        (HttpReply(401, b""), Level.OK, "answers"),
        (HttpReply(404, b""), Level.FAIL, "is not a working registry mirror (status 404)"),
        ("connection refused", Level.FAIL, "does not answer: connection refused"),
    ],
)
def test_the_mirror(reply: HttpReply | str, level: Level, title: str) -> None:
    [(found, text)] = findings(daemon.check_mirror, Node().replying(f"{MIRROR}/v2/", reply))
    assert found is level
    assert title in text


@pytest.mark.parametrize(
    ("reply", "level", "title"),
    [
        (HttpReply(200, b""), Level.OK, "is ready"),
        (
            HttpReply(503, b'{"ready": false, "reasons": ["disk full", "no origin"]}'),
            Level.FAIL,
            "disk full; no origin",
        ),
        (HttpReply(503, b"[]"), Level.FAIL, "status 503"),
        ("connection refused", Level.FAIL, "does not answer"),
        (
            HttpReply(200, b'{"ready": true, "degraded": ["the store is full: free disk space"]}'),
            Level.WARN,
            "the daemon serves, but the store is full: free disk space",
        ),
    ],
)
def test_readiness(reply: HttpReply | str, level: Level, title: str) -> None:
    [(found, text)] = findings(daemon.check_ready, Node().replying(f"{ADMIN}/readyz", reply))
    assert found is level
    assert title in text


def test_the_last_success_is_the_latest_of_all() -> None:
    assert findings(daemon.check_last_success, Node()) == [(Level.OK, "a client was served 1m ago")]
    never = HttpReply(200, b"p2pd_mirror_last_success_timestamp_seconds 0.0\n")
    assert levels(daemon.check_last_success, Node().replying(f"{ADMIN}/metrics", never)) == [Level.WARN]
    for nothing in (HttpReply(200, b"other 1\n"), HttpReply(200, b"{garbage"), "connection refused"):
        assert levels(daemon.check_last_success, Node().replying(f"{ADMIN}/metrics", nothing)) == []


@pytest.mark.parametrize(
    ("limit", "used", "level"), [(65536, 10, Level.OK), (1024, 10, Level.WARN), (65536, 65000, Level.WARN)]
)
def test_the_limit_of_open_files_is_the_daemons(limit: int, used: int, level: Level) -> None:
    metrics = HttpReply(200, f"process_max_fds {limit}\nprocess_open_fds {used}\n".encode())
    assert levels(daemon.check_open_files, Node().replying(f"{ADMIN}/metrics", metrics)) == [level]


# the runtimes


def test_runtimes_that_are_installed_are_to_be_configured() -> None:
    docker_files = "/etc/docker/certs.d/docker.io/hosts.toml, /etc/docker/daemon.json"
    assert findings(runtimes.check_configured, Node().configured("podman")) == [
        (
            Level.WARN,
            f"docker is not configured for the mirror: {docker_files}",
        ),
        (Level.OK, "podman is configured for the mirror"),
    ]


def test_a_runtime_that_cannot_be_configured_is_told_why() -> None:
    node = Node(files=MemoryTree({"/usr/sbin/dockerd": b"", "/etc/docker/daemon.json": b"{"}))
    [(level, title)] = findings(runtimes.check_configured, node)
    assert level is Level.WARN
    assert "is not JSON" in title


def test_the_trap_of_two_directories_for_containerd_is_found() -> None:
    text = (
        b"version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n"
        b'config_path = "/etc/containerd/certs.d:/etc/docker/certs.d"\n'
    )
    files = MemoryTree({"/usr/bin/containerd": b"", "/etc/containerd/config.toml": text})
    [(level, title)] = findings(runtimes.check_configured, Node(files=files))
    assert level is Level.WARN
    assert "/etc/containerd/config.toml" in title


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ({"RegistryConfig": {"Mirrors": [f"{MIRROR}/"]}, "DriverStatus": [["Backing Filesystem", "extfs"]]}, Level.OK),
        ({"RegistryConfig": {"Mirrors": None}, "DriverStatus": None}, Level.FAIL),
        ({"RegistryConfig": {"Mirrors": ["https://other/"]}}, Level.FAIL),
        ({"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}, Level.OK),
        ([], Level.WARN),
    ],
)
def test_what_the_running_dockerd_has_read(reply: object, expected: Level) -> None:
    node = Node().configured("docker").replying("/info", HttpReply(200, json.dumps(reply).encode()))
    assert levels(runtimes.check_dockerd, node) == [expected]


def test_dockerd_is_asked_only_if_its_file_has_the_mirror() -> None:
    assert levels(runtimes.check_dockerd, Node().replying("/info", "connection refused")) == []
    node = Node().configured("docker").replying("/info", "permission denied")
    assert levels(runtimes.check_dockerd, node) == [Level.WARN]
    second = settings_of(upstream=["a.example=https://a", "docker.io=https://b"])
    node = Node()
    configure(RUNTIMES["docker"], request_of(second), node.files)
    node.replying("/info", HttpReply(200, b'{"RegistryConfig": {"Mirrors": []}}'))
    assert levels(runtimes.check_dockerd, node, second) == []


def test_which_runtimes_came_to_the_mirror() -> None:
    assert findings(runtimes.check_clients, Node()) == [
        (Level.OK, "docker used the mirror 1m ago"),
        (Level.OK, "podman used the mirror 2h ago"),
    ]
    node = Node().replying(f"{ADMIN}/status", HttpReply(200, b'{"clients": {"docker": 60}}'))
    assert levels(runtimes.check_clients, node) == [Level.OK, Level.WARN]
    for nothing in (
        HttpReply(200, b"{}"),
        HttpReply(200, b'{"clients": ["docker"]}'),
        HttpReply(404, b"no"),
        "connection refused",
    ):
        assert levels(runtimes.check_clients, Node().replying(f"{ADMIN}/status", nothing)) == []


# the upstreams


@pytest.mark.parametrize(
    ("reply", "level"),
    [
        (HttpReply(200, b""), Level.OK),
        (HttpReply(401, b""), Level.OK),
        (HttpReply(429, b""), Level.WARN),
        (HttpReply(404, b""), Level.FAIL),
        ("its name cannot be resolved", Level.FAIL),
    ],
)
def test_each_upstream_is_asked(reply: HttpReply | str, level: Level) -> None:
    node = Node().replying("https://b/v2/", reply)
    two = settings_of(upstream=["docker.io=https://registry-1.docker.io,https://b"])
    assert levels(upstreams.check_upstreams, node, two) == [Level.OK, level]


def test_a_layout_on_disk_is_looked_at() -> None:
    layout = settings_of(upstream=["docker.io=oci-layout:///srv/images"])
    assert levels(upstreams.check_upstreams, Node(), layout) == [Level.FAIL]
    node = Node(files=MemoryTree({"/srv/images/oci-layout": b"{}"}))
    assert levels(upstreams.check_upstreams, node, layout) == [Level.OK]


# disk space


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (DiskSpace(500 * GIB, 100 * GIB), [Level.OK]),
        (DiskSpace(40 * GIB, 10 * GIB), [Level.OK, Level.WARN]),
        (DiskSpace(500 * GIB, GIB), [Level.FAIL]),
        (None, [Level.WARN]),
    ],
)
def test_the_disk(there: DiskSpace | None, expected: list[Level]) -> None:
    assert levels(disk_space.check_disk, Node(space=there)) == expected


@pytest.mark.parametrize(
    ("mode", "level"),
    [(0o700, Level.OK), (0o750, Level.OK), (0o755, Level.WARN), (0o770, Level.FAIL), (0o1777, Level.FAIL)],
)
def test_the_cache_directory_is_private(mode: int, level: Level) -> None:
    assert levels(disk_space.check_directory, Node(owner=Owner(0, mode))) == [level]


def test_all_checks_are_run() -> None:
    written = {
        function
        for module in (daemon, runtimes, upstreams, disk_space)
        for name, function in vars(module).items()
        if name.startswith("check_")
    }
    assert set(CHECKS) == written
