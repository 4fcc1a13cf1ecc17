"""What happened to one blob's swarm so far: a short log that every error about it carries.

Nearly every line is forgotten unread. So a line is kept as it was told, and becomes text when somebody reads it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar

STORY_LINES: Final = 64
"""What one swarm remembers: enough for the leases of a few seconds, and about 8 KiB."""

StateT = TypeVar("StateT", bound=Enum)
CauseT = TypeVar("CauseT", bound=Enum)


class IllegalTransitionError(RuntimeError):
    """A state machine was asked for a step that its table does not have: a mistake of ours. Has the story so far."""


class Story:
    """The last STORY_LINES entries about one swarm."""

    __slots__ = ("_lines", "now")

    def __init__(self) -> None:
        self._lines: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=STORY_LINES)
        self.now = 0.0

    def tell(self, line: str, *details: object) -> None:
        """Add an entry at the current time: `line` with a `%s` for each of `details`, which never change."""
        self._lines.append((self.now, line, details))

    def lines(self) -> tuple[str, ...]:
        """The entries, oldest first, each with its time in seconds."""
        return tuple(f"{at:.3f} {line % details}" for at, line, details in self._lines)

    def step(self, what: str, table: Mapping[StateT, Mapping[CauseT, StateT]], state: StateT, cause: CauseT) -> StateT:
        """The state that follows `state` by `table`. Raises IllegalTransitionError if there is none."""
        following = table[state].get(cause)
        if following is None:
            raise IllegalTransitionError("\n".join([f"{what}: {cause.name} while {state.name}", *self.lines()]))
        self.tell("%s: %s -> %s (%s)", what, state, following, cause)
        return following
