"""Does each container runtime that is in use here pull through the mirror? One block of results for each.

Rules:
1. A runtime is in use if it has asked the mirror, if its files name a mirror of this machine, or if it left the sign
   of its work. A runtime that is only installed is no reason to warn; where none is in use, all that are installed are
   looked at.
2. A runtime is configured if `p2pd configure` would change nothing, so only one module defines the right files.
3. What is seen goes before what is written: a runtime that asks the mirror is well, whatever its files have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from p2pd.admin.reading import section
from p2pd.config.settings import Settings
from p2pd.config.values import Address, ConfigError, parse_address, show_duration
from p2pd.configure.docker import CERTS_D, HUB
from p2pd.configure.docker_proxy import as_configured
from p2pd.configure.plan import pending
from p2pd.configure.request import request_of
from p2pd.configure.runtime import ConfigureError, Reader, Request, Runtime, Unmarked
from p2pd.configure.runtimes import RUNTIMES
from p2pd.doctor.environment import Environment, UnreachableError
from p2pd.doctor.result import CheckResult, Level
from p2pd.doctor.running import status_of

PROGRAM_DIRECTORIES: Final = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/bin", "/snap/bin")
DOCKER_SOCKET: Final = "/var/run/docker.sock"
SIGNS_OF_USE: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "docker": (("/var/run", "docker.sock"), ("/run", "docker.sock")),
    "containerd": (("/var/lib", "kubelet"), ("/usr/local/bin", "nerdctl"), ("/usr/bin", "nerdctl")),
    "podman": (("/var/lib/containers", "storage"),),
    "crio": (("/var/run/crio", "crio.sock"), ("/run/crio", "crio.sock")),
    "buildkit": (("/run/buildkit", "buildkitd.sock"),),
    "k3s": (("/var/lib/rancher", "k3s"),),
    "rke2": (("/var/lib/rancher", "rke2"),),
}
"""A directory and a name in it. dockerd brings a containerd of its own, which pulls nothing for others."""

_LOOPBACK: Final = re.compile(r"(?<![\w.])(?:127\.0\.0\.1|localhost|\[::1\]):[0-9]{1,5}(?![0-9])")


def check_runtimes(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """Each runtime that is in use: what it is configured for, what it has read, and whether it came to the mirror."""
    request = as_configured(request_of(settings), settings.https_proxy, settings.data, around.files, CERTS_D)
    installed = _installed(around.files)
    if not installed:
        yield CheckResult(Level.WARN, "runtimes", "no container runtime is installed here that p2pd knows")
        return
    ages_s = {runtime.name: _last_used_s(runtime, settings, around) for runtime in installed}
    used = [each for each in installed if ages_s[each.name] is not None or _is_in_use(each, request, around.files)]
    for runtime in used or installed:
        yield from _block(runtime, request, ages_s[runtime.name], around)
    unused = [runtime.name for runtime in installed if used and runtime not in used]
    if unused:
        title = f"installed, and not in use as far as can be seen: {', '.join(unused)}"
        yield CheckResult(Level.OK, "runtimes", title)


def _block(runtime: Runtime, request: Request, age_s: float | None, around: Environment) -> Iterator[CheckResult]:
    name, files = runtime.name, around.files
    advice = f"p2pd configure {name} (with --dry-run to see what that changes)"
    dead = list(_dead_mirrors(runtime, request, around))
    yield from dead
    try:
        paths = ", ".join(change.path for change in pending(runtime, request, files))
    except ConfigureError as error:
        yield CheckResult(Level.WARN, name, f"{name} cannot be configured as it is: {error}")
        return
    if age_s is not None:
        hint = f"p2pd configure {name} would change {paths}" if paths else ""
        yield CheckResult(Level.OK, name, f"{name} used the mirror {show_duration(age_s)} ago", hint)
    elif paths and dead:
        return
    elif paths:
        yield CheckResult(Level.WARN, name, f"{name} is not configured for the mirror: {paths}", advice)
    else:
        title = f"{name} is configured for the mirror, and has not used it since the daemon started"
        yield CheckResult(Level.OK, name, title, f"pull an image with {name} to see it come here")
    if name == "docker" and not paths:
        yield from _dockerd(request, around)


def _dead_mirrors(runtime: Runtime, request: Request, around: Environment) -> Iterator[CheckResult]:
    """Addresses of this machine in the runtime's files that nothing listens at: mirrors of other ports, gone since."""
    registries = {urlsplit(url).port for upstream in request.upstreams for url in upstream.urls}
    for path, address in _local_mirrors(runtime, request, around.files):
        if address.port == request.mirror.port or address.port in registries:  # check_upstreams asks those
            continue
        try:
            around.connect(address)
        except UnreachableError as error:
            title = f"{path} names {address}, an earlier mirror perhaps, where {runtime.name} finds nothing: {error}"
            advice = f"take it out of {path}, then p2pd configure {runtime.name}: this mirror is at {request.mirror}"
            yield CheckResult(Level.FAIL, runtime.name, title, advice)


