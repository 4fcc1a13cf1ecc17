"""The scheduler alone, as a daemon: the port that hosts connect to, and an admin port.

Of blobs a scheduler keeps nothing on disk: after a restart the hosts connect again and announce all pieces that they
hold. Its CA is in its data directory, and so is the ledger of tokens and hosts, unless schedulers share one in Redis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, NoReturn

import uvloop
from prometheus_client import generate_latest

from p2pd.admin.cluster import Cluster
from p2pd.admin.live_metrics import LiveMetrics
from p2pd.admin.metrics import LoopLag, metrics_of
from p2pd.admin.predict_metrics import PredictMetrics
from p2pd.admin.scheduler_metrics import SchedulerMetrics
from p2pd.admin.secret import new_secret, secret_in
from p2pd.admin.server import NotReady, admin_runner, metrics_runner
from p2pd.config.settings import Settings
from p2pd.config.sources import Loaded, Sources
from p2pd.daemon import logs
from p2pd.daemon.control import Control
from p2pd.daemon.lifecycle import Daemon, live
from p2pd.daemon.listeners import listening, names_of, scheduling, tell_open
from p2pd.daemon.preheating import SchedulerPreheats
from p2pd.daemon.scheduler_inside import scheduling_of
from p2pd.daemon.trust import admission_or_none, ending_certificates
from p2pd.openapi.routes import openapi_routes
from peer.tasks import BackgroundTasks
from scheduler.core.scheduler import Scheduler, SchedulerStatistics
from scheduler.shell.server import SchedulerServer


def run(sources: Sources, loaded: Loaded) -> NoReturn:
    """Run a scheduler until a signal ends it, and end the process. Raises P2pdError if it cannot start."""
    control = Control(sources, loaded, {"log_level", "preheat"})
    daemon = Daemon("p2pd.scheduler", control, partial(serve, loaded.settings, control=control), headline="listen")
    live(daemon, uvloop.new_event_loop)


@asynccontextmanager
async def serve(
    settings: Settings, not_ready: NotReady, control: Control | None = None
) -> AsyncIterator[dict[str, str]]:
    """Run a scheduler; yields the addresses that it listens on. Raises ListenError, TrustError.

    `control` is what may be asked of it (None: nothing).
    """
    core = Scheduler(scheduling_of(settings))
    plain = settings.allow_open or settings.listen.is_loopback
    tell_open(settings, ("listen", "admin"))
    addresses: dict[str, str] = {}
    lag = LoopLag()
    registry, of_list = metrics_of(SchedulerMetrics(core), logs.dropped_lines, lag), LiveMetrics()
    registry.register(of_list)
    scrape = partial(generate_latest, registry)
    obstacles = [not_ready]
    secret, preheats = new_secret(), SchedulerPreheats(settings)
    registry.register(PredictMetrics(preheats.predict_statistics))
    if control is not None:
        control.prepare = preheats.prepare
    cluster = Cluster(core, partial(ending_certificates, settings))
    admin = admin_runner(
        addresses=addresses,
        status=lambda: {"scheduler": _facts(core.statistics())},
        scrape=scrape,
        not_ready=lambda: [reason for each in obstacles for reason in each()],
        cluster=cluster,
        names=names_of(settings, settings.admin),
        more=[*preheats.routes(), *openapi_routes()],
        secret=secret,
        admits=preheats.admits,
    )
    async with AsyncExitStack() as stack:
        admitting = stack.enter_context(admission_or_none(settings, may_lack=plain))
        server = SchedulerServer(core, admission=admitting, plain=plain)
        admin_at = await stack.enter_async_context(listening(admin, settings.admin))
        addresses["admin"] = str(admin_at)
        stack.enter_context(secret_in(settings.data, secret, admin_at))
        if settings.metrics is not None:
            metrics = listening(metrics_runner(scrape), settings.metrics)
            addresses["metrics"] = str(await stack.enter_async_context(metrics))
        background = await stack.enter_async_context(BackgroundTasks())
        background.start(lag.run())
        background.start(cluster.run())
        stack.callback(cluster.close)
        listens = await stack.enter_async_context(scheduling(server, settings.listen))
        addresses["listen"] = str(listens)
        several = None
        if settings.redis is not None:
            from p2pd.daemon.several import on_live_list, url_of  # redis is loaded with it

            url = url_of(settings, listens, tls=not plain)
            several = await stack.enter_async_context(on_live_list(settings, core, server, cluster, url))
            obstacles.append(several.live.not_ready)
            of_list.live = several.live
        await stack.enter_async_context(preheats.running(core, server, background, several))
        yield addresses


def _facts(found: SchedulerStatistics) -> dict[str, Any]:
    """For JSON, which has no states."""
    by_state = {state.name.lower(): count for state, count in found.preheats.items()}
    return {**dataclasses.asdict(dataclasses.replace(found, preheats={})), "preheats": by_state}
