"""skopeo, which copies images between registries and directories, and what it and podman read to find a mirror."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.real.programs import environment, run
from tests.real.web import Credentials


def relocated(mirror: str) -> str:
    """A registries.conf that sends everything of docker.io to p2pd at `mirror` (HOST:PORT), and nowhere else."""
    return f'[[registry]]\nprefix = "docker.io"\nlocation = "{mirror}/docker.io"\ninsecure = true\n'


def mirrored(mirror: str) -> str:
    """A registries.conf with p2pd at `mirror` (HOST:PORT) as the mirror of docker.io, which is asked second."""
    location = f'location = "{mirror}/docker.io"\ninsecure = true\n'
    return f'[[registry]]\nlocation = "docker.io"\n[[registry.mirror]]\n{location}'


class Skopeo:
    """skopeo with its files in `directory`, and with `registries` as its registries.conf."""

    def __init__(self, directory: Path, registries: str = "") -> None:
        self._directory = directory
        registries_conf = directory / ".config" / "containers" / "registries.conf"
        registries_conf.parent.mkdir(parents=True)
        registries_conf.write_text(registries, encoding="utf-8")
        self._env = environment(directory)
        self._copies = 0

    def copy(self, image: str, credentials: Credentials | None = None) -> Path:
        """Copy `image` (`HOST:PORT/docker.io/library/app:1`) for this platform into a new directory.

        There, `manifest.json` is the manifest and every other blob is named by its hexadecimal digest.
        Raises ProgramError.
        """
        self._copies += 1
        target = self._directory / f"copy-{self._copies}"
        who = ["--src-no-creds"] if credentials is None else ["--src-creds", ":".join(credentials)]
        copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", *who]
        run([*copy, f"docker://{image}", f"dir:{target}"], self._env)
        return target


def digests(copy: Path) -> set[str]:
    """The digests of what `Skopeo.copy` wrote, computed from the content: the manifest's, the config's, the layers'."""
    files = [path for path in copy.iterdir() if path.name != "version"]
    return {"sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