def _dockerd(request: Request, around: Environment) -> Iterator[CheckResult]:
    """Whether the running dockerd has read the daemon.json that has the mirror."""
    try:
        reply = around.ask_socket(DOCKER_SOCKET, "/info")
        info = json.loads(reply.body)
        mirrors = info.get("RegistryConfig", {}).get("Mirrors") or []
        store = dict(info.get("DriverStatus") or []).get("driver-type", "")
    except UnreachableError as error:
        yield CheckResult(Level.WARN, "docker", f"dockerd could not be asked: {error}")
        return
    except (ValueError, TypeError, AttributeError):
        yield CheckResult(Level.WARN, "docker", f"what answers at {DOCKER_SOCKET} is not dockerd")
        return
    if store.startswith("io.containerd."):
        title = "dockerd has the containerd image store: it reads hosts.toml for each pull"
        yield CheckResult(Level.OK, "docker", title)
    elif request.default_upstream != HUB:
        return
    elif request.mirror_url in [str(mirror).rstrip("/") for mirror in mirrors]:
        yield CheckResult(Level.OK, "docker", f"dockerd asks {request.mirror_url} for the images of {HUB}")
    else:
        title = "dockerd has not read its daemon.json since the mirror was put in"
        yield CheckResult(Level.FAIL, "docker", title, "systemctl reload docker")


def _installed(files: Reader) -> list[Runtime]:
    programs: set[str] = set()
    for directory in PROGRAM_DIRECTORIES:
        programs |= files.names(directory) or frozenset()
    return [runtime for runtime in RUNTIMES.values() if programs & set(runtime.programs)]


def _is_in_use(runtime: Runtime, request: Request, files: Reader) -> bool:
    signs = SIGNS_OF_USE.get(runtime.name, ())
    return any(name in (files.names(directory) or ()) for directory, name in signs) or any(
        _local_mirrors(runtime, request, files)
    )


def _local_mirrors(runtime: Runtime, request: Request, files: Reader) -> Iterator[tuple[str, Address]]:
    """The addresses of this machine in the files that the mirror is to be in, each once, with the file."""
    try:
        paths = sorted(runtime.plan(request, Unmarked(files)).files)
    except ConfigureError:  # told with the runtime's block
        return
    for path in paths:
        text = (files.read(path) or b"").decode(errors="replace")
        for found in sorted(set(_LOOPBACK.findall(text))):
            try:
                yield path, parse_address(found)
            except ConfigError:
                continue


def _last_used_s(runtime: Runtime, settings: Settings, around: Environment) -> float | None:
    """How long ago the runtime came to the mirror; None if it did not since the daemon started."""
    clients: Mapping[str, Any] = section(status_of(settings, around), "clients")
    ages_s = [float(age) for family, age in clients.items() if family.lower() in runtime.families and _is_number(age)]
    return min(ages_s, default=None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
