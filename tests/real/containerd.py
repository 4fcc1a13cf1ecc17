"""A containerd of our own, driven by `ctr`, which is told of the mirror by a directory of hosts.toml files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.real.cri import Cri
from tests.real.filesystems import has_overlay
from tests.real.paths import new_directory
from tests.real.programs import Program, ProgramError, environment, run
from tests.real.web import Credentials

_CONFIG: Final = """
version = 2
root = "{directory}/root"
state = "{directory}/state"
[debug]
level = "warn"
[grpc]
address = "{directory}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{directory}/hosts"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{directory}/cni"
bin_dir = "{directory}/cni"
"""

_HOSTS: Final = """
server = "{mirror_url}"
[host."{mirror_url}"]
capabilities = ["pull", "resolve"]
"""
"""With p2pd as `server`, too, there is no other host for containerd to turn to."""


class Containerd:
    """containerd. `cri` is its Kubernetes part, which has no network for pods, and so can do nothing but pull."""

    def __init__(self, directory: Path) -> None:
        self._env = environment(directory)
        self._hosts = directory / "hosts"
        self.content = directory / "root" / "io.containerd.content.v1.content"
        self._snapshotter = "overlayfs" if has_overlay(directory) else "native"
        config = directory / "config.toml"
        config.write_text(_CONFIG.format(directory=directory, snapshotter=self._snapshotter), encoding="utf-8")
        socket = directory / "containerd.sock"
        self._ctr = ["ctr", "--address", str(socket)]
        self.cri = Cri(socket, self._env)
        log = directory / "containerd.log"
        self._program = Program(["containerd", "--config", str(config)], self._env, log)
        self._program.wait_ready(self._answers)

    def use_mirror(self, upstream: str, mirror_url: str) -> None:
        """From the next pull on, ask `mirror_url` for images of the registry `upstream` (`docker.io`)."""
        _write_hosts(self._hosts, upstream, mirror_url)

    def hosts_for(self, upstream: str, url: str) -> Path:
        """A directory for `pull` that has images of the registry `upstream` asked of `url`, and of no mirror."""
        hosts = new_directory(self._hosts.parent)
        _write_hosts(hosts, upstream, url)
        return hosts

    def pull(self, image: str, hosts: Path | None = None, credentials: Credentials | None = None) -> None:
        """Pull and unpack (`docker.io/library/app:1`). `hosts` is another directory of hosts.toml files.

        Raises ProgramError.
        """
        how = ["--hosts-dir", str(hosts or self._hosts), "--snapshotter", self._snapshotter]
        who = [] if credentials is None else ["--user", ":".join(credentials)]
        self._run("images", "pull", *how, *who, image)

    def digests(self) -> set[str]:
        """Every blob in the content store; containerd has checked each against its digest."""
        return set(self._run("content", "ls", "--quiet").split())

    def remove_images(self) -> None:
        """Remove every image, and wait until its content is gone."""
        if images := self._run("images", "ls", "--quiet").split():
            self._run("images", "rm", "--sync", *images)

    def stop(self) -> None:
        self._program.terminate()

    def _run(self, *args: str) -> str:
        return run([*self._ctr, *args], self._env)

    def _answers(self) -> bool:
        try:
            self._run("version")
        except ProgramError:
            return False
        return True


def _write_hosts(hosts: Path, upstream: str, url: str) -> None:
    file = hosts / upstream / "hosts.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_HOSTS.format(mirror_url=url), encoding="utf-8")
