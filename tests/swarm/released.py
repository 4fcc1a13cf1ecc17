"""The released version: p2pd as it was at `RELEASED` in this repository's history, run from its source."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Final

RELEASED: Final = "7ec3decb5771863c0c55d932a16aa52e5a4a8d83"
"""The version that clusters run that are upgraded to this one. A release takes the place of the one before."""

PACKAGES: Final = ("p2pd", "proxy", "peer", "scheduler")
ROOT: Final = Path(__file__).parents[2]


def released(directory: Path, commit: str = RELEASED) -> dict[str, str]:
    """Put the released version into a new directory; returns the variables with which `python -m p2pd` is that one.

    Raises AssertionError if this clone lacks the commit.
    """
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit, *PACKAGES], capture_output=True, check=False)
    assert archive.returncode == 0, (
        f"the released version, commit {commit}, is not in this clone: git fetch --unshallow, or clone the whole "
        f"history (in CI: fetch-depth: 0). git says: {archive.stderr.decode().strip()}"
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(directory, filter="data")
    # Without the second, the working directory goes before PYTHONPATH, and that is this version.
    return {"PYTHONPATH": str(directory), "PYTHONSAFEPATH": "1"}
