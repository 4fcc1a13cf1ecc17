"""podman with storage and configuration of its own; it has no daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.real.filesystems import has_overlay
from tests.real.programs import environment, run
from tests.real.web import Credentials


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
        self._auth_file = directory / "auth.json"
        self._auth_file.write_text("{}", encoding="utf-8")
        self._env = environment(
            directory,
            {
                "REGISTRY_AUTH_FILE": str(self._auth_file),
                "CONTAINERS_REGISTRIES_CONF": str(registries_conf),
                "CONTAINERS_CONF": str(containers_conf),
                "CONTAINERS_STORAGE_CONF": str(storage_conf),
                "XDG_RUNTIME_DIR": str(directory),
            },
        )
        self._podman = ["podman", "--tmpdir", str(directory / "tmp")]

    def log_in(self, registry: str, credentials: Credentials | None) -> None:
        """Have an entry for `registry` (`127.0.0.1:65001`), as `podman login` makes it, or no entry at all."""
        auths = {} if credentials is None else {registry: {"auth": credentials.basic}}
        self._auth_file.write_text(json.dumps({"auths": auths}), encoding="utf-8")

    def pull(self, image: str, credentials: Credentials | None = None) -> None:
        """Pull and unpack, with `--creds`, which are for the image's registry. Raises ProgramError."""
        who = [] if credentials is None else ["--creds", ":".join(credentials)]
        self._run("pull", "--quiet", *who, image)

    def inspect(self, image: str) -> dict[str, Any]:
        """What podman knows of an image that it has: `Id` is the config's digest without the algorithm."""
        return json.loads(self._run("image", "inspect", image))[0]  # type: ignore[no-any-return]  # podman's JSON

    def remove_images(self) -> None:
        self._run("rmi", "--all", "--force")

    def _run(self, *args: str) -> str:
        return run([*self._podman, *args], self._env)
