"""A dockerd of our own, beside any other on this machine: classic image store, told of p2pd by `p2pd configure`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from p2pd.configure.docker import DAEMON_JSON
from tests.real.filesystems import has_overlay
from tests.real.machine import configured
from tests.real.programs import Program, ProgramError, environment, run
from tests.real.web import Credentials

_DOCKER_IO: Final = "https://index.docker.io/v1/"
"""Under this name `docker login` keeps the credentials for docker.io."""


class Dockerd:
    """dockerd with the mirror at `mirror_url`; it makes no network and asks no other registry than docker.io's mirror.

    It starts a containerd of its own, and ends it.
    """

    def __init__(self, directory: Path, mirror_url: str) -> None:
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
        files = {DAEMON_JSON: operators}
        root = configured(directory / "machine", "docker", mirror_url.removeprefix("http://"), files=files)
        config = root / DAEMON_JSON.removeprefix("/")
        self._docker = ["docker", "--host", socket]
        log = directory / "dockerd.log"
        self._program = Program(["dockerd", "--config-file", str(config)], environment(directory), log)
        self._program.wait_ready(self._answers, timeout_s=60)

    def pull(self, image: str, credentials: Credentials | None = None) -> None:
        """Pull as somebody who is logged in to docker.io with `credentials`, or not at all. Raises ProgramError."""
        client = self._directory / "client"
        client.mkdir(exist_ok=True)
        auths = {} if credentials is None else {_DOCKER_IO: {"auth": credentials.basic}}
        (client / "config.json").write_text(json.dumps({"auths": auths}), encoding="utf-8")
        run([*self._docker[:1], "--config", str(client), *self._docker[1:], "pull", image], self._env)

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
