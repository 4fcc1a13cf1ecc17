"""All changes or none, and the way back: on files of any content, in any order, with failures and deaths in between."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.config.upstream_setting import parse_upstream
from p2pd.config.values import Address
from p2pd.configure import toml_file, yaml_file
from p2pd.configure.plan import STATE, configure, pending
from p2pd.configure.runtime import ConfigureError, Request
from p2pd.configure.runtimes import RUNTIMES
from tests.p2pd.memory_tree import Death, MemoryTree

HUB = parse_upstream("docker.io=https://registry-1.docker.io")
PRIVATE = parse_upstream("registry.example:5000=https://registry.example:5000")

CONTAINERD = b"""\
# ours since 2019
version = 2

[plugins."io.containerd.grpc.v1.cri"] # of the cluster
  sandbox_image = "pause:3.9"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d:/etc/docker/certs.d" # the default

[metrics]
  address = "127.0.0.1:1338"
"""
HOSTS = b'server = "https://registry-1.docker.io"\n\n[host."https://cache.example"]\n  capabilities = ["pull"]\n'
DAEMON = b'{\n\t"debug": true,\n\t"registry-mirrors": [\n\t\t"https://cache.example"\n\t]\n}\n'

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
daemon_files = st.one_of(
    st.just(DAEMON),
    st.binary(max_size=40),
    st.builds(
        lambda values, mirrors, indent: json.dumps(values | mirrors, indent=indent).encode(),
        st.dictionaries(st.text(max_size=8), json_values, max_size=4),
        st.fixed_dictionaries({}, optional={"registry-mirrors": st.lists(st.sampled_from(["https://a", "https://b"]))}),
        st.sampled_from([None, 0, 1, 4, "\t"]),
    ),
)
toml_files = st.one_of(
    st.just(CONTAINERD),
    st.just(HOSTS),
    st.binary(max_size=40),
    st.lists(
        st.sampled_from(
            [
                "version = 2",
                "version = 3",
                'server = "https://a"',
                '[host."https://a"]',
                'registry = { config_path = "/x" }',
                '[plugins."io.containerd.grpc.v1.cri".registry]',
                "[plugins.'io.containerd.cri.v1.images'.registry]",
                'config_path = "/etc/containerd/certs.d"',
                '[registry."docker.io"]',
                'mirrors = ["b"]',
                "[[registry]]",
                'location = "docker.io"',
                "# a comment",
                "",
            ]
        ),
        max_size=6,
    ).map(lambda lines: "\n".join(lines).encode()),
)
yaml_files = st.lists(
    st.sampled_from(
        [
            "mirrors:",
            "mirrors: {}",
            "  docker.io:",
            '  "docker.io": {endpoint: ["https://a"]}',
            '  "*":',
            "    endpoint:",
            "    endpoint: [https://a]",
            "    - https://a",
            "      - https://b # c",
            "    rewrite: {a: b}",
            "  quay.io: &q",
            "  x: *q",
            "configs: |",
            "# a comment",
            "",
            "---",
        ]
    ),
    max_size=7,
).map(lambda lines: "\n".join(lines).encode())
FILES = {
    "/etc/docker/daemon.json": daemon_files,
    "/etc/docker/certs.d/docker.io/hosts.toml": toml_files,
    "/etc/docker/certs.d/docker.io/ca.crt": st.just(b"certificate"),
    "/etc/containerd/config.toml": toml_files,
    "/etc/containerd/certs.d/registry.example_5000_/hosts.toml": toml_files,
    "/etc/containers/registries.conf": toml_files,
    "/etc/buildkit/buildkitd.toml": toml_files,
    "/etc/containerd/certs.d/_default/hosts.toml": toml_files,
    "/etc/containers/registries.conf.d/50-mine.conf": toml_files,
    "/etc/rancher/k3s/registries.yaml": yaml_files,
}
nodes = st.fixed_dictionaries({"/etc/hostname": st.just(b"node")}, optional=FILES)
requests = st.builds(
    lambda port, upstreams, wildcard: Request(Address("127.0.0.1", port), upstreams, "docker.io", wildcard),
    st.sampled_from([65001, 7000]),
    st.sampled_from([(HUB,), (HUB, PRIVATE), (PRIVATE,)]),
    st.booleans(),
)
steps = st.lists(st.tuples(st.sampled_from(list(RUNTIMES)), st.none() | requests), max_size=6)

REQUEST = Request(Address("127.0.0.1", 65001), (HUB, PRIVATE), "docker.io")
CONFIG = "/etc/containerd/config.toml"
DOCKER = "/etc/docker/daemon.json"
BUILDKIT = "/etc/buildkit/buildkitd.toml"
REGISTRIES = "/etc/containers/registries.conf"
K3S = "/etc/rancher/k3s/registries.yaml"
HUB_HOSTS = "/etc/docker/certs.d/docker.io/hosts.toml"
HUB_CONTAINERD = "/etc/containerd/certs.d/docker.io/hosts.toml"
DOCKER_NODE = {"/etc/docker/daemon.json": DAEMON, "/etc/docker/certs.d/docker.io/hosts.toml": HOSTS}
CONTAINERD_NODE = {"/etc/containerd/config.toml": CONTAINERD}


def operators(tree: MemoryTree) -> tuple[dict[str, bytes], set[str]]:
    """All files and directories but the journals."""
    files = {path: content for path, content in tree.files.items() if not path.startswith(STATE)}
    above = {STATE, "/var/lib", "/var"}
    return files, {directory for directory in tree.directories if directory not in above}


@settings(max_examples=150, deadline=None)
@given(nodes, steps)
def test_whatever_was_done_undoing_gives_back_every_byte(
    files: Mapping[str, bytes], taken: list[tuple[str, Request | None]]
) -> None:
    tree = MemoryTree(files)
    before = operators(tree)
    for name, request in taken:
        was = operators(tree)
        try:
            configure(RUNTIMES[name], request, tree)
        except ConfigureError:
            assert operators(tree) == was
        else:
            assert configure(RUNTIMES[name], request, tree).changes == ()
    for runtime in RUNTIMES.values():
        configure(runtime, None, tree)
    assert operators(tree) == before
    assert not [path for path in tree.files if path.startswith(STATE)]


@settings(max_examples=60, deadline=None)
@given(nodes, steps, st.sampled_from(list(RUNTIMES)), requests)
def test_a_dry_run_changes_nothing_and_tells_what_the_run_then_does(
    files: Mapping[str, bytes], taken: list[tuple[str, Request | None]], name: str, request: Request
) -> None:
    tree = MemoryTree(files)
    for earlier, wanted in taken:
        try:
            configure(RUNTIMES[earlier], wanted, tree)
        except ConfigureError:
            continue
    was, changes = dict(tree.files), tree.changes
    try:
        told = configure(RUNTIMES[name], request, tree, dry_run=True)
    except ConfigureError:
        return
    assert (tree.files, tree.changes) == (was, changes)
    assert configure(RUNTIMES[name], request, tree) == told


def count_of_changes(name: str, node: Mapping[str, bytes], earlier: Request | None, request: Request | None) -> int:
    tree = MemoryTree(node)
    configure(RUNTIMES[name], earlier, tree)
    tree.revive()
    configure(RUNTIMES[name], request, tree)
    return tree.changes


OTHER = Request(Address("127.0.0.1", 7000), (HUB,), "docker.io", wildcard=True)
TRANSITIONS = [
    pytest.param(name, node, earlier, request, id=f"{name}-{what}")
    for name, node in [("docker", DOCKER_NODE), ("containerd", CONTAINERD_NODE), ("docker", {}), ("containerd", {})]
    for what, earlier, request in [("first", None, REQUEST), ("again", OTHER, REQUEST), ("undo", REQUEST, None)]
]


@pytest.mark.parametrize(("name", "node", "earlier", "request_"), TRANSITIONS)
def test_a_failure_at_any_change_leaves_all_as_it_was(
    name: str, node: Mapping[str, bytes], earlier: Request | None, request_: Request | None
) -> None:
    for number in range(1, count_of_changes(name, node, earlier, request_) + 1):
        tree = MemoryTree(node)
        configure(RUNTIMES[name], earlier, tree)
        was = dict(tree.files), operators(tree)
        tree.revive()
        tree.fail_at = number
        with pytest.raises(ConfigureError, match="No space left on device; everything was put back as it was"):
            configure(RUNTIMES[name], request_, tree)
        assert (tree.files, operators(tree)) == was


@pytest.mark.parametrize(("name", "node", "earlier", "request_"), TRANSITIONS)
def test_after_death_at_any_change_the_next_run_and_undo_come_out_right(
    name: str, node: Mapping[str, bytes], earlier: Request | None, request_: Request | None
) -> None:
    wanted = MemoryTree(node)
    configure(RUNTIMES[name], request_, wanted)
    for number in range(1, count_of_changes(name, node, earlier, request_) + 1):
        for afterwards, then in ((request_, wanted), (None, MemoryTree(node))):
            tree = MemoryTree(node)
            configure(RUNTIMES[name], earlier, tree)
            tree.revive()
            tree.die_at = number
            with pytest.raises(Death):
                configure(RUNTIMES[name], request_, tree)
            tree.revive()
            configure(RUNTIMES[name], afterwards, tree)
            assert operators(tree) == operators(then)
            configure(RUNTIMES[name], None, tree)
            assert operators(tree) == operators(MemoryTree(node))


def test_a_failure_that_cannot_be_put_back_is_covered_by_the_journal() -> None:
    class Breaking(MemoryTree):
        """A disk that goes read-only after the journal and one file."""

        def write(self, path: str, content: bytes, *, private: bool = False) -> None:
            if not self.is_mended and self.changes >= 2:
                raise ConfigureError(f"cannot write {path}: Read-only file system")
            super().write(path, content, private=private)

        is_mended = False

    tree = Breaking(DOCKER_NODE)
    with pytest.raises(ConfigureError, match="and then it could not be put back"):
        configure(RUNTIMES["docker"], REQUEST, tree)
    tree.is_mended = True
    configure(RUNTIMES["docker"], None, tree)
    assert operators(tree) == operators(MemoryTree(DOCKER_NODE))


def test_what_somebody_else_changed_elsewhere_in_a_file_survives_another_configure_and_the_undo() -> None:
    tree = MemoryTree(CONTAINERD_NODE)
    path = "/etc/containerd/config.toml"
    configure(RUNTIMES["containerd"], REQUEST, tree)
    tree.files[path] += b"  grpc_histogram = false\n"
    assert path not in [change.path for change in configure(RUNTIMES["containerd"], OTHER, tree).changes]
    configure(RUNTIMES["containerd"], None, tree)
    assert tree.files[path] == CONTAINERD + b"  grpc_histogram = false\n"


def test_undo_takes_the_mirror_out_of_a_list_that_somebody_changed() -> None:
    tree = MemoryTree(DOCKER_NODE)
    path = "/etc/docker/daemon.json"
    configure(RUNTIMES["docker"], REQUEST, tree)
    tree.files[path] = tree.files[path].replace(b"https://cache.example", b"https://new.example")
    (left,) = configure(RUNTIMES["docker"], None, tree).remarks
    assert left == f"{path} was changed by somebody else: p2pd's part was taken out, and the rest is left."
    assert tree.files == {**DOCKER_NODE, path: DAEMON.replace(b"https://cache.example", b"https://new.example")}


def test_undo_refuses_what_it_cannot_read_and_shows_it() -> None:
    tree = MemoryTree(DOCKER_NODE)
    path = "/etc/docker/daemon.json"
    configure(RUNTIMES["docker"], REQUEST, tree)
    tree.files[path] = tree.files[path].replace(b'"https://cache.example"', b"https://new.example")
    was = dict(tree.files)
    with pytest.raises(
        ConfigureError,
        match=r"(?s)daemon.json was changed by somebody else.*\+\t+https://new.example.*--accept-changes",
    ):
        configure(RUNTIMES["docker"], None, tree)
    assert tree.files == was

    outcome = configure(RUNTIMES["docker"], None, tree, accept=True)
    assert outcome.accepted == (path,)
    assert tree.files == {**DOCKER_NODE, path: was[path]}


def test_a_file_that_somebody_removed_stays_away() -> None:
    tree = MemoryTree(DOCKER_NODE)
    configure(RUNTIMES["docker"], REQUEST, tree)
    del tree.files["/etc/docker/daemon.json"]
    (left,) = configure(RUNTIMES["docker"], None, tree).remarks
    assert left == "/etc/docker/daemon.json was removed by somebody else: it stays away."
    assert operators(tree)[0] == {HUB_HOSTS: HOSTS}


NVIDIA = """
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
  runtime_type = "io.containerd.runc.v2"
