"""The documents say what the code says: the tables of states in ARCHITECTURE.md, the protocol, the metrics."""

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
    ],
)
def test_the_table_is_that_of_the_code(transitions: Mapping[Enum, Mapping[Enum, Enum]]) -> None:
    assert table(transitions) in TEXT


@pytest.mark.parametrize("file", DOCUMENTS)
def test_the_document_is_what_the_code_gives(file: str) -> None:
    assert (DOCS / file).read_text() == DOCUMENTS[file](), "run `make docs`"


def test_kubernetes_runs_the_image_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = re.findall(r"image: .*\bp2pd:(\S+)", (ROOT / "docker" / "kubernetes.yaml").read_text())
    assert images
    assert set(images) == {version}
