"""Predictors: how likely hosts of a site pull an image within the next hours. Pure and deterministic.

A predictor is told every record before `Facts` observes it, in the order of time, and is asked in between. The simple
ones are here; `p2pd.predict.online` has the one that learns.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from p2pd.predict.facts import DAY_S, Facts, ImageFacts
from scheduler.core.history import PushRecord, Record

HALF_LIFE_DAYS: Final = 5.0
MAX_DAYS: Final = 14
HALF_LIFE_WEEKS: Final = 3.0
MAX_WEEKS: Final = 8
DAYS_WORTH: Final = 2.0
"""What is seen of all days counts as much as so many of the same weekday."""

SLACK_S: Final = 900.0
"""What came a little before the same time of another day may come a little after it now."""

FORGETS: Final = 0.9
"""What one push more leaves of the weight of those before."""

MAX_PENDING: Final = 2_000


class Guess(NamedTuple):
    """A probability, its reason in a few words for an operator, and in how many seconds the pull is expected."""

    confidence: float
    reason: str
    in_s: float = 0.0


NOTHING: Final = Guess(0.0, "")


class Predictor(Protocol):
    """What every model does. `horizon_s` is the same in all calls."""

    def observe(self, record: Record, facts: Facts) -> None:
        """Learn from a record, which `facts` does not have yet."""
        ...

    def guess(self, image: ImageFacts, site: str, facts: Facts, now: float) -> Guess:
        """How likely the site pulls the image in the time to come."""
        ...


class Recency:
    """What was pulled a moment ago is pulled again: the horizon's share of the time since, and the horizon."""

    def __init__(self, horizon_s: float) -> None:
        self._horizon_s = horizon_s

    def observe(self, record: Record, facts: Facts) -> None:
        """It has no state of its own."""

    def guess(self, image: ImageFacts, site: str, facts: Facts, now: float) -> Guess:  # noqa: ARG002 # as the Protocol
        at_site = image.sites.get(site)
        if at_site is None or not at_site.times:
            return NOTHING
        age_s = max(0.0, now - at_site.times[-1])
        return Guess(self._horizon_s / (self._horizon_s + age_s), f"pulled {age_s / 3600:.0f} h ago")


class Seasonal:
    """EWMA of days and of weekdays: on how many of the days before was the image pulled in these hours?

    The estimate of the same weekday is shrunk to that of all days, as if they were `DAYS_WORTH` more weeks.
    """

    def __init__(self, horizon_s: float) -> None:
        self._horizon_s = horizon_s

    def observe(self, record: Record, facts: Facts) -> None:
        """`Facts` has the times."""

    def guess(self, image: ImageFacts, site: str, facts: Facts, now: float) -> Guess:
        at_site = image.sites.get(site)
        if at_site is None or not at_site.times:
            return NOTHING
        from statistics import median  # not for a node that predicts nothing: it brings `decimal` and `fractions`

        times, began_at = at_site.times, now if facts.began_at is None else facts.began_at
        daily, weight, delays_s = self._average(times, now, began_at, 1, MAX_DAYS, HALF_LIFE_DAYS)
        by_day = daily / (1.0 + weight)
        weekly, weeks, same_day_s = self._average(times, now, began_at, 7, MAX_WEEKS, HALF_LIFE_WEEKS)
        confidence = (weekly + DAYS_WORTH * by_day) / (weeks + DAYS_WORTH)
        seen = min(MAX_DAYS, int((now - began_at) / DAY_S))
        delays_s = delays_s or same_day_s
        in_s = max(0.0, median(delays_s)) if delays_s else 0.0
        return Guess(confidence, f"pulled at this time on {len(delays_s)} of {seen} days", in_s)

    def _average(
        self, times: Sequence[float], now: float, began_at: float, step: int, most: int, half_life: float
    ) -> tuple[float, float, list[float]]:
        """The weight of the days on which it was pulled, that of all days, and how late it was on the former."""
        hit_weight = weight = 0.0
        delays_s = []
        for number in range(1, most + 1):
            since = now - number * step * DAY_S
            if since < began_at - SLACK_S:
                break
            of_day = 0.5 ** (number / half_life)
            weight += of_day
            first = bisect_left(times, since - SLACK_S)
            if first < len(times) and times[first] < since + self._horizon_s:
                hit_weight += of_day
                delays_s.append(times[first] - since)
        return hit_weight, weight, delays_s


class PushRule:
    """A tag that has moved is pulled where its repository is used: as often as the ones before, for each site.

    It is expected until the site has pulled it, within the horizon after the push.
    """

    def __init__(self, horizon_s: float) -> None:
        self._horizon_s = horizon_s
        self._counts: dict[tuple[str, str], tuple[float, float]] = {}
        """By repository and site: the weight of pushes that were followed, and of all."""
        self._pending: dict[tuple[str, str], float] = {}
        """Images and sites that have not pulled what was pushed, and when that was."""

    def observe(self, record: Record, facts: Facts) -> None:
        self._expire(record.at, facts)
        if not isinstance(record, PushRecord) and self._pending.pop((record.image, record.site), None) is not None:
            self._count(record.image, record.site, followed=True)
        if facts.moves(record):
            repository = facts.repositories.get(record.image.rpartition(":")[0])
            puller = None if isinstance(record, PushRecord) else record.site
            for site in () if repository is None else repository.sites:
                if site != puller and len(self._pending) < MAX_PENDING:
                    self._pending.pop((record.image, site), None)
                    self._pending[record.image, site] = record.at

    def guess(self, image: ImageFacts, site: str, facts: Facts, now: float) -> Guess:  # noqa: ARG002 # as the Protocol
        if (image.name, site) not in self._pending or now - image.moved_at > self._horizon_s:
            return NOTHING
        followed, all_ = self._counts.get((image.repository, site), (0.0, 0.0))
        what = "pushed" if image.pushed else "pulled elsewhere"
        minutes = (now - image.moved_at) / 60
        return Guess((followed + 0.5) / (all_ + 1.0), f"{what} {minutes:.0f} min ago, and the site uses the repository")

    def _expire(self, now: float, facts: Facts) -> None:
        while self._pending:
            (name, site), at = next(iter(self._pending.items()))
            if now - at <= self._horizon_s:
                break
            del self._pending[name, site]
            if name in facts.images:
                self._count(name, site, followed=False)

    def _count(self, image: str, site: str, *, followed: bool) -> None:
        key = image.rpartition(":")[0], site
        before, all_ = self._counts.pop(key, (0.0, 0.0))
        self._counts[key] = before * FORGETS + followed, all_ * FORGETS + 1.0
        while len(self._counts) > MAX_PENDING:
            del self._counts[next(iter(self._counts))]


class Either:
    """Several predictors whose reasons are independent: at least one of them is right (noisy or)."""

    def __init__(self, *predictors: Predictor) -> None:
        self._predictors = predictors

    def observe(self, record: Record, facts: Facts) -> None:
        for each in self._predictors:
            each.observe(record, facts)

    def guess(self, image: ImageFacts, site: str, facts: Facts, now: float) -> Guess:
        guesses = [each.guess(image, site, facts, now) for each in self._predictors]
        none = 1.0
        for each in guesses:
            none *= 1.0 - each.confidence
        return max(guesses)._replace(confidence=1.0 - none)
