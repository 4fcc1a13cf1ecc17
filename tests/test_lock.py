"""requirements.lock: one version of each dependency, with the digests of its files, and no word about where from.

That nothing is missing in it, tests/real/shipped shows: pip installs from it alone.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
TEXT: Final = (ROOT / "requirements.lock").read_text()
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENTRIES: Final = TEXT.replace("\\\n", " ").splitlines()


def locked() -> dict[str, str]:
    """The version of each package."""
    pins = [re.match(r"([\w.-]+)==([\w.]+)", entry) for entry in ENTRIES]
    return {canonicalize_name(pin[1]): pin[2] for pin in pins if pin is not None}


def test_each_package_has_digests_and_there_is_one_version_of_it() -> None:
    bare = [
        entry
        for entry in ENTRIES
        if not re.fullmatch(r"[\w.-]+==(?:(?!--)[^#@])*(?: +--hash=sha256:[0-9a-f]{64})+", entry)
    ]
    assert bare == []
    assert len(locked()) == len(ENTRIES)


def test_the_image_has_a_libtorrent_that_the_project_wants() -> None:
    lock = (ROOT / "requirements-bittorrent.lock").read_text()
    entry = re.fullmatch(r"libtorrent==([\d.]+)(?: \\\n +--hash=sha256:[0-9a-f]{64})+\n", lock)
    assert entry is not None
    (wanted,) = map(Requirement, PROJECT["project"]["optional-dependencies"]["bittorrent"])
    assert wanted.specifier.contains(entry[1])


def test_no_address_is_in_it() -> None:
    assert not re.search(r"https?:|index-url|find-links", TEXT)


def test_the_versions_are_those_that_the_project_wants() -> None:
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    assert PROJECT["dependency-groups"]["build"] == PROJECT["build-system"]["requires"]
    for requirement in map(Requirement, wanted):
        version = locked()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}, and {version} is locked: make lock"
