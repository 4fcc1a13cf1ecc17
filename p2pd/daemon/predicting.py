"""The predictions of a scheduler that runs in this process: alone, or inside a node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from aiohttp import web

from p2pd.config.settings import Settings
from p2pd.config.values import ConfigError
from p2pd.daemon import logs
from p2pd.predict.api import predict_routes
from p2pd.predict.forecast import MODELS, Forecaster
from p2pd.predict.service import HORIZON_S, Predictions, PredictStatistics, predicting
from peer.errors import P2pdError
from peer.tasks import BackgroundTasks
from scheduler.core.scheduler import Scheduler
from scheduler.shell.history_store import HistoryStore, HistoryStoreError
from scheduler.shell.preheating import Preheating
from scheduler.shell.server import SchedulerServer
from scheduler.trust.errors import TrustError
from scheduler.trust.files import make_private_directory

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
        self, core: Scheduler, server: SchedulerServer, jobs: Preheating, tasks: BackgroundTasks
    ) -> AsyncIterator[None]:
        """While the block lasts, if the operator wants a history. Raises P2pdError."""
        settings = self._settings
        if not settings.pull_history:
            yield
            return
        try:
            with suppress(TrustError):  # the store says it, too
                make_private_directory(self._directory)
            store = HistoryStore.open(self._directory, settings.pull_history)
        except HistoryStoreError as error:
            raise P2pdError(f"{error}: move history.db away to go on without it") from None
        predictions = Predictions(
            store,
            await asyncio.to_thread(forecaster_of, settings),
            jobs,
            lambda: core.hosts(asyncio.get_running_loop().time()),
            budget_bytes=settings.predict_bytes,
            mode=settings.predict,
        )
        async with predicting(predictions):
            self._predictions = predictions
            server.on_pull = predictions.seen
            tasks.start(predictions.run())
            try:
                yield
            finally:
                self._predictions = None


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
