"""The seam to the disk: both trees keep its promises, and the real one those that only a disk can break."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pd.config.upstream_setting import parse_upstream
from p2pd.config.values import Address
from p2pd.configure.plan import configure
from p2pd.configure.runtime import ConfigureError, NotMountedError, Request
from p2pd.configure.runtimes import RUNTIMES
from p2pd.configure.tree import Disk, FileTree, mount_points
from tests.p2pd.memory_tree import MemoryTree

REQUEST = Request(Address("127.0.0.1", 65001), (parse_upstream("docker.io=https://registry-1.docker.io"),), "docker.io")
DAEMON = "/etc/docker/daemon.json"


@pytest.fixture(params=["memory", "disk"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> FileTree:
    trees: dict[str, Callable[[], FileTree]] = {"memory": lambda: MemoryTree({}), "disk": lambda: Disk(tmp_path)}
    return trees[request.param]()


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_what_is_written_is_read(tree: FileTree) -> None:
    tree.write("/a/b/file", b"first")
    tree.write("/a/b/file", b"second\0")
    assert tree.read("/a/b/file") == b"second\0"
    assert tree.names("/a/b") == frozenset({"file"})
    assert tree.names("/") == frozenset({"a"})


def test_what_is_not_there_is_none(tree: FileTree) -> None:
    tree.write("/file", b"")
    assert tree.read("/file") == b""
    assert tree.read("/other") is None
    assert tree.read("/other/file") is None
    assert tree.names("/other") is None
    assert tree.names("/file") is None


def test_removing_takes_the_directories_that_are_empty_then(tree: FileTree) -> None:
    tree.write("/a/b/c/file", b"")
    tree.write("/a/other", b"")
    tree.remove("/a/b/c/file", ("/a", "/a/b", "/a/b/c"))
    assert tree.names("/a") == frozenset({"other"})
    tree.remove("/a/b/c/file", ("/a", "/a/b", "/a/b/c"))
    tree.remove("/a/other", ())
    assert tree.names("/a") == frozenset()


def test_a_lock_is_held_by_one(tree: FileTree) -> None:
    with tree.lock("/state"), pytest.raises(ConfigureError, match="another p2pd configure"), tree.lock("/state"):
        pass
    with tree.lock("/state"):
        pass


def test_mode_and_owner_stay_and_new_files_are_for_all(tmp_path: Path, umask: None) -> None:
    daemon = tmp_path / DAEMON[1:]
    daemon.parent.mkdir(parents=True)
    daemon.write_bytes(b"{}")
    daemon.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(daemon, 1234, 2345)
    before = daemon.stat()
    configure(RUNTIMES["docker"], REQUEST, Disk(tmp_path))
    after = daemon.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    hosts = tmp_path / "etc/docker/certs.d/docker.io/hosts.toml"
    assert stat.S_IMODE(hosts.stat().st_mode) == 0o644
    assert stat.S_IMODE(hosts.parent.stat().st_mode) == 0o755

    state = tmp_path / "var/lib/p2pd-configure"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "docker.json").stat().st_mode) == 0o600

    configure(RUNTIMES["docker"], None, Disk(tmp_path))
    assert daemon.read_bytes() == b"{}"
    assert stat.S_IMODE(daemon.stat().st_mode) == 0o640


def test_a_symbolic_link_is_written_through_and_stays(tmp_path: Path) -> None:
    (tmp_path / "etc/docker").mkdir(parents=True)
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv/daemon.json").write_bytes(b"{}")
    link = tmp_path / DAEMON[1:]
    link.symlink_to("../../srv/daemon.json")
    configure(RUNTIMES["docker"], REQUEST, Disk(tmp_path))
    assert link.is_symlink()
    assert b"registry-mirrors" in (tmp_path / "srv/daemon.json").read_bytes()
    configure(RUNTIMES["docker"], None, Disk(tmp_path))
    assert link.is_symlink()
    assert (tmp_path / "srv/daemon.json").read_bytes() == b"{}"


def test_a_link_to_nothing_is_written_through_and_leads_to_nothing_again(tmp_path: Path) -> None:
    (tmp_path / "etc/docker").mkdir(parents=True)
    (tmp_path / "srv").mkdir()
    link = tmp_path / DAEMON[1:]
    link.symlink_to("../../srv/daemon.json")
    configure(RUNTIMES["docker"], REQUEST, Disk(tmp_path))
    assert (tmp_path / "srv/daemon.json").exists()
    configure(RUNTIMES["docker"], None, Disk(tmp_path))
    assert link.is_symlink()
    assert not (tmp_path / "srv/daemon.json").exists()


def test_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root/etc/docker").mkdir(parents=True)
    outside = tmp_path / "daemon.json"
    outside.write_bytes(b"{}")
    (tmp_path / "root" / DAEMON[1:]).symlink_to(outside)
    with pytest.raises(ConfigureError, match="leads out of"):
        configure(RUNTIMES["docker"], REQUEST, Disk(tmp_path / "root"))
    assert outside.read_bytes() == b"{}"


def test_what_a_killed_run_left_beside_a_file_is_gone_after_the_next(tmp_path: Path) -> None:
    left = tmp_path / "etc/docker/.daemon.json.p2pd-new"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    configure(RUNTIMES["docker"], REQUEST, Disk(tmp_path))
    assert not left.exists()
    left.write_bytes(b"half")
    configure(RUNTIMES["docker"], None, Disk(tmp_path))
    assert list(left.parent.iterdir()) == []


def test_a_journal_that_others_could_have_written_is_not_believed(tmp_path: Path) -> None:
    configure(RUNTIMES["docker"], REQUEST, Disk(tmp_path))
    journal = tmp_path / "var/lib/p2pd-configure/docker.json"
    journal.chmod(0o666)
    with pytest.raises(ConfigureError, match="is not believed"):
        configure(RUNTIMES["docker"], None, Disk(tmp_path))
    assert (tmp_path / DAEMON[1:]).exists()


def test_errors_name_the_path(tmp_path: Path) -> None:
    (tmp_path / "etc").write_bytes(b"not a directory")
    with pytest.raises(ConfigureError, match=r"cannot write /etc/docker/certs.d/docker.io/hosts.toml: Not a directory"):
        configure(RUNTIMES["docker"], REQUEST, Disk(tmp_path))
    (tmp_path / "dir").mkdir()
    with pytest.raises(ConfigureError, match="cannot read /dir: Is a directory"):
        Disk(tmp_path).read("/dir")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigureError, match="cannot read /loop"):
        Disk(tmp_path).read("/loop")


# a root of mounted directories


def mounted(root: Path, *paths: str) -> Disk:
    for path in paths:
        (root / path).mkdir(parents=True, exist_ok=True)
    return Disk(root, [Path("/"), Path("/proc"), *(root / path for path in paths)])


STATE = "var/lib/p2pd-configure"


def config_path(root: Path, value: str) -> bytes:
    config = root / "etc/containerd/config.toml"
    config.write_text(f'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "{value}"\n')
    return config.read_bytes()


def test_a_directory_that_is_not_mounted_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    disk = mounted(tmp_path, "etc/containerd", STATE)
    before = config_path(tmp_path, "/opt/certs.d")
    with pytest.raises(NotMountedError, match=r"Mount the machine's /opt/certs.d, .* hostPath"):
        configure(RUNTIMES["containerd"], REQUEST, disk)
    assert (tmp_path / "etc/containerd/config.toml").read_bytes() == before
    assert not (tmp_path / "opt").exists()

    configure(RUNTIMES["containerd"], REQUEST, mounted(tmp_path, "etc/containerd", STATE, "opt/certs.d"))
    assert (tmp_path / "opt/certs.d/docker.io/hosts.toml").exists()
    with pytest.raises(NotMountedError, match=r"/opt/certs.d"):  # undoing would forget that file
        configure(RUNTIMES["containerd"], None, disk)


def test_what_was_there_has_to_be_kept_on_the_machine(tmp_path: Path) -> None:
    with pytest.raises(NotMountedError, match=r"/var/lib/p2pd-configure"):
        configure(RUNTIMES["containerd"], REQUEST, mounted(tmp_path, "etc/containerd"))


def test_a_list_of_the_operators_is_not_narrowed_unseen_and_containerds_own_is_told(tmp_path: Path) -> None:
    disk = mounted(tmp_path, "etc/containerd", STATE)
    config_path(tmp_path, "/etc/containerd/certs.d:/etc/more")
    with pytest.raises(NotMountedError, match=r"/etc/more"):
        configure(RUNTIMES["containerd"], REQUEST, disk)
    config_path(tmp_path, "/etc/containerd/certs.d:/etc/docker/certs.d")
    assert "/etc/docker/certs.d is not mounted here" in configure(RUNTIMES["containerd"], REQUEST, disk).remarks[0]


@pytest.mark.parametrize("whole", [True, False])
def test_a_whole_machine_or_a_directory_without_mounts_has_all_its_paths(tmp_path: Path, *, whole: bool) -> None:
    disk = mounted(tmp_path, *(["proc", "usr"] if whole else []))
    configure(RUNTIMES["docker"], REQUEST, disk)
    assert (tmp_path / "etc/docker/daemon.json").exists()


def test_a_certificate_of_p2pd_that_is_not_mounted_is_left_out(tmp_path: Path) -> None:
    request = Request(REQUEST.mirror, (parse_upstream("a.example=https://a.example;ca=/etc/p2pd/ca.pem"),), "a.example")
    configure(RUNTIMES["containerd"], request, mounted(tmp_path, "etc/containerd", STATE))
    assert "ca.pem" not in (tmp_path / "etc/containerd/certs.d/a.example/hosts.toml").read_text()


def test_the_mounts_of_this_process_are_known() -> None:
    assert Path("/proc") in mount_points()
