"""Times of a crontab: `MINUTE HOUR DAY MONTH WEEKDAY`, with `*`, `a-b`, `/step` and lists; Sunday is 0 and 7.

As in cron, a day is meant that fits DAY or WEEKDAY if both are given. Times are of the local clock. A library would be
no shorter than this part of it: seconds, names and `@reboot` are not needed, and a time that a change to summer time
leaves out is the one after it.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from typing import Final

from msgspec import Struct

_BOUNDS: Final = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_PART: Final = re.compile(r"(?:\*|([0-9]{1,2})(?:-([0-9]{1,2}))?)(?:/([0-9]{1,2}))?", re.ASCII)
_MAX_CHARACTERS: Final = 200
_MAX_DAYS: Final = 8 * 366 + 1
"""From one 29 February to the next there are eight years at most."""


class CronError(ValueError):
    """The text gives no times. The error says which form does."""


class Cron(Struct, frozen=True):
    """The times of a line of a crontab."""

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """Monday is 1, Sunday 7."""
    either: bool
    """A day fits if its number or its weekday does."""

    def after(self, now: datetime) -> datetime:
        """The first time after `now`. Raises CronError if there is none in eight years."""
        for ahead in range(_MAX_DAYS):
            day = now.date() + timedelta(days=ahead)
            if not self._fits(day):
                continue
            for hour in self.hours:
                for minute in self.minutes:
                    found = datetime.combine(day, time(hour, minute), now.tzinfo)
                    if found > now:
                        return found
        raise CronError("there is no such day")

    def _fits(self, day: date) -> bool:
        by_number, by_weekday = day.day in self.days, day.isoweekday() in self.weekdays
        return day.month in self.months and (by_number or by_weekday if self.either else by_number and by_weekday)


def parse_cron(text: str) -> Cron:
    """Raises CronError."""
    fields = text.split() if len(text) <= _MAX_CHARACTERS else []
    if len(fields) != len(_BOUNDS):
        raise CronError("expected five fields, such as 0 2 * * *: minute, hour, day, month, weekday")
    minutes, hours, days, months, weekdays = (
        _numbers(field, *bounds) for field, bounds in zip(fields, _BOUNDS, strict=True)
    )
    either = not fields[2].startswith("*") and not fields[4].startswith("*")
    sunday = frozenset(day or 7 for day in weekdays)
    cron = Cron(" ".join(fields), tuple(sorted(minutes)), tuple(sorted(hours)), days, months, sunday, either)
    cron.after(datetime(2000, 1, 1))  # noqa: DTZ001 # any time
    return cron


def _numbers(field: str, least: int, most: int) -> frozenset[int]:
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise CronError(f"{field[:20]!a} is none of the forms 5, 1-5, */5 and 1,3")
        first, last, step = (None if each is None else int(each) for each in match.groups())
        begins = least if first is None else first
        ends = last if last is not None else most if first is None or step is not None else begins
        if not least <= begins <= ends <= most or step == 0:
            raise CronError(f"{field[:20]!a}: expected numbers from {least} to {most}")
        found.update(range(begins, ends + 1, step or 1))
    return frozenset(found)
