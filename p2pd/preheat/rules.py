"""The operator's rules (`[[preheat]]`, see `p2pd.config.preheat_rules`): orders preheats on push, and at their times.

1. `push`: a tag that was pushed and matches is preheated at once, beside what is done where its repository is in use.
2. `cron`: the tag that the rule names is preheated at each of its times. With `*` in it, whatever matching tag was
   pushed since the last time: the preheat is made at the push, for the next time, so that a restart does not lose it.
3. A tag has one preheat for each rule and time, or push, whichever schedulers order it. Times at which no scheduler
   runs are left out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import structlog

from p2pd.config.cron import Cron
from p2pd.config.preheat_rules import PreheatRule
from p2pd.preheat.api import Service, record_of
from p2pd.preheat.request import parse_request
from scheduler.core.preheat_record import PreheatStoreError, TooManyJobsError

log = structlog.get_logger("p2pd.preheat.rules")

LOOK_EVERY_S: Final = 600.0
"""The machine's clock may be set in between."""


class PreheatRules:
    """On the event loop. The owner runs `run`."""

    def __init__(
        self, rules: Sequence[PreheatRule], service: Service, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._rules = tuple(rules)
        self._service = service
        self._clock = clock
        self._replaced = asyncio.Event()

    def replace(self, rules: Sequence[PreheatRule]) -> None:
        """Put other rules in force. Preheats that were ordered go on."""
        self._rules = tuple(rules)
        self._replaced.set()

    async def pushed(self, image: str, event: str = "") -> None:
        """Order what the rules say of a tag that was pushed, which is named in full; `event` is that of `Pushed`."""
        for rule in [each for each in self._rules if each.matches(image)]:
            if rule.cron is None:
                await self._order(rule, image, None, event)
            elif rule.is_pattern:
                at = next_time(rule.cron, self._clock())
                await self._order(rule, image, at, f"{at:.0f}")

    async def run(self) -> None:
        """Order at their times what rules name, until cancelled."""
        while True:
            self._replaced.clear()
            now = self._clock()
            due = [(next_time(rule.cron, now), rule) for rule in self._rules if rule.cron and not rule.is_pattern]
            wait_s = min((at - now for at, _ in due), default=LOOK_EVERY_S)
            try:
                async with asyncio.timeout(min(wait_s, LOOK_EVERY_S)):
                    await self._replaced.wait()
            except TimeoutError:
                for at, rule in due:
                    if at <= self._clock():
                        await self._order(rule, rule.match, at, f"{at:.0f}")

    async def _order(self, rule: PreheatRule, image: str, at: float | None, occasion: str) -> None:
        """Once for each `occasion`; "": each time."""
        service, now = self._service(), self._clock()
        if service is None:
            return
        request = parse_request({"images": [image], "to": rule.to, "ttl": rule.keep}, now)
        record = record_of(replace(request, at=at), "rule", now)
        key = f"rule {rule} {image} {occasion}" if occasion else None  # has spaces, as none of the API's has
        try:
            await service.add(record, key=key)
        except (TooManyJobsError, PreheatStoreError) as error:
            log.warning("a rule was not followed", rule=str(rule), image=image, reason=str(error))


def next_time(cron: Cron, now: float) -> float:
    """The first of its times after `now`, in Unix seconds, by the machine's clock and time zone."""
    local, at = datetime.fromtimestamp(now), now  # noqa: DTZ006 # the wall clock's time is what a crontab is about
    while at <= now:  # an hour of the wall clock that comes twice is taken once
        local = cron.after(local)
        at = local.timestamp()
    return at
