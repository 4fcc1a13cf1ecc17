"""Is each container runtime of this machine configured for the mirror, and does it use the mirror?

A runtime is configured if `p2pd configure` would change nothing, so only one module defines the right files.
The use of the mirror shows in dockerd's own list of mirrors, and in the clients of p2pd's status.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from p2pd.config.settings import Settings
from p2pd.config.values import show_duration
from p2pd.configure.docker import HUB
from p2pd.configure.plan import pending
from p2pd.configure.request import request_of
from p2pd.configure.runtime import ConfigureError, Reader, Request, Runtime
from p2pd.configure.runtimes import RUNTIMES
from p2pd.doctor.environment import Environment, UnreachableError
from p2pd.doctor.result import CheckResult, Level

PROGRAM_DIRECTORIES: Final = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/bin", "/snap/bin")
DOCKER_SOCKET: Final = "/var/run/docker.sock"


def check_configured(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """The files of each runtime that is installed."""
    request = request_of(settings)
    installed = list(_installed(around.files))
    if not installed:
        yield CheckResult(Level.WARN, "runtimes", "no container runtime is installed here that p2pd knows")
    for runtime in installed:
        yield _configured(runtime, request, around.files)


def check_dockerd(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """Whether the running dockerd has read a daemon.json that has the mirror."""
    request = request_of(settings)
    docker = RUNTIMES["docker"]
    if docker not in _installed(around.files) or _configured(docker, request, around.files).level is not Level.OK:
        return
    try:
        reply = around.ask_socket(DOCKER_SOCKET, "/info")
        info = json.loads(reply.body)
        mirrors = info.get("RegistryConfig", {}).get("Mirrors") or []
        store = dict(info.get("DriverStatus") or []).get("driver-type", "")
    except UnreachableError as error:
        yield CheckResult(Level.WARN, "dockerd", f"dockerd could not be asked: {error}")
        return
    except (ValueError, TypeError, AttributeError):
        yield CheckResult(Level.WARN, "dockerd", f"what answers at {DOCKER_SOCKET} is not dockerd")
        return
    if store.startswith("io.containerd."):
        yield CheckResult(
            Level.OK, "dockerd", "dockerd has the containerd image store: it reads hosts.toml for each pull"
        )
    elif request.default_upstream != HUB:
        return
    elif request.mirror_url in [str(mirror).rstrip("/") for mirror in mirrors]:
        yield CheckResult(Level.OK, "dockerd", f"dockerd asks {request.mirror_url} for the images of {HUB}")
    else:
        title = "dockerd has not read its daemon.json since the mirror was put in"
        yield CheckResult(Level.FAIL, "dockerd", title, "systemctl reload docker")


def check_clients(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """The runtimes that have asked the mirror. There is no result if the daemon does not count them."""
    clients = _clients(settings, around)
    if clients is None:
        return
    for runtime in _installed(around.files):
        ages_s = [age_s for family, age_s in clients.items() if family.lower() in runtime.families]
        check = f"{runtime.name} in use"
        if ages_s:
            yield CheckResult(Level.OK, check, f"{runtime.name} used the mirror {show_duration(min(ages_s))} ago")
        else:
            title = f"{runtime.name} has not used the mirror since the daemon started"
            yield CheckResult(
                Level.WARN, check, title, "pull an image with it; if this stays, see whether it is configured"
            )


def _configured(runtime: Runtime, request: Request, files: Reader) -> CheckResult:
    advice = f"p2pd configure {runtime.name} (with --dry-run to see what that changes)"
    try:
        changes = pending(runtime, request, files)
    except ConfigureError as error:
        return CheckResult(Level.WARN, runtime.name, f"{runtime.name} cannot be configured as it is: {error}")
    if changes:
        paths = ", ".join(change.path for change in changes)
        return CheckResult(
            Level.WARN, runtime.name, f"{runtime.name} is not configured for the mirror: {paths}", advice
        )
    return CheckResult(Level.OK, runtime.name, f"{runtime.name} is configured for the mirror")


def _installed(files: Reader) -> Iterator[Runtime]:
    programs: set[str] = set()
    for directory in PROGRAM_DIRECTORIES:
        programs |= files.names(directory) or frozenset()
    return (runtime for runtime in RUNTIMES.values() if programs & set(runtime.programs))


def _clients(settings: Settings, around: Environment) -> Mapping[str, float] | None:
    try:
        found: Any = json.loads(around.get(f"http://{settings.admin}/status").body)
        return {str(family): float(age_s) for family, age_s in found["clients"].items()}
    except (UnreachableError, ValueError, KeyError, TypeError, AttributeError):
        return None
