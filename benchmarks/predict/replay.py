"""Replays a trace: what a model would have had preheated, and what came of it.

Rules:
1. A model sees a record once it has happened. It decides each hour, and for a repository at once when a tag of it
   moves.
2. What it orders is at its site `LEAD_S` later. A pull before that is as cold as without.
3. A site holds images up to a bound, the least recently used go first, as in the store; an image that was preheated
   and not pulled goes after `KEPT_S`. Sizes are those of whole images: what images share is not known.
4. A site has a budget of bytes for each day, the same for all models. What it holds already costs nothing.
5. Models learn on all days, and the last days alone are scored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from p2pd.predict.facts import DAY_S, repository_of
from p2pd.predict.forecast import MODELS, Forecaster, Prediction, worth
from scheduler.core.history import PullRecord, PushRecord, Record

LEAD_S: Final = 600.0
KEPT_S: Final = DAY_S
TICK_S: Final = 3600.0
HELD_S: Final = 7 * DAY_S
"""For how long a model takes it that a site still has what it pulled."""


@dataclass(slots=True)
class Score:
    """What came of a model on the scored days. `cold` pulls would have been so without it, too."""

    pulls: int = 0
    cold: int = 0
    made_warm: int = 0
    preheated_bytes: int = 0
    used_bytes: int = 0

    @property
    def wasted_bytes(self) -> int:
        return self.preheated_bytes - self.used_bytes

    @property
    def warm_share(self) -> float:
        """Of the pulls that are cold without it."""
        return self.made_warm / (self.made_warm + self.cold) if self.made_warm + self.cold else 0.0

    @property
    def precision(self) -> float:
        """The used share of the preheated bytes."""
        return self.used_bytes / self.preheated_bytes if self.preheated_bytes else 0.0


@dataclass(slots=True)
class _Held:
    size_bytes: int
    ready_at: float
    unused_since: float | None = None
    """When it was preheated, until it is pulled."""
    scored: bool = False


class _Site:
    def __init__(self, room_bytes: int) -> None:
        self._room_bytes = room_bytes
        self._used_bytes = 0
        self.held: OrderedDict[str, _Held] = OrderedDict()
        self.spent: dict[int, int] = {}

    def take(self, digest: str, held: _Held) -> None:
        self.drop(digest)
        self.held[digest] = held
        self._used_bytes += held.size_bytes
        while self._used_bytes > self._room_bytes and len(self.held) > 1:
            self.drop(next(iter(self.held)))

    def drop(self, digest: str) -> None:
        gone = self.held.pop(digest, None)
        if gone is not None:
            self._used_bytes -= gone.size_bytes

    def expire(self, now: float) -> None:
        late = [
            digest
            for digest, each in self.held.items()
            if each.unused_since is not None and now - each.unused_since > KEPT_S
        ]
        for digest in late:
            self.drop(digest)


class Replay:
    """One model (`none`: nothing is preheated) over one trace."""

    def __init__(
        self, model: str, *, horizon_s: float, budget_bytes: int, room_bytes: int, score_from_s: float, least: float
    ) -> None:
        self.score = Score()
        self._forecaster = None if model == "none" else Forecaster(MODELS[model](horizon_s), kept_s=HELD_S)
        self._budget_bytes = budget_bytes
        self._room_bytes = room_bytes
        self._score_from_s = score_from_s
        self._least = least
        self._began = 0.0
        self._sites: dict[str, _Site] = {}
        self._now: dict[str, tuple[str, int]] = {}
        """What each tag names, and its size: a registry answers that to whoever preheats."""

    def run(self, records: Sequence[Record]) -> Score:
        sizes = {each.digest: each.size_bytes for each in records if isinstance(each, PullRecord)}
        self._began = records[0].at if records else 0.0
        ticks = self._began + TICK_S
        for record in records:
            while ticks <= record.at:
                self._decide(ticks, None)
                ticks += TICK_S
            self._now[record.image] = record.digest, sizes.get(record.digest, 0)
            moved = self._forecaster is not None and self._forecaster.facts.moves(_told(record))
            if isinstance(record, PullRecord):
                self._pull(record, scored=self._is_scored(record.at))
            if self._forecaster is not None:
                self._forecaster.observe(_told(record))
                if moved:
                    self._decide(record.at, repository_of(record.image))
        return self.score

    def _pull(self, pull: PullRecord, *, scored: bool) -> None:
        site = self._site(pull.site)
        site.expire(pull.at)
        held = site.held.get(pull.digest)
        is_warm = held is not None and held.ready_at <= pull.at
        if held is not None and is_warm and held.unused_since is not None:
            self.score.made_warm += scored
            self.score.used_bytes += held.size_bytes * held.scored
        elif scored and not is_warm:
            self.score.cold += 1
        self.score.pulls += scored
        site.take(pull.digest, _Held(pull.size_bytes, pull.at))

    def _decide(self, now: float, repository: str | None) -> None:
        if self._forecaster is None:
            return
        day = int(now // DAY_S)
        found = self._forecaster.predictions(now, repository=repository)
        left = lambda site: self._budget_bytes - self._site(site).spent.get(day, 0)  # noqa: E731
        for each in worth(found, left, least=self._least):
            self._preheat(each, now, day, scored=self._is_scored(now))

    def _preheat(self, chosen: Prediction, now: float, day: int, *, scored: bool) -> None:
        """What is ordered is what the tag names now. A tag that nobody ever pulls has the size that was expected."""
        assert self._forecaster is not None
        site = self._site(chosen.site)
        digest, size_bytes = self._now[chosen.image]
        digest, size_bytes = digest or chosen.image, size_bytes or chosen.size_bytes
        self._forecaster.facts.preheated(chosen.image, chosen.site, now)
        site.expire(now)
        if digest in site.held or site.spent.get(day, 0) + size_bytes > self._budget_bytes:
            return
        site.spent[day] = site.spent.get(day, 0) + size_bytes
        self.score.preheated_bytes += size_bytes * scored
        site.take(digest, _Held(size_bytes, now + LEAD_S, now, scored))

    def _is_scored(self, at: float) -> bool:
        return at - self._began >= self._score_from_s

    def _site(self, name: str) -> _Site:
        return self._sites.setdefault(name, _Site(self._room_bytes))


def _told(record: Record) -> Record:
    """A scheduler is told that a tag was pushed, and not what it names."""
    return replace(record, digest="") if isinstance(record, PushRecord) else record
