"""Where container runtimes keep what they pulled as it was sent, so that p2pd can hold it there (the setting `adopt`).

containerd, dockerd with the containerd image store, k3s and RKE2 do, all by containerd's code. podman, CRI-O and
dockerd's classic store unpack layers and throw away what was sent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from p2pd.configure import containerd
from p2pd.configure.runtime import ConfigureError, Reader
from p2pd.configure.toml_file import parse

FOLDER: Final = "io.containerd.content.v1.content"
ROOTS: Final[Mapping[str, tuple[str, ...]]] = {
    "containerd": ("/var/lib/containerd",),
    "docker": ("/var/lib/docker/containerd/daemon",),  # of the containerd that dockerd starts where there is none
    "k3s": ("/var/lib/rancher/k3s/agent/containerd",),
    "rke2": ("/var/lib/rancher/rke2/agent/containerd",),
}
NONE: Final = ("podman", "crio")
"""The runtimes that have no such place."""


def content_stores(runtime: str, files: Reader) -> tuple[str, ...]:
    """The content stores of a runtime that are there."""
    roots = list(ROOTS.get(runtime, ()))
    if runtime == "containerd":
        with suppress(ConfigureError):  # told where its file is to be changed
            root = parse(containerd.CONFIG, files.read(containerd.CONFIG) or b"").get("root")
            roots = [root] if isinstance(root, str) and root else roots
    found = []
    for root in roots:
        with suppress(ConfigureError):
            if FOLDER in (files.names(root) or ()):
                found.append(f"{root}/{FOLDER}")
    return tuple(found)


def remarks(runtime: str, files: Reader, adopt: Collection[Path]) -> tuple[str, ...]:
    """What the operator may want to know of a runtime's content store. `adopt` is the setting."""
    if runtime in NONE:
        return (f"{runtime} keeps no layers as they were sent: there is nothing of it to adopt.",)
    return tuple(
        f"{runtime} keeps what it pulls in {path}, too: with it in `adopt` the disk has each image once, and other "
        "hosts get what is there. docs/disk.md says how p2pd is let in."
        for path in content_stores(runtime, files)
        if Path(path) not in adopt
    )
