"""The documents say what the code says: tables of states, the protocol, the metrics, the tests of the threat model."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TypeVar

import pytest

from peer.core.membership import MEMBERSHIP_TRANSITIONS
from peer.core.phase import DOWNLOAD_TRANSITIONS
from peer.core.session import SESSION_TRANSITIONS
from scheduler.core.leases import LEASE_TRANSITIONS
from scheduler.core.members import MEMBER_TRANSITIONS
from scheduler.core.piece_map import MAP_TRANSITIONS
from scheduler.core.preheat_job import TARGET_TRANSITIONS
from tests.defences import defences
from tests.generated_docs import DOCS, DOCUMENTS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()

S = TypeVar("S", bound=Enum)
C = TypeVar("C", bound=Enum)


def table(transitions: Mapping[S, Mapping[C, S]]) -> str:
    """A line for each state: which cause leads where. States that nothing leads out of have no line."""
    lines = ["| state | cause → next state |", "|---|---|"]
    for state, ways in transitions.items():
        if ways:
            told = " · ".join(f"{cause.name} → {after.name}" for cause, after in ways.items())
            lines.append(f"| {state.name} | {told} |")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "transitions",
    [
        MEMBER_TRANSITIONS,
        MAP_TRANSITIONS,
        LEASE_TRANSITIONS,
        DOWNLOAD_TRANSITIONS,
        MEMBERSHIP_TRANSITIONS,
        SESSION_TRANSITIONS,
        TARGET_TRANSITIONS,
    ],
)
def test_the_table_is_that_of_the_code(transitions: Mapping[Enum, Mapping[Enum, Enum]]) -> None:
    assert table(transitions) in TEXT


@pytest.mark.parametrize("file", DOCUMENTS)
def test_the_document_is_what_the_code_gives(file: str) -> None:
    assert (DOCS / file).read_text() == DOCUMENTS[file](), "run `make docs`"


SECURITY = (DOCS / "security.md").read_text()
THREAT_MODEL = SECURITY.partition("\n## Pieces")[0]
FAULTS = (DOCS / "several-schedulers.md").read_text()
NAMED_TEST = re.compile(r"`(tests/\w+/\w+\.py)(?:::(\w+))?`")
"""A file of tests, and the name of one in it."""


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED_TEST.findall(SECURITY + FAULTS))))
def test_the_test_that_the_document_names_exists(file: str, name: str) -> None:
    assert f"def {name}(" in (ROOT / file).read_text() if name else (ROOT / file).exists()


def test_each_test_of_the_threat_model_and_of_faults_has_a_defence_that_it_holds_and_no_other_has() -> None:
    """`python -m tests.defences` shows that it fails without."""
    named = {f"{file}::{name}" for file, name in NAMED_TEST.findall(THREAT_MODEL + FAULTS) if name}
    assert named == {each.test for each in defences()}


def test_what_takes_a_defence_out_is_still_in_its_place() -> None:
    gone = [f"{each.file}: {each.old}" for each in defences() if (ROOT / each.file).read_text().count(each.old) != 1]
    assert not gone, "change tests/defences.toml, and see `python -m tests.defences FILE`"


def test_each_row_of_the_threat_model_says_what_stops_it_and_where() -> None:
    """A row names a file that exists and a test, or says that nothing stops it."""
    rows = [
        row for row in (DOCS / "security.md").read_text().splitlines() if row.count(" | ") == 3 and "`tests/" in row
    ]
    for row in rows:
        places = re.findall(r"`((?:p2pd|proxy|peer|scheduler)/[\w/]+\.py)`", row.split(" | ")[1])
        assert places, row
        assert all((ROOT / place).exists() for place in places), row


def test_tests_have_one_patience() -> None:
    """A bound of a test's own is too short on a busy machine: `PATIENCE_S`, or a long one for what is installed."""
    bounds = re.compile(r"(?:\btimeout(?:_s)?=|asyncio\.timeout\(|settimeout\(|mark\.timeout\()([\d.]+)[,)]")
    short = {
        f"{file.relative_to(ROOT)}: {found[0]}"
        for file in (ROOT / "tests").rglob("*.py")
        for found in bounds.finditer(file.read_text())
        if 1 < float(found[1]) < 900  # what ends within a second is waited for in vain
    }
    assert not short


def test_kubernetes_runs_the_image_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = re.findall(r"image: .*\bp2pd:(\S+)", (ROOT / "docker" / "kubernetes.yaml").read_text())
    assert images
    assert set(images) == {version}
