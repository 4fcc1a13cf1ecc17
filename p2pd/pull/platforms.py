"""The choice of an index's image for this machine, with Go's names of operating systems and processors.

A variant is a version of a processor's instruction set: a machine runs its own variant and all lower ones. A missing
variant means the one that containerd assumes (`platforms.Normalize`): v8 of arm64, v7 of arm, v1 of amd64.
"""

from __future__ import annotations

import platform
import re
from typing import TYPE_CHECKING

from peer.errors import InvalidNameError
from peer.oci.descriptor import Platform

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peer.oci.descriptor import Descriptor

_MACHINES = {
    "x86_64": Platform("linux", "amd64"),
    "aarch64": Platform("linux", "arm64"),
    "armv7l": Platform("linux", "arm", "v7"),
    "armv6l": Platform("linux", "arm", "v6"),
    "i686": Platform("linux", "386"),
    "loongarch64": Platform("linux", "loong64"),
}
"""Go's name for the kernel's, if they differ (others are the same: `riscv64`, `ppc64le`, `s390x`)."""

_IMPLIED_VARIANTS = {"arm64": "v8", "arm": "v7", "amd64": "v1"}
_PLATFORM = re.compile(r"[a-z0-9]{1,32}/[a-z0-9]{1,32}(?:/[a-z0-9]{1,32})?")


def local_platform() -> Platform:
    """The platform of this machine."""
    machine = platform.machine()
    return _MACHINES.get(machine, Platform("linux", machine))


def parse_platform(text: str) -> Platform:
    """`linux/arm64` or `linux/arm/v7`; raises InvalidNameError."""
    if not _PLATFORM.fullmatch(text):
        raise InvalidNameError(f"platform {text[:80]!a} is not OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT")
    return Platform(*text.split("/"))


def choose_platform(children: Iterable[Descriptor], wanted: Platform) -> Descriptor | None:
    """The child with the highest variant that `wanted` runs, the first of several; None if it runs no child."""
    best: Descriptor | None = None
    best_version = -1
    for child in children:
        if child.platform is None:
            continue
        version = _version(child.platform)
        if _is_run_by(child.platform, wanted) and version > best_version:
            best, best_version = child, version
    return best


def _is_run_by(offered: Platform, wanted: Platform) -> bool:
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return False
    return offered.variant == wanted.variant or 0 < _version(offered) <= _version(wanted)


def _version(what: Platform) -> int:
    """The number in a variant; 0 if there is no number: such variants must be equal."""
    variant = what.variant or _IMPLIED_VARIANTS.get(what.architecture, "")
    digits = variant.removeprefix("v")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 4 else 0
