"""A Debian in a directory: commands in it, and the same booted, with systemd as PID 1.

Rules:
1. systemd-nspawn runs both. It registers nothing with the machine's own systemd, which need not be there.
2. Both share the machine's network: what listens in them is on loopback, on ports of the test.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.real.packages import PATH
from tests.real.programs import Program, ProgramError, run

_LEFT_OUT: Final = ("var/cache/apt/*", "var/lib/apt/lists/*")
_SYSTEMD: Final = ("systemd", "dbus")
_INSTALLED_WITHIN_S: Final = 900
_UNFORWARDED: Final = Path("/run/systemd/nspawn/propagate")
"""systemd-nspawn leaves a directory for each machine here."""

_numbers: Final = itertools.count()


class Debian:
    """Debian's base system, of an archive, in the directory `root`."""

    def __init__(self, root: Path, archive: Path) -> None:
        self.root = root
        run(["tar", "--extract", f"--file={archive}", f"--directory={root}"], {"PATH": PATH})

    def pack(self, archive: Path) -> None:
        """Write its files to an archive, without what apt-get gets again."""
        without = [f"--exclude=./{path}" for path in _LEFT_OUT]
        how = ["--create", "--numeric-owner", f"--file={archive}", f"--directory={self.root}", *without]
        run(["tar", *how, "."], {"PATH": PATH})

    def run(self, *command: str, mounts: Mapping[Path, str] | None = None, **variables: str) -> str:
        """Run a command and return what it prints. `mounts` are directories by their paths in it."""
        known = {name: os.environ[name] for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ}
        setting = [f"--setenv={name}={value}" for name, value in {**known, **variables}.items()]
        binds = [f"--bind={outside}:{inside}" for outside, inside in (mounts or {}).items()]
        nspawn = [*_nspawn(self.root), "--quiet", "--pipe", *setting, *binds]
        return run([*nspawn, "--", *command], {"PATH": PATH}, _INSTALLED_WITHIN_S)

    def install(self, *packages: str) -> None:
        fast = "-o Acquire::Languages=none -o Dpkg::Options::=--force-unsafe-io"
        get = f"apt-get --quiet=2 {fast}"
        install = f"{get} install --yes --no-install-recommends {' '.join(packages)}"
        self.run("sh", "-ec", f"{get} update; {install}", DEBIAN_FRONTEND="noninteractive")


class Machine:
    """A Debian that has booted. `root` is its root directory as seen from outside."""

    def __init__(self, debian: Debian, log: Path) -> None:
        self.root = debian.root
        if not (self.root / "lib/systemd/systemd").exists():
            debian.install(*_SYSTEMD)
        command = [*_nspawn(self.root), "--console=pipe", "--link-journal=no", "--boot"]
        self._nspawn = Program(command, {"PATH": PATH}, log)
        self._nspawn.wait_ready(self._booted)

    def command(self, *args: str) -> list[str]:
        """What runs `args` in it, from outside."""
        return ["nsenter", f"--target={self._init()}", "--all", "--", *args]

    def run(self, *args: str) -> str:
        """Run a command to its end. Raises ProgramError if it fails."""
        return run(self.command(*args), {"PATH": PATH}, _INSTALLED_WITHIN_S)

    def put(self, file: Path) -> str:
        """Copy a file into it; returns its path there."""
        shutil.copy(file, self.root / "root")
        return f"/root/{file.name}"

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file of root's, with its directories."""
        file = self.root / path.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode)
        file.write_text(text, encoding="utf-8")

    def read(self, path: str) -> str:
        return (self.root / path.removeprefix("/")).read_text(encoding="utf-8")

    def state(self, unit: str) -> str:
        """`active`, `deactivating`, `inactive`, …"""
        return self.property(unit, "ActiveState")

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def stop(self) -> None:
        """Shut it down, as by its power button."""
        self._nspawn.terminate()

    def _init(self) -> int:
        """The process that is PID 1 in it, or 0."""
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text(encoding="utf-8")
        return int((children.split() or ["0"])[0])

    def _booted(self) -> bool:
        init = Path(f"/proc/{self._init()}/comm")
        if not init.exists() or init.read_text(encoding="utf-8").strip() != "systemd":
            return False  # systemd-nspawn's own child, which becomes systemd
        try:
            state = run(self.command("sh", "-c", "systemctl is-system-running || true"), {"PATH": PATH})
        except ProgramError:
            return False
        return state.strip() in ("running", "degraded")


def remove_leftovers() -> None:
    """Of the machines of this process."""
    for directory in _UNFORWARDED.glob(f"{_prefix()}*"):
        directory.rmdir()


def _prefix() -> str:
    return f"p2pd-{os.getpid()}-"


def _nspawn(root: Path) -> list[str]:
    name = f"{_prefix()}{next(_numbers)}"
    return ["systemd-nspawn", f"--directory={root}", f"--machine={name}", "--register=no", "--keep-unit"]
