"""Is each container runtime of this machine told of the mirror, and does it use it?

Told: `p2pd configure` would change nothing. So there is one truth about what a runtime's files have to say.
Uses it: dockerd says what mirrors it has; and p2pd's status may say which clients came, and when.
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
from p2pd.doctor.environment import Surroundings, UnreachableError
from p2pd.doctor.result import Finding, Level

PROGRAM_DIRECTORIES: Final = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/bin", "/snap/bin")
DOCKER_SOCKET: Final = "/var/run/docker.sock"


def check_configured(settings: Settings, around: Surroundings) -> Iterator[Finding]:
    """The files of each runtime that is installed."""
    request = request_of(settings)
    installed = list(_installed(around.files))
    if not installed:
        yield Finding(Level.WARN, "runtimes", "no container runtime is installed here that p2pd knows")
    for runtime in installed:
        yield _configured(runtime, request, around.files)


def check_dockerd(settings: Settings, around: Surroundings) -> Iterator[Finding]:
    """What the running dockerd has read of daemon.json, if that has the mirror."""
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
        yield Finding(Level.WARN, "dockerd", f"dockerd could not be asked: {error}")
        return
    except (ValueError, TypeError, AttributeError):
        yield Finding(Level.WARN, "dockerd", f"what answers at {DOCKER_SOCKET} is not dockerd")
        return
    if store.startswith("io.containerd."):
        yield Finding(Level.OK, "dockerd", "dockerd has the containerd image store: it reads hosts.toml for each pull")
    elif request.default_namespace != HUB:
        return
    elif request.mirror_url in [str(mirror).rstrip("/") for mirror in mirrors]:
        yield Finding(Level.OK, "dockerd", f"dockerd asks {request.mirror_url} for the images of {HUB}")
    else:
        title = "dockerd has not read its daemon.json since the mirror was put in"
        yield Finding(Level.FAIL, "dockerd", title, "systemctl reload docker")


def check_clients(settings: Settings, around: Surroundings) -> Iterator[Finding]:
    """Which runtimes have come to the mirror. Says nothing if the daemon does not count that."""
    clients = _clients(settings, around)
    if clients is None:
        return
    for runtime in _installed(around.files):
        ages_s = [age_s for family, age_s in clients.items() if family.lower() in runtime.families]
        check = f"{runtime.name} in use"
        if ages_s:
            yield Finding(Level.OK, check, f"{runtime.name} used the mirror {show_duration(min(ages_s))} ago")
        else:
            title = f"{runtime.name} has not used the mirror since the daemon started"
            yield Finding(
                Level.WARN, check, title, "pull an image with it; if this stays, see whether it is configured"
            )


def _configured(runtime: Runtime, request: Request, files: Reader) -> Finding:
    advice = f"p2pd configure {runtime.name} (with --dry-run to see what that changes)"
    try:
        changes = pending(runtime, request, files)
    except ConfigureError as error:
        return Finding(Level.WARN, runtime.name, f"{runtime.name} cannot be configured as it is: {error}")
    if changes:
        paths = ", ".join(change.path for change in changes)
        return Finding(Level.WARN, runtime.name, f"{runtime.name} is not configured for the mirror: {paths}", advice)
    return Finding(Level.OK, runtime.name, f"{runtime.name} is configured for the mirror")


def _installed(files: Reader) -> Iterator[Runtime]:
    programs: set[str] = set()
    for directory in PROGRAM_DIRECTORIES:
        programs |= files.names(directory) or frozenset()
    return (runtime for runtime in RUNTIMES.values() if programs & set(runtime.programs))


def _clients(settings: Settings, around: Surroundings) -> Mapping[str, float] | None:
    try:
        found: Any = json.loads(around.get(f"http://{settings.admin}/status").body)
        return {str(family): float(age_s) for family, age_s in found["clients"].items()}
    except (UnreachableError, ValueError, KeyError, TypeError, AttributeError):
        return None
