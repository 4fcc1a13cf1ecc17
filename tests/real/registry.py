"""docker-registry (the program of the `registry:2` image) on a loopback port: open, with users, or as a cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.real.guards import htpasswd
from tests.real.image import REPOSITORY, TAG, Image
from tests.real.programs import Program, environment, listens, run
from tests.real.tokens import TokenServer
from tests.real.web import Credentials
from tests.support.ports import free_port


class Registry:
    """One docker-registry over `storage`; several may serve the same storage, as only one is pushed to.

    `settings` are sections of its configuration beside the usual ones: see `basic_auth`, `token_auth` and
    `pull_through`.
    """

    def __init__(self, directory: Path, storage: Path, settings: Mapping[str, Any] | None = None) -> None:
        self._directory = directory
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._config = directory / "registry.yml"
        self._config.write_text(  # JSON is YAML
            json.dumps(
                {
                    "version": 0.1,
                    "log": {"level": "warn"},
                    "storage": {"filesystem": {"rootdirectory": str(storage)}},
                    "http": {"addr": f"127.0.0.1:{self._port}"},
                    **(settings or {}),
                }
            ),
            encoding="utf-8",
        )
        self._program = Program(
            ["docker-registry", "serve", str(self._config)],
            environment(directory),
            directory / "registry.log",
        )
        self._program.wait_ready(lambda: listens(self._port))

    def push(self, image: Image, repository: str = REPOSITORY) -> None:
        """Store the image, every platform of it, as `library/app:1`, or as `1` of another repository."""
        self._copy("--dest-tls-verify=false", f"oci:{image.layout}:{TAG}", self._image(repository))

    def export(self, layout: Path) -> None:
        """Write `library/app:1`, every platform of it, to a new OCI image layout, as skopeo does it."""
        self._copy("--src-tls-verify=false", self._image(REPOSITORY), f"oci:{layout}:{TAG}")

    def _image(self, repository: str) -> str:
        return f"docker://127.0.0.1:{self._port}/{repository}:{TAG}"

    def _copy(self, *args: str) -> None:
        run(["skopeo", "--insecure-policy", "copy", "--quiet", "--all", *args], environment(self._directory))

    def stop(self) -> None:
        """End it; stopping it again does nothing."""
        self._program.terminate()


def basic_auth(directory: Path, *users: Credentials) -> dict[str, Any]:
    """Only `users` may read, by HTTP Basic: all of them everything."""
    return {"auth": {"htpasswd": {"realm": "tests", "path": str(htpasswd(directory / "htpasswd", *users))}}}


def token_auth(tokens: TokenServer) -> dict[str, Any]:
    """Only whom `tokens` gives a token for the repository may read."""
    return {
        "auth": {
            "token": {
                "realm": tokens.realm,
                "service": tokens.service,
                "issuer": tokens.issuer,
                "rootcertbundle": str(tokens.certificate),
            }
        }
    }


def pull_through(url: str) -> dict[str, Any]:
    """A cache of the registry at `url`; it answers a range of what it does not hold yet with the whole blob."""
    return {"proxy": {"remoteurl": url}}
