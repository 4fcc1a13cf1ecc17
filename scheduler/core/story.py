"""The story of one swarm: a short log of its latest events, which every error about the swarm carries.

The idea and the name are from dask/distributed. Nearly every line is dropped unread, so a line is stored with its
arguments and formatted only when the story is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar

STORY_LINES: Final = 64
"""The lines that a story keeps: enough for the leases of a few seconds, and about 8 KiB."""

StateT = TypeVar("StateT", bound=Enum)
CauseT = TypeVar("CauseT", bound=Enum)


class IllegalTransitionError(RuntimeError):
    """A state machine was given a cause that its table does not allow: a defect of the scheduler. Carries the story."""


class Story:
    """The last STORY_LINES lines about one swarm."""

    __slots__ = ("_lines", "now")

    def __init__(self) -> None:
        self._lines: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=STORY_LINES)
        self.now = 0.0

    def tell(self, line: str, *details: object) -> None:
        """Add a line at the current time. `line` has a `%s` for each of the immutable `details`."""
        self._lines.append((self.now, line, details))

    def lines(self) -> tuple[str, ...]:
        """The lines as text, oldest first, each with its time in seconds."""
        return tuple(f"{at:.3f} {line % details}" for at, line, details in self._lines)

    def step(self, what: str, table: Mapping[StateT, Mapping[CauseT, StateT]], state: StateT, cause: CauseT) -> StateT:
        """The state that follows `state` in `table`. Raises IllegalTransitionError if the table has none."""
        following = table[state].get(cause)
        if following is None:
            raise IllegalTransitionError("\n".join([f"{what}: {cause.name} while {state.name}", *self.lines()]))
        self.tell("%s: %s -> %s (%s)", what, state, following, cause)
        return following
