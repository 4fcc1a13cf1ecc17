"""The results of checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from p2pd.config.settings import Settings
from p2pd.doctor.environment import Environment


class Level(Enum):
    """The severity of a result. FAIL keeps pulls from the mirror, and alone makes `p2pd doctor` exit with 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One fact about this node: `check` names its subject, `title` is the fact, `advice` the action to take."""

    level: Level
    check: str
    title: str
    advice: str = ""


class Check(Protocol):
    """A check reads one thing and changes nothing. It may raise a P2pdError for a thing that it cannot read."""

    __name__: str

    def __call__(self, settings: Settings, around: Environment, /) -> Iterator[CheckResult]: ...
