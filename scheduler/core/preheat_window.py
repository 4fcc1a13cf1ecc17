"""The hours in which a preheat may run: `22:00-05:00`, by the scheduler's local clock."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

DAY_S: Final = 86_400.0
_FORM: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])", re.ASCII)


class WindowError(ValueError):
    """The text is no window. The error says which form is."""


@dataclass(frozen=True, slots=True)
class Window:
    """From `opens_s` to `closes_s` of each day, in seconds after midnight; it may have midnight in it."""

    opens_s: float
    closes_s: float

    def opens_in(self, of_day_s: float) -> float:
        """In how many seconds it is open: 0 if it is."""
        return 0.0 if self.closes_in(of_day_s) else (self.opens_s - of_day_s) % DAY_S

    def closes_in(self, of_day_s: float) -> float:
        """For how many seconds it is still open; 0 if it is not."""
        left_s = (self.closes_s - of_day_s) % DAY_S
        return left_s if left_s and left_s <= (self.closes_s - self.opens_s) % DAY_S else 0.0


def parse_window(text: str) -> Window:
    """Raises WindowError."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise WindowError("expected hours such as 22:00-05:00")
    opens, closes = (int(found[at]) * 3600.0 + int(found[at + 1]) * 60.0 for at in (1, 3))
    if opens == closes:
        raise WindowError("expected hours such as 22:00-05:00: these are none")
    return Window(opens, closes)
