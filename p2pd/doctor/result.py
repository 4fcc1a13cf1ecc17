"""What a check says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from p2pd.config.settings import Settings
from p2pd.doctor.environment import Environment


class Level(Enum):
    """How bad it is. Only FAIL, something that keeps pulls from the mirror, makes `p2pd doctor` exit with 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One fact about this node: `check` is what was looked at, `title` what was found, `advice` what to do about it."""

    level: Level
    check: str
    title: str
    advice: str = ""


class Check(Protocol):
    """Looks at one thing and changes nothing. It may raise a P2pdError for what it cannot see."""

    __name__: str

    def __call__(self, settings: Settings, around: Environment, /) -> Iterator[CheckResult]: ...
