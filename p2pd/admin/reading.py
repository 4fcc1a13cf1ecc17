"""Reads parts of a daemon's status: what is not of its type counts as not said, as does what an older daemon lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def section(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of the status; empty if there is none."""
    part = found.get(name)
    return part if isinstance(part, dict) else {}


def number(found: Mapping[str, Any], name: str) -> float | None:
    """A number in a part of the status."""
    value = found.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def text(found: Mapping[str, Any], name: str) -> str:
    """A text in a part of the status, or none."""
    value = found.get(name)
    return value if isinstance(value, str) else ""


def items(found: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The parts in a list in a part of the status."""
    value = found.get(name)
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
