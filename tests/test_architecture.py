"""ARCHITECTURE.md has the tables of states as the code has them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TypeVar

import pytest

from scheduler.core.leases import LEASE_TRANSITIONS
from scheduler.core.members import MEMBER_TRANSITIONS
from scheduler.core.piece_map import MAP_TRANSITIONS

TEXT = (Path(__file__).parents[1] / "ARCHITECTURE.md").read_text()

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


@pytest.mark.parametrize("transitions", [MEMBER_TRANSITIONS, MAP_TRANSITIONS, LEASE_TRANSITIONS])
def test_the_table_is_that_of_the_code(transitions: Mapping[Enum, Mapping[Enum, Enum]]) -> None:
    assert table(transitions) in TEXT
