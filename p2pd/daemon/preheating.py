"""The preheats of a scheduler that runs in this process: alone, or inside a node."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from p2pd.config.settings import Settings
from p2pd.daemon import logs
from p2pd.daemon.predicting import Foresight
from p2pd.predict.service import PredictStatistics
from p2pd.preheat.api import PREFIX, preheat_routes
from p2pd.preheat.harbor import PATHS, harbor_routes
from p2pd.preheat.notifications import PATH as NOTIFICATIONS
from p2pd.preheat.notifications import Notifications
from p2pd.preheat.rules import PreheatRules
from p2pd.preheat.token import PreheatToken
from peer.errors import P2pdError
from peer.tasks import BackgroundTasks
from scheduler.core.preheat_record import PreheatService, PreheatStoreError
from scheduler.core.scheduler import Scheduler
from scheduler.shell.preheating import preheating
from scheduler.shell.server import SchedulerServer
from scheduler.shell.sqlite_preheats import SqlitePreheats
from scheduler.trust.errors import TrustError
from scheduler.trust.files import make_private_directory

if TYPE_CHECKING:
    from p2pd.daemon.several import Several  # loads redis

log = logs.get("p2pd.preheating")


class WallClock:
    """The machine's clock and time zone."""

    def now(self) -> float:
        return time.time()

    def of_day(self, seconds: float) -> float:
        """The seconds after midnight."""
        local = time.localtime(seconds)
        return local.tm_hour * 3600.0 + local.tm_min * 60.0 + local.tm_sec


class SchedulerPreheats:
    """The routes of the admin port, and what is behind them once the scheduler serves (`running`)."""

    def __init__(self, settings: Settings) -> None:
        self._directory = directory_of(settings)
        self._service: PreheatService | None = None
        self._tasks: BackgroundTasks | None = None
        self._token = PreheatToken(self._directory)
        self._rules = PreheatRules(settings.preheat, lambda: self._service)
        self._foresight = Foresight(settings, self._directory)
        self._notifications = Notifications(
            lambda: self._service,
            self._token,
            lambda: self._tasks,
            self._rules,
            on_push=self._foresight.pushed,
        )

    def routes(self) -> Sequence[web.RouteDef]:
        service = lambda: self._service  # noqa: E731 # it changes
        return [
            *preheat_routes(service),
            *harbor_routes(service),
            *self._notifications.routes(),
            *self._foresight.routes(),
        ]

    def predict_statistics(self) -> PredictStatistics | None:
        """None while no history of pulls is kept."""
        return self._foresight.statistics()

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """See `p2pd.daemon.control.Prepare`."""
        return partial(self._rules.replace, settings.preheat)

    def admits(self, request: web.Request) -> bool:
        """Whether a request about preheats shows their token."""
        if self._notifications.is_signed(request):
            return True
        is_ours = request.path.startswith((f"{PREFIX}/", *PATHS, NOTIFICATIONS))
        return is_ours and self._token.is_shown(request.headers.get("Authorization", ""))

    @asynccontextmanager
    async def running(
        self,
        core: Scheduler | None,
        server: SchedulerServer | None,
        tasks: BackgroundTasks,
        several: Several | None = None,
    ) -> AsyncIterator[Sequence[web.RouteDef]]:
        """While the block lasts and the server serves. Yields its routes; none without a core. Raises P2pdError."""
        if core is None or server is None:
            yield ()
            return
        try:
            clock = WallClock()
            async with (
                preheating(core, server, self._store(), clock) if several is None else several.preheating(clock)
            ) as service:
                self._service, self._tasks = service, tasks
                tasks.start(service.write())
                tasks.start(self._rules.run())
                try:
                    async with self._foresight.running(core, server, service, tasks, several):
                        yield self.routes()
                finally:
                    self._service = self._tasks = None
        except PreheatStoreError as error:
            raise P2pdError(f"{error}: move preheats.db away to go on without it") from None

    def _store(self) -> SqlitePreheats:
        try:
            make_private_directory(self._directory)
        except TrustError as error:
            log.warning("preheats are kept in memory alone: a restart forgets them", reason=str(error))
            return SqlitePreheats.open(None)
        return SqlitePreheats.open(self._directory)


def directory_of(settings: Settings) -> Path:
    """The scheduler's own directory, where its ledger is too."""
    return settings.data / "scheduler"
