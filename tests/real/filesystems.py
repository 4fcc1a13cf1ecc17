"""Which storage the container runtimes can use here: overlay, or plain copies where overlay is not to be had."""

from __future__ import annotations

import subprocess
from pathlib import Path


def has_overlay(directory: Path) -> bool:
    """Whether an overlay can be mounted below `directory` (not when that is itself on an overlay)."""
    parts = {name: directory / f"overlay-{name}" for name in ("lower", "upper", "work", "merged")}
    for part in parts.values():
        part.mkdir()
    options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
    mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(parts["merged"])]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        return False
    subprocess.run(["umount", str(parts["merged"])], check=True)
    return True
