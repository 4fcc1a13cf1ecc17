"""Does p2pd hold what the container runtimes of this machine hold, and may it read all of that?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from p2pd.admin.reading import number, section
from p2pd.config.settings import Settings
from p2pd.config.values import show_size
from p2pd.configure.content_stores import NONE, ROOTS, content_stores
from p2pd.doctor.environment import Environment
from p2pd.doctor.result import CheckResult, Level
from p2pd.doctor.running import status_of

UNPACKED: Final = Path("/var/lib/containers/storage")
"""Of podman and CRI-O."""


def check_adopted(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """The daemon says what it could not read. Where nothing is adopted, what there is to adopt is named."""
    said = section(status_of(settings, around), "adopted")
    unreadable = said.get("unreadable")
    for each in unreadable if isinstance(unreadable, list) else []:
        path, why = (*map(str, each), "", "")[:2] if isinstance(each, list) else ("", "")
        yield CheckResult(Level.WARN, "adopt", f"p2pd cannot read all of {path}: {why}", _advice(path))
    for directory in settings.adopt:
        if directory.is_relative_to(UNPACKED):
            title = f"{directory} has nothing to adopt: {' and '.join(NONE)} keep no layers as they were sent"
            yield CheckResult(Level.WARN, "adopt", title, f"take {directory} out of adopt")
    size_bytes = number(said, "size_bytes")
    if settings.adopt and size_bytes is not None:
        title = (
            f"{number(said, 'blobs') or 0:.0f} blobs of runtimes, {show_size(int(size_bytes))}, are held as they lie"
        )
        yield CheckResult(Level.OK, "adopt", title)
    if not settings.adopt:
        found = [path for runtime in ROOTS for path in content_stores(runtime, around.files)]
        if found:
            title = f"images are on the disk twice: runtimes have them in {', '.join(found)} too"
            listed = ", ".join(f'"{path}"' for path in found)
            yield CheckResult(Level.OK, "adopt", title, f"adopt = [{listed}] in p2pd.toml (docs/disk.md)")


def _advice(path: str) -> str:
    return (
        "p2pd runs as a user of its own, and only has to read: docs/disk.md has what its unit and its chart need "
        f"for that; or setfacl -R -m u:USER:rX,d:u:USER:rX {path}"
    )
