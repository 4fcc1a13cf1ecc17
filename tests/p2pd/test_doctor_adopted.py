"""What the doctor says of the content stores of runtimes, and what `p2pd configure` says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pd.config.settings import Settings
from p2pd.config.sources import load
from p2pd.configure.content_stores import FOLDER, content_stores, remarks
from p2pd.doctor.adopted import check_adopted
from p2pd.doctor.environment import HttpReply
from p2pd.doctor.result import Level
from tests.p2pd.memory_tree import MemoryTree
from tests.p2pd.test_doctor import ADMIN, Node

CONTENT = f"/var/lib/containerd/{FOLDER}"


def settings_of(**flags: object) -> Settings:
    return load(flags, {}, default_file=Path("/nonexistent/p2pd.toml"))


def results(node: Node, settings: Settings) -> list[tuple[Level, str, str]]:
    return [(each.level, each.title, each.advice) for each in check_adopted(settings, node.environment())]


def saying(adopted: object) -> Node:
    return Node().replying(f"{ADMIN}/status", HttpReply(200, json.dumps({"adopted": adopted}).encode()))


def test_what_cannot_be_read_is_told_with_what_to_do() -> None:
    node = saying({"unreadable": [[CONTENT, "Permission denied"]], "blobs": 3, "size_bytes": 2048})
    (level, title, advice), held = results(node, settings_of(adopt=[CONTENT]))
    assert (level, title) == (Level.WARN, f"p2pd cannot read all of {CONTENT}: Permission denied")
    assert f"setfacl -R -m u:USER:rX,d:u:USER:rX {CONTENT}" in advice
    assert held[:2] == (Level.OK, "3 blobs of runtimes, 2.0KiB, are held as they lie")


@pytest.mark.parametrize("said", [None, [], {"unreadable": 5}, {"unreadable": ["x", []]}])
def test_any_answer_is_borne(said: object) -> None:
    assert {level for level, *_ in results(saying(said), settings_of(adopt=[CONTENT]))} <= {Level.WARN, Level.OK}


def test_what_there_is_to_adopt_is_named() -> None:
    node = Node(files=MemoryTree({f"{CONTENT}/blobs/sha256/00": b""}))
    [(level, title, advice)] = results(node, settings_of())
    assert (level, CONTENT in title) == (Level.OK, True)
    assert advice == f'adopt = ["{CONTENT}"] in p2pd.toml (docs/disk.md)'
    assert results(Node(), settings_of()) == []


def test_podman_has_nothing_to_adopt() -> None:
    [(level, title, _)] = results(Node(), settings_of(adopt=["/var/lib/containers/storage"]))
    assert (level, "podman and crio keep no layers" in title) == (Level.WARN, True)
    assert "nothing of it to adopt" in remarks("podman", MemoryTree({}), [])[0]


@pytest.mark.parametrize(
    ("runtime", "root"),
    [
        ("containerd", "/var/lib/containerd"),
        ("docker", "/var/lib/docker/containerd/daemon"),
        ("k3s", "/var/lib/rancher/k3s/agent/containerd"),
        ("rke2", "/var/lib/rancher/rke2/agent/containerd"),
    ],
)
def test_configure_finds_it(runtime: str, root: str) -> None:
    files = MemoryTree({f"{root}/{FOLDER}/blobs/sha256/00": b""})
    assert content_stores(runtime, files) == (f"{root}/{FOLDER}",)
    assert f"{root}/{FOLDER}" in remarks(runtime, files, [])[0]
    assert remarks(runtime, files, [Path(root, FOLDER)]) == ()
    assert content_stores(runtime, MemoryTree({})) == ()


def test_containerds_own_word_on_its_root_counts() -> None:
    config = b'version = 2\nroot = "/srv/containerd"\n'
    files = MemoryTree({"/etc/containerd/config.toml": config, f"/srv/containerd/{FOLDER}/blobs/sha256/00": b""})
    assert content_stores("containerd", files) == (f"/srv/containerd/{FOLDER}",)
