"""Which of an index's images this machine can run, in Go's words for operating systems and processors.

A variant is a version of a processor's instructions: a machine runs its own and all lower ones. Where none is written,
the one is meant that containerd takes for it (`platforms.Normalize`): v8 of arm64, v7 of arm, v1 of amd64.
"""

from __future__ import annotations

import platform
import re
from typing import TYPE_CHECKING

from peer.errors import InvalidNameError
from peer.oci.manifest import Platform

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peer.oci.manifest import Descriptor

_MACHINES = {
    "x86_64": Platform("linux", "amd64"),
    "aarch64": Platform("linux", "arm64"),
    "armv7l": Platform("linux", "arm", "v7"),
    "armv6l": Platform("linux", "arm", "v6"),
    "i686": Platform("linux", "386"),
    "loongarch64": Platform("linux", "loong64"),
}
"""Where the kernel's word is not Go's (the others are the same: `riscv64`, `ppc64le`, `s390x`)."""

_IMPLIED_VARIANTS = {"arm64": "v8", "arm": "v7", "amd64": "v1"}
_PLATFORM = re.compile(r"[a-z0-9]{1,32}/[a-z0-9]{1,32}(?:/[a-z0-9]{1,32})?")


def local_platform() -> Platform:
    """What this machine is."""
    machine = platform.machine()
    return _MACHINES.get(machine, Platform("linux", machine))


def parse_platform(text: str) -> Platform:
    """`linux/arm64` or `linux/arm/v7`; raises InvalidNameError."""
    if not _PLATFORM.fullmatch(text):
        raise InvalidNameError(f"platform {text[:80]!a} is not OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT")
    return Platform(*text.split("/"))


def choose_platform(children: Iterable[Descriptor], wanted: Platform) -> Descriptor | None:
    """The child for the highest variant that `wanted` runs, the first of several; None if it runs none of them."""
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
    """The number in a variant; 0 if it has none, so that such variants must be equal."""
    variant = what.variant or _IMPLIED_VARIANTS.get(what.architecture, "")
    digits = variant.removeprefix("v")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 4 else 0
