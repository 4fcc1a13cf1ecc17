"""One of several schedulers: on the list of those that live, which is in Redis. Imported with `--redis` alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from p2pd.config.settings import Settings
from p2pd.config.values import Address, ConfigError
from p2pd.daemon.reach import Reach, reach_of
from peer.errors import P2pdError
from peer.tasks import BackgroundTasks
from scheduler.core.events import LiveListChanged
from scheduler.core.scheduler import Scheduler
from scheduler.protocol.to_host import SchedulerAt
from scheduler.shared.errors import SharedStateError
from scheduler.shared.live import Live
from scheduler.shared.live_list import LiveList, Membership
from scheduler.shared.quarantines import SHARE_EVERY_S, RedisQuarantines
from scheduler.shared.redis_clients import RedisPlace
from scheduler.shared.redis_live import RedisLiveStore
from scheduler.shell.server import SchedulerServer


def place_of(settings: Settings) -> RedisPlace:
    """The Redis of the settings, which have one."""
    assert settings.redis is not None
    return RedisPlace(settings.redis, settings.redis_prefix, settings.redis_password_file, settings.redis_ca)


def url_of(settings: Settings, at: Address, *, tls: bool) -> str:
    """The URL at which hosts reach this scheduler, which listens at `at`. Raises ConfigError."""
    address = settings.advertise or at
    if not address.port:
        address = Address(address.host, at.port)
    if reach_of(address.host) is Reach.NOWHERE:
        given = f"advertise is {address}" if settings.advertise else f"listen is {at}"
        raise ConfigError(f"{given}: with redis, set advertise to the address at which hosts reach this scheduler")
    return f"{'https' if tls else 'http'}://{address}"


@asynccontextmanager
async def on_live_list(settings: Settings, core: Scheduler, server: SchedulerServer, url: str) -> AsyncIterator[Live]:
    """Keep the server's scheduler on the list while the block lasts. It serves already. Raises P2pdError.

    Quarantines are shared meanwhile.

    Redis may be gone: the scheduler serves all the same, and `Live.not_ready` says so.
    """
    membership = Membership(url)

    def tell(found: LiveList) -> None:
        schedulers = tuple(SchedulerAt(each.id, each.url) for each in found.entries)
        server.tell(LiveListChanged(found.epoch, membership.id, schedulers))

    try:
        store, quarantines = RedisLiveStore(place_of(settings)), RedisQuarantines(place_of(settings))
    except SharedStateError as error:
        raise P2pdError(str(error)) from None
    live = Live(membership, store, tell)
    try:
        await live.beat()
        async with BackgroundTasks() as tasks:
            tasks.start(live.run())
            tasks.start(share_quarantines(core, server, quarantines, lambda: live.is_stopping))
            yield live
            live.stop()
        await live.leave()
    finally:
        await store.close()
        await quarantines.close()


async def share_quarantines(
    core: Scheduler, server: SchedulerServer, quarantines: RedisQuarantines, ends: Callable[[], bool]
) -> None:
    """Share them, until cancelled or until `ends` says so. While Redis is gone each scheduler has its own."""
    loop = asyncio.get_running_loop()
    while not ends():
        await asyncio.sleep(SHARE_EVERY_S)
        with suppress(SharedStateError):  # `Live` tells of it
            for each in await quarantines.share(core.quarantined(loop.time()), loop.time()):
                server.tell(each)
