"""podman with storage and configuration of its own; it has no daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.real.filesystems import has_overlay
from tests.real.programs import environment, run


class Podman:
    """podman whose images of docker.io come from `registries`, a registries.conf (see skopeo.py for two forms)."""

    def __init__(self, directory: Path, registries: str) -> None:
        registries_conf = directory / "registries.conf"
        registries_conf.write_text(registries, encoding="utf-8")
        containers_conf = directory / "containers.conf"
        containers_conf.write_text(  # by default the locks are in /dev/shm, and the networks in /etc
            f'[engine]\nlock_type = "file"\n[network]\nnetwork_config_dir = "{directory}/networks"\n', encoding="utf-8"
        )
        storage_conf = directory / "storage.conf"
        driver = "overlay" if has_overlay(directory) else "vfs"
        storage_conf.write_text(
            f'[storage]\ndriver = "{driver}"\ngraphroot = "{directory}/root"\nrunroot = "{directory}/run"\n',
            encoding="utf-8",
        )
        self._env = environment(
            directory,
            {
                "CONTAINERS_REGISTRIES_CONF": str(registries_conf),
                "CONTAINERS_CONF": str(containers_conf),
                "CONTAINERS_STORAGE_CONF": str(storage_conf),
                "XDG_RUNTIME_DIR": str(directory),
            },
        )
        self._podman = ["podman", "--tmpdir", str(directory / "tmp")]

    def pull(self, image: str) -> None:
        """Pull and unpack. Raises ProgramError."""
        self._run("pull", "--quiet", image)

    def inspect(self, image: str) -> dict[str, Any]:
        """What podman knows of an image that it has: `Id` is the config's digest without the algorithm."""
        return json.loads(self._run("image", "inspect", image))[0]  # type: ignore[no-any-return]  # podman's JSON

    def remove_images(self) -> None:
        self._run("rmi", "--all", "--force")

    def _run(self, *args: str) -> str:
        return run([*self._podman, *args], self._env)
