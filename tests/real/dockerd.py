"""A dockerd of our own, beside any other on this machine: classic image store, told of p2pd by `p2pd configure`.

Its /etc/docker is in a mount namespace of its own: the place of certs.d is compiled into dockerd.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from p2pd.configure.docker import DAEMON_JSON
from p2pd.configure.docker_proxy import DROP_IN, UNITS
from p2pd.configure.runtime import ProxyRequest
from proxy.local_authority import FOLDER, LocalAuthority
from tests.real.filesystems import has_overlay
from tests.real.machine import configured
from tests.real.programs import Program, ProgramError, environment, run
from tests.real.web import Credentials

_DOCKER_IO: Final = "https://index.docker.io/v1/"
"""Under this name `docker login` keeps the credentials for docker.io."""


BY_PROXY: Final = "registry.test:5000"
"""The registry that dockerd asks by p2pd's HTTPS proxy. The name does not exist (RFC 2606)."""

_MOUNTED: Final = 'mkdir -p /etc/docker && mount --bind "$0" /etc/docker && exec "$@"'


class Dockerd:
    """dockerd with the mirror at `mirror_url` and the HTTPS proxy at `proxy_url`; it asks nobody else.

    It makes no network. It starts a containerd of its own, and ends it. `authority` is what a node has to have as
    DATA/https-proxy, so that this dockerd trusts the node for `BY_PROXY`.
    """

    def __init__(self, directory: Path, mirror_url: str, proxy_url: str) -> None:
        self._directory = directory
        socket = f"unix://{directory}/docker.sock"
        operators = json.dumps(
            {
                "data-root": str(directory / "data"),
                "exec-root": str(directory / "exec"),
                "pidfile": str(directory / "docker.pid"),
                "deprecated-key-path": str(directory / "key.json"),
                "hosts": [socket],
                "log-level": "warn",
                "iptables": False,
                "ip-forward": False,
                "bridge": "none",
                "storage-driver": "overlay2" if has_overlay(directory) else "vfs",
            }
        )
        root, data = directory / "machine", "/var/lib/p2pd"
        LocalAuthority(root / data.removeprefix("/")).prepare([BY_PROXY.partition(":")[0]])
        self.authority = root / data.removeprefix("/") / FOLDER
        configured(
            root,
            "docker",
            mirror_url.removeprefix("http://"),
            upstreams=["docker.io", BY_PROXY],
            https_proxy=ProxyRequest(proxy_url, data),
            files={DAEMON_JSON: operators, f"{UNITS}/docker.service": ""},
        )
        drop_in = (root / DROP_IN.removeprefix("/")).read_text()
        variables = dict(re.findall(r'^Environment="(\w+)=(.*)"$', drop_in, re.MULTILINE))
        self._docker = ["docker", "--host", socket]
        log = directory / "dockerd.log"
        mounted = ["unshare", "--mount", "sh", "-c", _MOUNTED, str(root / "etc/docker")]
        self._program = Program([*mounted, "dockerd"], environment(directory, variables), log)
        self._program.wait_ready(self._answers)

    def pull(self, image: str, credentials: Credentials | None = None) -> None:
        """Pull as somebody who is logged in to the registries with `credentials`, or not at all. Raises ProgramError.

        Another registry than docker.io and `BY_PROXY` is that of the image.
        """
        self.run_as(credentials, "pull", image, registry=image.partition("/")[0])

    def run_as(self, credentials: Credentials | None, *args: str, registry: str = BY_PROXY) -> str:
        """What `docker` says to `args` of somebody who is logged in with `credentials`. Raises ProgramError."""
        client = self._directory / "client"
        client.mkdir(exist_ok=True)
        names = {_DOCKER_IO, BY_PROXY, registry}
        auths = {} if credentials is None else {name: {"auth": credentials.basic} for name in names}
        (client / "config.json").write_text(json.dumps({"auths": auths}), encoding="utf-8")
        return run([*self._docker[:1], "--config", str(client), *self._docker[1:], *args], self._env)

    def mirrors(self) -> list[str]:
        """The mirrors of docker.io that dockerd has read."""
        return [
            url.rstrip("/") for url in json.loads(self._run("info", "--format", "{{json .RegistryConfig.Mirrors}}"))
        ]

    def inspect(self, image: str) -> dict[str, Any]:
        """What dockerd knows of an image that it has: `Id` is the config's digest."""
        return json.loads(self._run("image", "inspect", image))[0]  # type: ignore[no-any-return]  # docker's JSON

    def run_container(self, image: str, *command: str) -> str:
        """What `command` writes in a container of the image that has no network."""
        return self._run("run", "--rm", "--network", "none", image, *command)

    def remove_images(self) -> None:
        """Remove every image, with every layer."""
        if images := set(self._run("image", "ls", "--all", "--quiet").split()):
            self._run("image", "rm", "--force", *images)

    def stop(self) -> None:
        self._program.terminate()

    @property
    def _env(self) -> dict[str, str]:
        return environment(self._directory)

    def _run(self, *args: str) -> str:
        return run([*self._docker, *args], self._env)

    def _answers(self) -> bool:
        try:
            self._run("version")
        except ProgramError:
            return False
        return True
