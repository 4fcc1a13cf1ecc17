"""Which machine this is, so that a clone of a disk notices that it is one.

Rules:
1. Several marks are taken, for none of them is everywhere: /etc/machine-id, which careless cloning copies; the
   firmware's UUID, which only root may read; the addresses of network cards.
2. Only hashes are kept: machine-id(5) asks that the id itself is not shown.
3. A mark that could not be read then, or cannot now, says nothing. Network cards may be changed, so one that is still
   there is enough.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

Marks = Mapping[str, frozenset[str]]
"""Hashes of what identifies a machine, by kind."""


def read_marks(root: Path = Path("/")) -> Marks:
    """The marks of this machine. `root` is where its file system begins."""
    cards = [directory / "address" for directory in _listed(root / "sys/class/net") if (directory / "device").exists()]
    return {
        "machine-id": _hashed([root / "etc/machine-id"]),
        "product-uuid": _hashed([root / "sys/class/dmi/id/product_uuid"]),
        "network-cards": _hashed(cards),
    }


def is_same_machine(then: Marks, now: Marks) -> bool:
    """Whether no kind of mark says that these are two machines (rule 3)."""
    return all(not now.get(kind) or not marks or marks & now[kind] for kind, marks in then.items())


def _listed(directory: Path) -> Iterable[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return ()


def _hashed(files: Iterable[Path]) -> frozenset[str]:
    marks = set()
    for file in files:
        try:
            content = file.read_bytes()[:4096].strip().lower()
        except OSError:
            continue
        if content.strip(b"0:-") and content != b"uninitialized":
            marks.add(hashlib.sha256(b"p2pd machine\0" + content).hexdigest()[:32])
    return frozenset(marks)
