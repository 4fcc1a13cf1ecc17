"""p2pd itself, as an operator runs it: `p2pd run`, with its flags and its environment variables."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from p2pd.demo.process import command
from proxy.local_authority import FOLDER
from tests.real.programs import Program, ProgramError, environment, tail
from tests.real.web import get
from tests.support.node import admin_headers
from tests.support.ports import free_port


class Node:
    """One p2pd over `directory`, at addresses that stay the same over `start()` and `kill()`.

    `settings` are keys of p2pd.toml (`tag_ttl_s="0"`), handed over as environment variables. `authority` is that of its
    HTTPS proxy (see dockerd.py).
    """

    def __init__(
        self,
        directory: Path,
        upstreams: Sequence[str],
        mirror_port: int | None = None,
        settings: Mapping[str, str] | None = None,
        authority: Path | None = None,
    ) -> None:
        self.mirror = f"127.0.0.1:{mirror_port or free_port()}"
        self.admin = f"127.0.0.1:{free_port()}"
        self.data = directory / "data"
        if authority is not None:
            shutil.copytree(authority, self.data / FOLDER)
            self.data.chmod(0o700)
        addresses = {"data": self.data, "mirror": self.mirror, "admin": self.admin}
        self._args = command("run", {**addresses, "upstream": list(upstreams)})
        variables = {f"P2PD_{key.upper()}": value for key, value in (settings or {}).items()}
        self._env = environment(directory, variables)
        self._log = directory / "p2pd.log"
        self.start()

    @property
    def url(self) -> str:
        """The mirror, as clients are configured with it."""
        return f"http://{self.mirror}"

    def start(self) -> None:
        """Start p2pd (again) and wait until /readyz says so."""
        self._program = Program(self._args, self._env, self._log)
        self._program.wait_ready(self.ready)

    def ready(self) -> bool:
        try:
            return get(f"http://{self.admin}/readyz").status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL, as when the machine runs out of memory."""
        self._program.kill()

    def stop(self) -> None:
        """SIGTERM, as an init system does it. Raises ProgramError when p2pd does not end with 0."""
        code = self._program.terminate()
        if code != 0:
            raise ProgramError(f"p2pd ended with {code}\n{tail(self._log)}")

    def cache(self) -> list[dict[str, Any]]:
        """All that /cache says."""
        rows: list[dict[str, Any]] = get(f"http://{self.admin}/cache", admin_headers(self.data)).json
        return rows

    def cached(self, digest: str) -> dict[str, Any] | None:
        """What /cache says of the blob (`held_bytes`, `complete`), or None when it says nothing of it."""
        return next((row for row in self.cache() if row["digest"] == digest), None)

    def held_bytes(self, digest: str) -> int:
        """How many verified bytes of the blob are recorded."""
        row = self.cached(digest)
        return 0 if row is None else int(row["held_bytes"])


class StartNode(Protocol):
    """Starts p2pd with these `--upstream`s, and `settings` in its environment."""

    def __call__(self, *upstreams: str, **settings: str) -> Node: ...
