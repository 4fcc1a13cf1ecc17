"""The predictions of a scheduler that runs in this process: alone, or inside a node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from p2pd.config.settings import Settings
from p2pd.config.values import ConfigError
from p2pd.daemon import logs
from p2pd.predict.api import predict_routes
from p2pd.predict.forecast import MODELS, Forecaster
from p2pd.predict.service import HORIZON_S, Predictions, PredictStatistics, predicting
from peer.errors import P2pdError
from peer.tasks import BackgroundTasks
from scheduler.core.history import HistoryStore, HistoryStoreError
from scheduler.core.preheat_record import PreheatService
from scheduler.core.roster import HostFacts
from scheduler.core.scheduler import Scheduler
from scheduler.shell.history_store import SqliteHistory
from scheduler.shell.server import SchedulerServer
from scheduler.trust.errors import TrustError
from scheduler.trust.files import make_private_directory

if TYPE_CHECKING:
    from p2pd.daemon.several import Several  # loads redis

log = logs.get("p2pd.predicting")

HELD_S = 7 * 86_400.0
"""For how long a site has what it pulled, as far as predictions go."""


class Foresight:
    """The route of the admin port, and what is behind it once the scheduler serves (`running`)."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self._settings = settings
        self._directory = directory
        self._predictions: Predictions | None = None

    def routes(self) -> Sequence[web.RouteDef]:
        return predict_routes(lambda: self._predictions)

    def statistics(self) -> PredictStatistics | None:
        """None while there is no history."""
        return None if self._predictions is None else self._predictions.statistics()

    def pushed(self, image: str) -> None:
        """A registry has told that a tag was pushed."""
        if self._predictions is not None:
            self._predictions.pushed(image)

    @asynccontextmanager
    async def running(
        self,
        core: Scheduler,
        server: SchedulerServer,
        jobs: PreheatService,
        tasks: BackgroundTasks,
        several: Several | None = None,
    ) -> AsyncIterator[None]:
        """While the block lasts, if the operator wants a history. Raises P2pdError."""
        settings = self._settings
        if not settings.pull_history:
            yield
            return
        try:
            store = self._store(settings.pull_history) if several is None else several.history(settings.pull_history)
        except HistoryStoreError as error:
            raise P2pdError(f"{error}: move history.db away to go on without it") from None
        predictions = Predictions(
            store,
            await asyncio.to_thread(forecaster_of, settings),
            jobs,
            several.all_hosts if several is not None else partial(_hosts, core),
            budget_bytes=settings.predict_bytes,
            mode=settings.predict,
            runs=(lambda: True) if several is None else partial(several.live.runs, "predictions"),
        )
        async with predicting(predictions):
            self._predictions = predictions
            server.on_pull = predictions.seen
            tasks.start(predictions.run())
            try:
                yield
            finally:
                self._predictions = None

    def _store(self, keep_s: float) -> HistoryStore:
        with suppress(TrustError):  # the store says it, too
            make_private_directory(self._directory)
        return SqliteHistory.open(self._directory, keep_s)


async def _hosts(core: Scheduler) -> list[HostFacts]:
    return list(core.hosts(asyncio.get_running_loop().time()))


def forecaster_of(settings: Settings) -> Forecaster | None:
    """None if nothing is predicted. Raises ConfigError."""
    if settings.predict == "off":
        return None
    name = settings.predict_model
    if name == "auto":
        name = "ewma+push" if find_spec("river") is None else "river"
    try:
        predictor = MODELS[name](HORIZON_S)
    except ImportError:
        raise ConfigError("predict_model = river needs river, which is not here: pip install 'p2pd[predict]'") from None
    log.info("predicts pulls", model=name, mode=settings.predict)
    return Forecaster(predictor, kept_s=HELD_S)
