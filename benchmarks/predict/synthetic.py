"""Synthetic traces of pulls and pushes whose structure is known: what happens in a cluster of four sites.

- **cycles**: images that are built each night and pulled in the morning, each weekday or each Monday, at some sites;
- **rollouts**: versions that are pushed in working hours; a share of them is rolled out, site after site, each
  repository in an order and with delays of its own;
- **builds**: tags of pull requests, pushed all day and seldom pulled, at one site;
- **bursts**: an image that hosts of a site pull again and again for some hours, at no time that could be known;
- **one-offs**: images that are pulled once, two in three of all images in registries (docs/predict.md);
- **drift**: in the middle of the trace hours shift, a third of the repositories ends, and others begin.

Nothing in here reads the models' constants, and no model knows the names in here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from scheduler.core.history import PullRecord, PushRecord, Record

HOUR_S: Final = 3600.0
DAY_S: Final = 86_400.0
SITES: Final = ("a", "b", "c", "d")
MIB: Final = 2**20
HOSTS: Final = 40
"""Of a site, at most."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How many there are of each kind."""

    nightly: int = 12
    weekly: int = 6
    rollouts: int = 16
    builds: int = 5
    bursts_a_day: float = 2.0
    one_offs_a_day: float = 30.0


class _Trace:
    def __init__(self, seed: int, days: int, mix: Mix) -> None:
        self._random = random.Random(seed)
        self._days = days
        self._mix = mix
        self._digest = 0
        self.records: list[Record] = []

    def size(self) -> int:
        """A median of 400 MiB, and a long tail: what remains of images that share layers."""
        return int(min(8192.0, self._random.lognormvariate(6.0, 0.9)) * MIB)

    def digest(self) -> str:
        self._digest += 1
        return f"sha256:{self._digest:064x}"

    def push(self, at: float, image: str, digest: str) -> None:
        self.records.append(PushRecord(at, image, digest))

    def pull(self, at: float, image: str, digest: str, site: str, size_bytes: int) -> None:
        hosts = self._random.randint(1, HOSTS)
        self.records.append(PullRecord(at, image, digest, site, hosts, size_bytes, hosts * size_bytes, 0))

    def lives(self) -> tuple[int, int]:
        """The first and the last day of a repository: drift."""
        drawn = self._random.random()
        half = self._days // 2
        if drawn < 1 / 6:
            return 0, half
        return (half, self._days) if drawn < 1 / 3 else (0, self._days)

    def some_sites(self) -> list[str]:
        return self._random.sample(SITES, self._random.randint(1, len(SITES)))

    def cycle(self, name: str, *, weekly: bool) -> None:
        draw, (first, last), sites, size_bytes = self._random, self.lives(), self.some_sites(), self.size()
        hour, built, workdays = draw.uniform(5, 20), draw.uniform(0, 3), draw.random() < 0.6
        weekday = draw.randrange(7)
        shift = draw.choice((-3.0, 0.0, 0.0, 3.0))
        is_told = draw.random() < 0.7
        for day in range(first, last):
            if weekly and day % 7 != weekday:
                continue
            if not weekly and workdays and day % 7 >= 5:
                continue
            digest = self.digest()
            if is_told:
                self.push(day * DAY_S + (built + draw.uniform(0, 0.5)) * HOUR_S, f"{name}:nightly", digest)
            starts = hour + (shift if day >= self._days // 2 else 0.0)
            for site in sites:
                if draw.random() < 0.93:
                    at = day * DAY_S + (starts + draw.gauss(0, 0.3)) * HOUR_S
                    self.pull(at, f"{name}:nightly", digest, site, size_bytes)

    def rollouts(self, name: str) -> None:
        draw, (first, last), size_bytes = self._random, self.lives(), self.size()
        order, share, a_day = self.some_sites(), draw.choice((0.15, 0.5, 0.9)), draw.uniform(0.2, 3.0)
        delays = [draw.choice((0.2, 1.0, 3.0, 8.0)) for _ in order]
        moves, is_told = draw.random() < 0.3, draw.random() < 0.8
        number = 0
        for day in range(first, last):
            if day % 7 >= 5:
                continue
            for _ in range(_poisson(draw, a_day)):
                number += 1
                at = day * DAY_S + draw.uniform(8, 18) * HOUR_S
                image, digest = f"{name}:{'stable' if moves else f'v1.{number}'}", self.digest()
                if is_told:
                    self.push(at, image, digest)
                if draw.random() >= share:
                    continue
                for site, delay in zip(order, delays, strict=True):
                    at += delay * HOUR_S * draw.uniform(0.6, 1.5)
                    self.pull(at, image, digest, site, size_bytes)

    def builds(self, name: str) -> None:
        draw, (first, last), size_bytes = self._random, self.lives(), self.size()
        site, number = draw.choice(SITES), 0
        for day in range(first, last):
            for _ in range(_poisson(draw, 12.0)):
                number += 1
                at, digest = day * DAY_S + draw.uniform(7, 21) * HOUR_S, self.digest()
                self.push(at, f"{name}:pr-{number}", digest)
                if draw.random() < 0.08:
                    self.pull(at + draw.uniform(0.3, 3) * HOUR_S, f"{name}:pr-{number}", digest, site, size_bytes)
            if day % 7 < 5 and draw.random() < 0.5:
                at, digest = day * DAY_S + draw.uniform(9, 17) * HOUR_S, self.digest()
                self.push(at, f"{name}:v{day}", digest)
                self.pull(at + draw.uniform(0.5, 2) * HOUR_S, f"{name}:v{day}", digest, site, size_bytes)

    def bursts(self) -> None:
        draw = self._random
        known = [(f"reg.test/burst{number}:1", self.digest(), self.size()) for number in range(20)]
        for day in range(self._days):
            for _ in range(_poisson(draw, self._mix.bursts_a_day)):
                (image, digest, size_bytes), site = draw.choice(known), draw.choice(SITES)
                at = day * DAY_S + draw.uniform(0, 24) * HOUR_S
                for _ in range(draw.randint(3, 12)):
                    self.pull(at, image, digest, site, size_bytes)
                    at += draw.expovariate(2.0) * HOUR_S

    def one_offs(self) -> None:
        number = 0
        for day in range(self._days):
            for _ in range(_poisson(self._random, self._mix.one_offs_a_day)):
                number += 1
                at, site = (day + self._random.random()) * DAY_S, self._random.choice(SITES)
                self.pull(at, f"reg.test/once{number}:1", self.digest(), site, self.size())

    def play(self) -> Iterator[Record]:
        for number in range(self._mix.nightly):
            self.cycle(f"reg.test/nightly{number}", weekly=False)
        for number in range(self._mix.weekly):
            self.cycle(f"reg.test/weekly{number}", weekly=True)
        for number in range(self._mix.rollouts):
            self.rollouts(f"reg.test/app{number}")
        for number in range(self._mix.builds):
            self.builds(f"reg.test/build{number}")
        self.bursts()
        self.one_offs()
        ends = self._days * DAY_S
        yield from sorted((each for each in self.records if 0 <= each.at < ends), key=lambda each: each.at)


def synthetic(seed: int, days: int, mix: Mix | None = None) -> list[Record]:
    """A trace of so many days, in the order of time. Day 0 is a Monday."""
    return list(_Trace(seed, days, mix or Mix()).play())


def _poisson(draw: random.Random, mean: float) -> int:
    count, at = 0, draw.expovariate(mean) if mean else 2.0
    while at < 1.0:
        count += 1
        at += draw.expovariate(mean)
    return count
