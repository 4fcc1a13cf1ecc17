"""The programs that these tests run are Debian's, and are installed when they are missing.

Rules:
1. `apt-get` runs only when a program is missing, and in one test run at a time.
2. Installing a package starts no service: the tests start what they need, on ports of their own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.real.paths import cache_directory

PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where Debian's packages put programs. Whatever else is called `docker` on this machine is not what is tested."""

PACKAGE_OF: Final = {
    "buildah": "buildah",
    "chromium": "chromium",
    "containerd": "containerd",
    "debootstrap": "debootstrap",
    "docker-compose": "docker-compose",
    "docker-registry": "docker-registry",
    "curl": "curl",
    "dockerd": "docker.io",
    "groff": "groff-base",
    "htpasswd": "apache2-utils",
    "iptables": "iptables",
    "ldapwhoami": "ldap-utils",
    "nginx": "nginx-light",
    "openssl": "openssl",
    "podman": "podman",
    "promtool": "prometheus",
    "redis-sentinel": "redis-sentinel",
    "redis-server": "redis-server",
    "skopeo": "skopeo",
    "slapd": "slapd",
    "systemd-analyze": "systemd",
    "systemd-nspawn": "systemd-container",
}
"""The package that each program is in."""

PAM_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_http_auth_pam_module.so")
"""nginx's module for PAM."""

FAKETIME: Final = Path(f"/usr/lib/{os.uname().machine}-linux-gnu/faketime/libfaketimeMT.so.1")
"""What gives a process another time of day."""

PACKAGE_OF_FILE: Final = {PAM_MODULE: "libnginx-mod-http-auth-pam", FAKETIME: "libfaketime"}
"""The package that each file is in that is no program."""

_POLICY: Final = Path("/usr/sbin/policy-rc.d")
"""What Debian's packages ask whether they may start their services; exit code 101 forbids it (invoke-rc.d(8))."""


def unsuitable() -> str | None:
    """Why these tests cannot run on this machine, or None."""
    if os.geteuid() != 0:
        return "needs root: dockerd and containerd mount file systems and make namespaces"
    release = Path("/etc/os-release")
    if not release.exists() or "ID=debian" not in release.read_text(encoding="utf-8").splitlines():
        return "needs Debian: the programs are installed from its packages"
    return None


def install() -> None:
    """Make sure that everything above is there. Raises CalledProcessError when apt-get fails."""
    with (cache_directory() / "apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        packages = [package for program, package in PACKAGE_OF.items() if shutil.which(program, path=PATH) is None]
        packages += [package for file, package in PACKAGE_OF_FILE.items() if not file.exists()]
        if packages:
            with _no_services_started():
                _apt_get("update")
                _apt_get("install", "--yes", "--no-install-recommends", *packages)


def _apt_get(*args: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=300", *args], env=environment, check=True)


@contextmanager
def _no_services_started() -> Iterator[None]:
    if _POLICY.exists():  # the administrator's own answer stays
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
