"""What the doctor says of a node, on fakes of what it sees."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from p2pd.config.settings import Settings
from p2pd.config.sources import load
from p2pd.config.values import Address
from p2pd.configure.plan import configure
from p2pd.configure.request import request_of
from p2pd.configure.runtime import ConfigureError
from p2pd.configure.runtimes import RUNTIMES
from p2pd.doctor import adopted, daemon, disk_space, runtimes, several, swarm, upstreams
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
    owners: dict[str, Owner] = field(default_factory=dict)
    listening: set[str] = field(default_factory=set)
    redis: dict[str, str] | str = "redis is not used"

    def ask_redis(self) -> dict[str, str]:
        if isinstance(self.redis, str):
            raise UnreachableError(self.redis)
        return self.redis

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

        def connect(address: Address) -> None:
            if str(address) not in self.listening:
                raise UnreachableError("connection refused: nothing listens there")

        return Environment(
            connect=connect,
            files=self.files,
            get=ask,
            get_upstream=lambda url, _: ask(url),
            ask_socket=lambda _, target: ask(target),
            space=lambda _: self.space,
            owner=lambda path: self.owners.get(str(path), self.owner),
            now_s=lambda: 1000.0,
            ask_redis=lambda _: self.ask_redis(),
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
    (found,) = findings(runtimes.check_runtimes, node, everything)
    assert found[0] is Level.WARN
    assert "/etc/containerd/certs.d/_default/hosts.toml" in found[1]


def test_what_may_not_be_seen_is_a_finding() -> None:
    class Closed(MemoryTree):
        def names(self, directory: str) -> frozenset[str] | None:
            raise ConfigureError(f"cannot read {directory}: permission denied (run it as root)")

    found = run_checks(SETTINGS, Node(files=Closed({})).environment())
    told = [finding for finding in found if "permission denied" in finding.title]
    assert [(finding.level, finding.check) for finding in told] == [
        (Level.WARN, "runtimes"),
        (Level.WARN, "disk"),
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


def with_clients(node: Node, **ages_s: float) -> Node:
    return node.replying(f"{ADMIN}/status", HttpReply(200, json.dumps({"clients": ages_s}).encode()))


def test_a_runtime_that_is_only_installed_is_no_reason_to_warn() -> None:
    """docker brings containerd, and podman is there by chance."""
    files = MemoryTree({f"/usr/bin/{name}": b"" for name in ("dockerd", "containerd", "podman")})
    node = with_clients(Node(files=files).configured("docker"), docker=60)
    assert findings(runtimes.check_runtimes, node) == [
        (Level.OK, "docker used the mirror 1m ago"),
        (Level.OK, f"dockerd asks {MIRROR} for the images of docker.io"),
        (Level.OK, "installed, and not in use as far as can be seen: containerd, podman"),
    ]
    files.files["/var/lib/containers/storage/overlay-images/images.json"] = b""
    files.directories |= {"/var/lib/containers", "/var/lib/containers/storage"}
    assert (Level.WARN, "podman") in [
        (level, title.partition(" ")[0]) for level, title in findings(runtimes.check_runtimes, node)
    ]


def test_where_no_runtime_is_in_use_all_are_to_be_configured() -> None:
    docker_files = "/etc/docker/certs.d/docker.io/hosts.toml, /etc/docker/daemon.json"
    assert findings(runtimes.check_runtimes, with_clients(Node())) == [
        (Level.WARN, f"docker is not configured for the mirror: {docker_files}"),
        (Level.WARN, "podman is not configured for the mirror: /etc/containers/registries.conf.d/90-p2pd.conf"),
    ]


def test_a_runtime_that_came_to_the_mirror_is_well_whatever_its_files_have() -> None:
    """The `server` of a hosts.toml differs from p2pd.toml: pulls go through the mirror all the same."""
    node = with_clients(Node(files=MemoryTree({"/usr/bin/containerd": b""})), containerd=5)
    path = "/etc/containerd/certs.d/docker.io/hosts.toml"
    configure(RUNTIMES["containerd"], request_of(settings_of(upstream="docker.io=https://other.example")), node.files)
    [found] = list(runtimes.check_runtimes(SETTINGS, node.environment()))
    assert (found.level, found.title) == (Level.OK, "containerd used the mirror 5s ago")
    assert path in found.advice


@pytest.mark.parametrize("listening", [True, False])
def test_the_dead_mirror_of_another_port_is_named(listening: bool) -> None:
    node = with_clients(Node(files=MemoryTree({"/usr/sbin/dockerd": b""})))
    node.files.files["/etc/docker/daemon.json"] = b'{"registry-mirrors": ["http://127.0.0.1:65011"]}'
    node.listening = {"127.0.0.1:65011"} if listening else set()
    [(level, title)] = findings(runtimes.check_runtimes, node)
    if listening:
        assert (level, "not configured" in title) == (Level.WARN, True)
    else:
        assert level is Level.FAIL
        assert "/etc/docker/daemon.json names 127.0.0.1:65011" in title


def test_a_dead_registry_of_this_machine_is_told_once_as_an_upstream() -> None:
    local = settings_of(upstream="docker.io=http://127.0.0.1:5000")
    node = with_clients(Node(files=MemoryTree({"/usr/bin/containerd": b""})))
    configure(RUNTIMES["containerd"], request_of(local), node.files)
    assert levels(runtimes.check_runtimes, node, local) == [Level.OK]
    assert levels(upstreams.check_upstreams, node, local) == [Level.FAIL]


def test_a_runtime_that_cannot_be_configured_is_told_why() -> None:
    node = with_clients(Node(files=MemoryTree({"/usr/sbin/dockerd": b"", "/etc/docker/daemon.json": b"{"})))
    [(level, title)] = findings(runtimes.check_runtimes, node)
    assert level is Level.WARN
    assert "is not JSON" in title


def test_the_trap_of_two_directories_for_containerd_is_found() -> None:
    text = (
        b"version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n"
        b'config_path = "/etc/containerd/certs.d:/etc/docker/certs.d"\n'
    )
    files = MemoryTree({"/usr/bin/containerd": b"", "/etc/containerd/config.toml": text})
    [(level, title)] = findings(runtimes.check_runtimes, Node(files=files))
    assert level is Level.WARN
    assert "/etc/containerd/config.toml" in title


def of_dockerd(node: Node, settings: Settings = SETTINGS) -> list[Level]:
    """What is said of dockerd, behind the line on the runtime."""
    node.files.files.pop("/usr/bin/podman")
    return levels(runtimes.check_runtimes, node, settings)[1:]


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
    assert of_dockerd(node) == [expected]


def test_dockerd_is_asked_only_if_its_file_has_the_mirror() -> None:
    assert of_dockerd(Node().replying("/info", "connection refused")) == []
    assert of_dockerd(Node().configured("docker").replying("/info", "permission denied")) == [Level.WARN]
    second = settings_of(upstream=["a.example=https://a", "docker.io=https://b"])
    node = Node()
    configure(RUNTIMES["docker"], request_of(second), node.files)
    node.replying("/info", HttpReply(200, b'{"RegistryConfig": {"Mirrors": []}}'))
    assert of_dockerd(node, second) == []


def test_which_runtimes_came_to_the_mirror() -> None:
    node = Node(files=MemoryTree({"/usr/bin/podman": b""})).configured("podman")
    for clients, title in (
        ({"containers": 7200}, "podman used the mirror 2h ago"),
        ({"docker": 60}, "podman is configured for the mirror, and has not used it since the daemon started"),
        ({"podman": "x"}, "podman is configured for the mirror, and has not used it since the daemon started"),
    ):
        node.replying(f"{ADMIN}/status", HttpReply(200, json.dumps({"clients": clients}).encode()))
        assert findings(runtimes.check_runtimes, node) == [(Level.OK, title)]


# what the daemon says of itself


def running(**changed: object) -> dict[str, object]:
    """The status of a daemon that was started with flags."""
    return {
        "mirror": "127.0.0.1:65001",
        "data": "/srv/p2pd",
        "scheduler": "http://10.0.0.1:65003",
        "advertise": "10.0.0.7:65002",
        "uptime_s": 3600.0,
        "upstreams": ["docker.io"],
        "upstream_settings": [{"name": "docker.io", "urls": ["http://127.0.0.1:5000"]}],
        "cache": {"used_bytes": 10 * GIB, "limits": {"max_bytes": "20GiB", "min_free_bytes": "3GiB"}},
        "swarm": {"host": "a", "scheduler_connected": True, "neighbours": 2, "unreachable_reports": 0},
        "clients": {"docker": 60, "podman": 7200},
        **changed,
    }


def told(status: object, node: Node | None = None) -> list[tuple[Level, str, str]]:
    """All that the doctor says of a node whose daemon tells that."""
    node = node or Node()
    node.replying(f"{ADMIN}/status", HttpReply(200, json.dumps(status).encode()))
    node.listening |= {"10.0.0.7:65002"}
    node.replies.setdefault("http://10.0.0.7:65002/v1/link", HttpReply(400, b""))
    return [(one.level, one.check, one.title) for one in run_checks(SETTINGS, node.environment())]


def alarms(found: list[tuple[Level, str, str]]) -> list[tuple[Level, str, str]]:
    return [one for one in found if one[0] is not Level.OK]


def well() -> Node:
    return Node().configured("docker", "podman").replying("http://127.0.0.1:5000/v2/", HttpReply(200, b""))


def test_the_running_daemon_is_asked_for_its_settings() -> None:
    """The registry of p2pd.toml (Docker Hub) is not reached, nor does the daemon need it."""
    node = well().replying("https://registry-1.docker.io/v2/", "its name cannot be resolved")
    found = told(running(), node)
    assert not alarms(found)
    assert (Level.OK, "upstream docker.io", "http://127.0.0.1:5000 answers") in found
    assert "data, upstream, max_bytes, min_free_bytes" in {check: title for _, check, title in found}["settings"]
    assert any("/srv/p2pd" in title for _, check, title in found if check == "disk")


@pytest.mark.parametrize(
    "status",
    [
        {},
        [],
        {"upstream_settings": "x", "data": 3, "mirror": "x", "cache": [], "clients": [], "swarm": 1},
        {"upstream_settings": [{"name": "a b", "urls": ["file:///etc"]}], "upstreams": [], "scheduler": ["x"]},
        {
            "upstream_settings": [{"name": "docker.io", "urls": "h"}],
            "advertise": "nowhere",
            "cache": {"limits": {"max_bytes": []}},
        },
    ],
)
def test_what_no_daemon_says_changes_nothing(status: object) -> None:
    assert not alarms(told(status, Node().configured("docker", "podman")))


def test_a_daemon_with_the_settings_found_here_has_no_line_on_that() -> None:
    assert "settings" not in {check for _, check, _ in told({}, Node())}


@pytest.mark.parametrize(
    ("swarm", "uptime_s", "expected"),
    [
        (
            {"scheduler_connected": False, "scheduler_out_s": 180.0, "last_error": "http://10.0.0.1:65003: refused"},
            3600.0,
            (Level.FAIL, "scheduler", "no scheduler for 3m: http://10.0.0.1:65003: refused"),
        ),
        (
            {"scheduler_connected": False, "scheduler_out_s": 1.0},
            1.0,
            (Level.WARN, "scheduler", "no scheduler for 1s at http://10.0.0.1:65003"),
        ),
        (
            {"scheduler_connected": True, "unreachable_reports": 2},
            3600.0,
            (
                Level.FAIL,
                "advertise",
                "2 other hosts could not connect to this one at 10.0.0.7:65002, the address that it advertises",
            ),
        ),
    ],
)
def test_what_is_wrong_in_the_swarm(
    swarm: dict[str, object], uptime_s: float, expected: tuple[Level, str, str]
) -> None:
    assert alarms(told(running(swarm={"host": "a", **swarm}, uptime_s=uptime_s), well())) == [expected]


def test_one_of_several_schedulers_that_is_not_connected() -> None:
    schedulers = [
        {"url": "http://10.0.0.1:65003", "connected": True, "blobs": 2, "out_s": None},
        {"url": "http://10.0.0.2:65003", "connected": False, "blobs": 0, "out_s": 5.0, "last_error": "refused"},
        {"url": "http://10.0.0.3:65003", "connected": False, "blobs": 0, "out_s": None},
    ]
    swarm = {"host": "a", "scheduler_connected": True, "schedulers": schedulers}
    assert alarms(told(running(swarm=swarm, uptime_s=3600.0), well())) == [
        (Level.WARN, "scheduler", "the scheduler at http://10.0.0.2:65003 is not connected: refused")
    ]


def test_an_advertised_address_that_not_even_this_machine_reaches() -> None:
    [(level, check, title)] = alarms(told(running(advertise="10.99.9.9:65002"), well()))
    assert (level, check) == (Level.WARN, "advertise")
    assert "10.99.9.9:65002" in title


@pytest.mark.parametrize("expires_s", [None, 3600.0])
@pytest.mark.parametrize("reply", ["no answer in time", HttpReply(404, b"")])
def test_what_takes_connections_at_the_advertised_address_is_to_be_a_host(
    expires_s: float | None, reply: HttpReply | str
) -> None:
    swarm = {"host": "a", "scheduler_connected": True, "certificate_expires_s": expires_s}
    found = alarms(told(running(swarm=swarm), well().replying("http://10.0.0.7:65002/v1/link", reply)))
    assert [check for _, check, _ in found] == (["advertise"] if expires_s is None else [])


def test_a_host_without_a_scheduler_is_not_blamed_for_that() -> None:
    found = told(running(scheduler="", swarm={"host": "", "scheduler_connected": False}), well())
    assert not alarms(found)
    assert any("no scheduler is configured" in title for _, _, title in found)


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


def with_password(content: bytes | None) -> tuple[Node, Settings]:
    settings = settings_of(upstream="docker.io=https://a;username=me;password_file=/run/secret")
    return Node(files=MemoryTree({} if content is None else {"/run/secret": content})), settings


@pytest.mark.parametrize(
    ("content", "owner", "expected"),
    [
        (b"x\n", PRIVATE, Level.OK),
        (None, PRIVATE, Level.FAIL),
        (b"\n", PRIVATE, Level.FAIL),
        (b"x\n", Owner(0, 0o600), Level.FAIL),
        (b"x\n", Owner(0, 0o640), Level.OK),
    ],
)
def test_the_password_file_is_to_be_read_by_the_daemon(content: bytes | None, owner: Owner, expected: Level) -> None:
    node, settings = with_password(content)
    node.owners["/run/secret"] = owner
    [(level, title)] = findings(upstreams.check_password_files, node, settings)
    assert level is expected
    assert "/run/secret" in title
    assert "x" not in title.replace("example", "")


def test_the_password_file_of_the_next_start_is_looked_at_too() -> None:
    node, settings = with_password(None)
    node.replying(f"{ADMIN}/status", HttpReply(200, json.dumps(running()).encode()))
    found = run_checks(settings, node.environment())
    assert [one.title for one in found if "/run/secret is missing" in one.title] == [
        "its password_file /run/secret is missing: p2pd run does not start without it"
    ]


@pytest.mark.parametrize(("date_s", "said"), [(None, ""), (950.0, ""), (700.0, "5m ahead of"), (4600.0, "1h behind")])
def test_the_clock_is_compared_with_the_upstreams(date_s: float | None, said: str) -> None:
    node = Node().replying("https://registry-1.docker.io/v2/", HttpReply(401, b"", date_s))
    found = [(level, title) for level, title in findings(upstreams.check_upstreams, node) if "clock" in title]
    assert [level for level, _ in found] == [Level.WARN][: len(said)]
    assert all(said in title for _, title in found)


# disk space


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (DiskSpace(500 * GIB, 100 * GIB), [Level.OK]),
        (DiskSpace(40 * GIB, 10 * GIB), [Level.OK]),
        (DiskSpace(500 * GIB, GIB), [Level.OK, Level.WARN]),  # the cache has half of that
        (DiskSpace(500 * GIB, 0), [Level.FAIL]),
        (None, [Level.WARN]),
    ],
)
def test_the_disk(there: DiskSpace | None, expected: list[Level]) -> None:
    assert levels(disk_space.check_disk, Node(space=there)) == expected


def test_a_full_disk_is_told_once_and_with_what_fills_it() -> None:
    degraded = HttpReply(200, b'{"ready": true, "degraded": ["the store is full, nothing new is stored"]}')
    node = well().replying(f"{ADMIN}/readyz", degraded)
    node.space = DiskSpace(500 * GIB, 0)
    cache = {"used_bytes": 10 * GIB, "limits": {"max_bytes": "20GiB", "min_free_bytes": "0"}}
    [(level, check, title)] = alarms(told(running(cache=cache), node))
    assert (level, check) == (Level.FAIL, "disk")
    assert title.startswith("0B (0 %) are free under /srv/p2pd: nothing new is stored")
    [advice] = [one.advice for one in run_checks(SETTINGS, node.environment()) if one.check == "disk"]
    assert advice.startswith("the cache takes 10.0GiB there, all other files 490.0GiB")
    assert "min_free_bytes" not in advice
    assert "gc" not in advice


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ({}, Level.OK),
        ({"min_free_bytes": "9%"}, Level.WARN),
        ({"min_free_bytes": "100GiB"}, Level.OK),
        ({"max_bytes": "5GiB"}, Level.OK),
    ],
)
def test_the_cache_is_not_to_make_the_kubelet_act(flags: dict[str, str], level: Level) -> None:
    node = Node(files=MemoryTree({"/var/lib/kubelet/config.yaml": b""}), space=DiskSpace(500 * GIB, 110 * GIB))
    assert levels(disk_space.check_disk, node, settings_of(**{"max_bytes": "200GiB", **flags})) == (
        [Level.OK] if level is Level.OK else [Level.OK, Level.WARN]
    )


@pytest.mark.parametrize(
    ("mode", "level"),
    [(0o700, Level.OK), (0o750, Level.OK), (0o755, Level.WARN), (0o770, Level.FAIL), (0o1777, Level.FAIL)],
)
def test_the_cache_directory_is_private(mode: int, level: Level) -> None:
    assert levels(disk_space.check_directory, Node(owner=Owner(0, mode))) == [level]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"maxmemory_policy": "noeviction", "aof_enabled": "1"}, [Level.OK]),
        ({"maxmemory_policy": "allkeys-lru", "aof_enabled": "1"}, [Level.WARN, Level.OK]),
        ({"maxmemory_policy": "noeviction", "aof_enabled": "0"}, [Level.WARN, Level.OK]),
        ("redis at redis://a:6379 cannot be used: refused", [Level.FAIL]),
    ],
)
def test_the_redis_of_several_schedulers(said: dict[str, str] | str, expected: list[Level]) -> None:
    node = Node(redis=said)
    assert levels(several.check_redis, node, settings_of(redis="redis://:secret@a")) == expected
    assert not levels(several.check_redis, node)
    told = findings(several.check_redis, node, settings_of(redis="redis://:secret@a"))
    assert not [title for _, title in told if "secret" in title]


def test_all_checks_are_run() -> None:
    written = {
        function
        for module in (adopted, daemon, runtimes, upstreams, swarm, several, disk_space)
        for name, function in vars(module).items()
        if name.startswith("check_")
    }
    assert set(CHECKS) == written


@pytest.mark.parametrize(
    ("transport", "has_libtorrent", "expected"),
    [("http", False, []), ("bittorrent", True, [Level.OK]), ("bittorrent", False, [Level.WARN])],
)
def test_the_background_transport_wants_libtorrent(transport: str, has_libtorrent: bool, expected: list[Level]) -> None:
    around = replace(Node().environment(), has_libtorrent=lambda: has_libtorrent)
    settings = settings_of(background_transport=transport)
    assert [found.level for found in swarm.check_background(settings, around)] == expected