"""


@pytest.mark.parametrize(
    ("name", "node", "changed", "left"),
    [
        pytest.param(
            "containerd",
            {},
            lambda text: text + NVIDIA,
            {CONFIG: f"version = 2\n{NVIDIA}"},
            id="a table put behind a file of ours",
        ),
        pytest.param(
            "containerd",
            {},
            lambda _: (
                'version = 2\n\n[plugins]\n\n  [plugins."io.containerd.grpc.v1.cri"]\n\n'
                '    [plugins."io.containerd.grpc.v1.cri".containerd]\n      default_runtime_name = "nvidia"\n\n'
                '    [plugins."io.containerd.grpc.v1.cri".registry]\n      config_path = "/etc/containerd/certs.d"\n'
            ),
            {
                CONFIG: (
                    'version = 2\n\n[plugins]\n\n  [plugins."io.containerd.grpc.v1.cri"]\n\n'
                    '    [plugins."io.containerd.grpc.v1.cri".containerd]\n      default_runtime_name = "nvidia"\n\n'
                )
            },
            id="a file of ours written anew",
        ),
        pytest.param(
            "containerd",
            {CONFIG: "# mine\nversion = 2\n"},
            lambda text: text.removeprefix("# mine\n").replace('"', "'") + "\n[metrics]\naddress = ':1'\n",
            {CONFIG: "version = 2\n\n[metrics]\naddress = ':1'\n"},
            id="the operator's file written anew",
        ),
        pytest.param(
            "containerd",
            {CONFIG: CONTAINERD.decode()},
            lambda text: text.replace("/etc/containerd/certs.d", "/srv/certs.d"),
            {CONFIG: CONTAINERD.decode().replace("/etc/containerd/certs.d:/etc/docker/certs.d", "/srv/certs.d")},
            id="the value changed",
        ),
        pytest.param(
            "docker",
            {DOCKER: '{"debug": true}\n'},
            lambda _: (
                '{\n    "debug": true,\n    "registry-mirrors": [\n        "http://127.0.0.1:65001"\n    ],\n'
                '    "x": 1.50\n}'
            ),
            {DOCKER: '{\n    "debug": true,\n    "x": 1.50\n}'},
            id="daemon.json written anew",
        ),
        pytest.param(
            "docker",
            {},
            lambda text: text.replace("{", '{"runtimes": {"nvidia": {}},', 1),
            {DOCKER: '{"runtimes": {"nvidia": {}}\n}\n'},
            id="a daemon.json of ours with another member",
        ),
        pytest.param(
            "docker",
            {DOCKER: DAEMON.decode()},
            lambda text: text.replace('"https://cache.example"', '"https://a",\n\t\t"https://cache.example"'),
            {DOCKER: DAEMON.decode().replace('"https://cache.example"', '"https://a",\n\t\t"https://cache.example"')},
            id="a mirror beside ours",
        ),
        pytest.param(
            "containerd",
            {HUB_CONTAINERD: HOSTS.decode()},
            lambda text: text.replace('dial_timeout = "1s"\n', 'dial_timeout = "1s"\n[host."https://x"]\n'),
            {HUB_CONTAINERD: HOSTS.decode().replace("\n[host", '\n[host."https://x"]\n\n[host')},
            id="a host beside ours",
        ),
        pytest.param(
            "buildkit",
            {},
            lambda text: "debug = true\n" + text.replace('["127', '["https://a", "127'),
            {BUILDKIT: 'debug = true\n[registry."docker.io"]\n  mirrors = ["https://a"]\n\n'},
            id="a mirror before ours",
        ),
        pytest.param(
            "k3s",
            {},
            lambda text: text + "configs: {}\n",
            {K3S: "configs: {}\n"},
            id="registries.yaml with more below",
        ),
        pytest.param(
            "k3s",
            {K3S: "mirrors:\n  docker.io:\n    endpoint:\n    - https://a\n"},
            lambda text: text.replace("    - https://a", "    - https://b\n    - https://a"),
            {K3S: "mirrors:\n  docker.io:\n    endpoint:\n    - https://b\n    - https://a\n"},
            id="registries.yaml with another endpoint",
        ),
        pytest.param(
            "podman",
            {REGISTRIES: '[[registry]]\nlocation = "docker.io"\n'},
            lambda text: text + '[[registry.mirror]]\nlocation = "a"\n',
            {REGISTRIES: '[[registry]]\nlocation = "docker.io"\n\n[[registry.mirror]]\nlocation = "a"\n'},
            id="another mirror behind ours",
        ),
    ],
)
def test_beside_another_tool_configuring_changes_nothing_and_undoing_takes_out_its_own(
    name: str, node: Mapping[str, str], changed: Callable[[str], str], left: Mapping[str, str]
) -> None:
    tree = MemoryTree({path: text.encode() for path, text in node.items()})
    request = replace(REQUEST, upstreams=(HUB,))
    configure(RUNTIMES[name], request, tree)
    (path,) = left
    tree.files[path] = changed(tree.files[path].decode()).encode()
    if b"/srv/" not in tree.files[path]:  # there it no longer says what is wanted
        was = dict(tree.files)
        assert configure(RUNTIMES[name], request, tree).changes == ()
        assert tree.files[path] == was[path]
    outcome = configure(RUNTIMES[name], None, tree)
    assert {path: tree.files[path].decode()} == left
    assert operators(tree)[0].keys() == {*node, *left}
    assert outcome.remarks[0].startswith(f"{path} was changed by somebody else")


APPENDED = {".toml": b"\n[zzz]\nz = 1\n", ".conf": b"\n[zzz]\nz = 1\n", ".yaml": b"\nzzz: {}\n"}


@settings(max_examples=150, deadline=None)
@given(nodes, st.sampled_from(list(RUNTIMES)), requests)
def test_whatever_the_file_was_others_may_add_to_it(files: Mapping[str, bytes], name: str, request: Request) -> None:
    tree = MemoryTree(files)
    try:
        changed = [change.path for change in configure(RUNTIMES[name], request, tree).changes]
        for path in changed:
            tree.files[path] += APPENDED.get(PurePosixPath(path).suffix, b"")
            parse(path, tree.files[path])
    except ConfigureError:
        return  # what was there cannot be added to
    was = dict(tree.files)
    assert configure(RUNTIMES[name], request, tree).changes == ()
    assert {path: tree.files[path] for path in changed} == {path: was[path] for path in changed}
    configure(RUNTIMES[name], None, tree)
    for path in changed:
        suffix = APPENDED.get(PurePosixPath(path).suffix, b"")
        before = files.get(path, b"")
        if suffix and (before.endswith(b"\n") or not before):
            assert without_version(parse(path, tree.files[path])) == without_version(parse(path, before + suffix))


def parse(path: str, content: bytes) -> dict[str, Any]:
    return yaml_file.parse(path, content) if path.endswith(".yaml") else toml_file.parse(path, content)


def without_version(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "version"}


def test_a_directory_that_somebody_has_chosen_since_is_followed() -> None:
    tree = MemoryTree(CONTAINERD_NODE)
    configure(RUNTIMES["containerd"], REQUEST, tree)
    tree.files[CONFIG] = chosen = tree.files[CONFIG].replace(b"/etc/containerd/certs.d", b"/srv/certs.d")
    configure(RUNTIMES["containerd"], REQUEST, tree)
    assert tree.files[CONFIG] == chosen
    assert "/srv/certs.d/docker.io/hosts.toml" in tree.files
    assert HUB_CONTAINERD not in tree.files
    configure(RUNTIMES["containerd"], None, tree)
    assert operators(tree)[0] == {CONFIG: chosen}


def test_a_file_to_which_nothing_could_be_added_any_more_may_still_have_it() -> None:
    """Without the mirror, the file would have no place for it: tomlkit would move the arrays that stand apart."""
    tree = MemoryTree({CONFIG: b"version = 2\n"})
    configure(RUNTIMES["containerd"], REQUEST, tree)
    tree.files[CONFIG] = edited = tree.files[CONFIG] + b"[[debug]]\n[metrics]\n[[debug]]\n"
    assert configure(RUNTIMES["containerd"], REQUEST, tree).changes == ()
    assert tree.files[CONFIG] == edited


def test_another_mirror_takes_the_place_of_ours_in_a_file_that_somebody_changed() -> None:
    tree = MemoryTree({})
    configure(RUNTIMES["docker"], REQUEST, tree)
    tree.files[DOCKER] = b'{"registry-mirrors": ["http://127.0.0.1:65001", "https://a"], "debug": true}'
    configure(RUNTIMES["docker"], OTHER, tree)
    assert tree.files[DOCKER] == b'{"registry-mirrors": ["http://127.0.0.1:7000", "https://a"], "debug": true}'


def test_another_mirror_in_a_drop_in_of_ours_leaves_what_others_put_into_it() -> None:
    tree = MemoryTree({})
    path = f"{DROP_INS}/90-p2pd.conf"
    configure(RUNTIMES["podman"], REQUEST, tree)
    tree.files[path] += b'\n[[registry]]\nlocation = "quay.io"\n'
    configure(RUNTIMES["podman"], OTHER, tree)
    registries = toml_file.parse(path, tree.files[path])["registry"]
    assert [registry["location"] for registry in registries] == ["quay.io", "docker.io"]
    assert b"7000" in tree.files[path]
    assert b"65001" not in tree.files[path]


def test_a_file_that_nobody_can_read_any_more_is_told_unless_it_is_accepted() -> None:
    tree = MemoryTree({})
    configure(RUNTIMES["containerd"], REQUEST, tree)
    ours = tree.files[CONFIG]
    tree.files[CONFIG] += b"[debug\n"
    for request in (REQUEST, None):
        with pytest.raises(ConfigureError):
            configure(RUNTIMES["containerd"], request, tree)
    tree.files[CONFIG] = edited = ours.replace(b"# Written", b"# Was written") + b'\n[debug]\n  level = "debug"\n'
    configure(RUNTIMES["containerd"], OTHER, tree)
    assert tree.files[CONFIG] == edited


def test_files_that_are_wholly_ours_are_ours_without_a_journal_too() -> None:
    tree = MemoryTree({})
    configure(RUNTIMES["k3s"], REQUEST, tree)
    del tree.files[f"{STATE}/k3s.json"]
    assert configure(RUNTIMES["k3s"], OTHER, tree).changes[0].action == "changed"
    configure(RUNTIMES["k3s"], None, tree)
    assert operators(tree)[0] == {}


DROP_INS = "/etc/containers/registries.conf.d"


@pytest.mark.parametrize(("first", "second"), [("podman", "crio"), ("crio", "podman")])
def test_undoing_one_of_podman_and_crio_leaves_the_others(first: str, second: str) -> None:
    node = {REGISTRIES: b'[[registry]]\nlocation = "docker.io"\n'}
    tree, alone = MemoryTree(node), MemoryTree(node)
    for name in ("podman", "crio"):
        configure(RUNTIMES[name], REQUEST, tree)
        assert configure(RUNTIMES[name], REQUEST, tree).changes == ()
    configure(RUNTIMES[second], REQUEST, alone)

    outcome = configure(RUNTIMES[first], None, tree)
    assert outcome.remarks == (f"{REGISTRIES} was left as it is: it is for {second} too.",)
    assert operators(tree) == operators(alone)
    assert f"`p2pd configure {second}`" in str(operators(tree)[0])
    assert configure(RUNTIMES[first], None, tree).remarks == ()
    configure(RUNTIMES[second], None, tree)
    assert operators(tree) == operators(MemoryTree(node))


def test_the_file_that_podman_and_crio_shared_is_undone_by_either() -> None:
    tree = MemoryTree({})
    configure(RUNTIMES["podman"], REQUEST, tree)
    journal = json.loads(tree.files[f"{STATE}/containers.json"])
    del journal["files"][f"{DROP_INS}/90-p2pd.conf"]["runtimes"]  # as an earlier version wrote it
    tree.files[f"{STATE}/containers.json"] = json.dumps(journal).encode()
    configure(RUNTIMES["crio"], None, tree)
    assert operators(tree) == operators(MemoryTree({}))


@settings(max_examples=60, deadline=None)
@given(nodes, st.sampled_from(list(RUNTIMES)), requests)
def test_nothing_is_pending_once_it_is_configured(files: Mapping[str, bytes], name: str, request: Request) -> None:
    tree = MemoryTree(files)
    try:
        outcome = configure(RUNTIMES[name], request, tree)
    except ConfigureError:
        return
    assert bool(outcome.changes) == bool(pending(RUNTIMES[name], request, MemoryTree(files)))
    assert pending(RUNTIMES[name], request, tree) == ()
