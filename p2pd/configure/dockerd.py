"""The running dockerd: it reads `registry-mirrors` again on SIGHUP, and does not start if a flag gives mirrors too."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2pd.configure.docker import DAEMON_JSON, KEY, daemon_values
from p2pd.configure.runtime import ConfigureError, Reader

PIDFILE: Final = "/var/run/docker.pid"
PROXIES_SINCE: Final = 23
"""The first major version of dockerd that has `proxies` in daemon.json."""

PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Dockerd:
    """The process of a dockerd, with its arguments."""

    pid: int
    arguments: tuple[str, ...]


def running(files: Reader, proc: Path = PROC) -> Dockerd | None:
    """The dockerd of the pidfile that daemon.json names, by default the usual pidfile. None if it does not run."""
    try:
        pidfile = str(daemon_values(files.read(DAEMON_JSON) or b"").get("pidfile", PIDFILE))
    except ConfigureError:  # to be told of where that file matters
        pidfile = PIDFILE
    content = files.read(pidfile)
    if content is None or not content.strip().isdigit():
        return None
    pid = int(content)
    if not _is_dockerd(pid, proc):
        return None
    try:
        arguments = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    return Dockerd(pid, tuple(arguments))


def has_daemon_json_proxies(version: str) -> bool:
    """Whether a dockerd of that `--version` reads `proxies` in daemon.json. An older one would not start."""
    found = re.match(r"Docker version (\d+)\.", version)
    return found is not None and int(found[1]) >= PROXIES_SINCE


def version() -> str:
    """What the dockerd of this machine says of itself; empty if there is none."""
    try:
        told = subprocess.run(["dockerd", "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout


def environment_proxy(dockerd: Dockerd, proc: Path = PROC) -> str:
    """The HTTPS proxy in the environment of that dockerd; empty for none, or if it may not be read."""
    try:
        variables = (proc / str(dockerd.pid) / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    named = dict(each.split("=", 1) for each in variables if "=" in each)
    return named.get("HTTPS_PROXY") or named.get("https_proxy") or ""


def refuse_flags(dockerd: Dockerd | None, *, proxy: bool = False) -> None:
    """Raises ConfigureError if dockerd has mirrors as flags: with flags and key together it would not start again.

    `proxy`: its HTTPS proxy is to be written, too.
    """
    if proxy and dockerd is not None and any(argument.startswith("--https-proxy") for argument in dockerd.arguments):
        raise ConfigureError(
            "dockerd was started with --https-proxy, beside which it takes no other: take the flag away first; nothing "
            "was changed"
        )
    if dockerd is not None and any(argument.startswith("--registry-mirror") for argument in dockerd.arguments):
        raise ConfigureError(
            f"dockerd was started with --registry-mirror, and does not start if {DAEMON_JSON} has {KEY} as well: "
            "move the flag into that file first; nothing was changed"
        )


def reload(dockerd: Dockerd, proc: Path = PROC) -> bool:
    """Make dockerd read daemon.json again; False if it has ended. Raises ConfigureError if we may not signal it."""
    try:
        process = os.pidfd_open(dockerd.pid)
    except ProcessLookupError:
        return False
    try:
        # Checked again behind the pidfd, which stays with this process even if its pid is used again.
        if not _is_dockerd(dockerd.pid, proc):
            return False
        signal.pidfd_send_signal(process, signal.SIGHUP)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise ConfigureError(
            f"{DAEMON_JSON} is changed, but dockerd could not be told: run systemctl reload docker as root"
        ) from None
    finally:
        os.close(process)
    return True


def _is_dockerd(pid: int, proc: Path) -> bool:
    try:
        return (proc / str(pid) / "comm").read_bytes() == b"dockerd\n"
    except OSError:
        return False
