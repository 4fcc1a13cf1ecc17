"""One of several schedulers: on the list of those that live, which is in Redis. Imported with `--redis` alone."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from p2pd.admin.cluster import Cluster
from p2pd.config.settings import Settings
from p2pd.config.values import Address, ConfigError
from p2pd.daemon.reach import Reach, reach_of
from peer.errors import P2pdError
from peer.tasks import BackgroundTasks
from scheduler.core.events import LiveListChanged, TagAsked, TagTold
from scheduler.core.history import HistoryStore
from scheduler.core.overview import Others
from scheduler.core.preheat_hosts import Candidate
from scheduler.core.preheat_record import Clock
from scheduler.core.roster import HostFacts, merged
from scheduler.core.scheduler import Scheduler
from scheduler.protocol.to_host import SchedulerAt
from scheduler.shared.errors import SharedStateError
from scheduler.shared.live import Live
from scheduler.shared.live_list import LiveList, Membership
from scheduler.shared.preheating import SharedPreheating, shared_preheating
from scheduler.shared.quarantines import SHARE_EVERY_S, RedisQuarantines
from scheduler.shared.redis_clients import RedisPlace
from scheduler.shared.redis_history import RedisHistory
from scheduler.shared.redis_live import RedisLiveStore
from scheduler.shared.redis_preheats import RedisPreheats
from scheduler.shared.summaries import (
    WRITTEN_EVERY_S,
    RedisSummaries,
    decode_roster,
    encode_exchanges,
    encode_roster,
    of_processes,
)
from scheduler.shared.tags import RedisTags
from scheduler.shell.server import SchedulerServer
from scheduler.trust.errors import TrustError
from scheduler.trust.files import read_private
from scheduler.trust.sealing import key_of_ca

AT_ONCE: Final = 500
"""Hosts that are looked at before the event loop goes on."""


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


@dataclass(frozen=True, slots=True)
class Several:
    """What this scheduler has of those that live, and shares with them."""

    live: Live
    place: RedisPlace
    settings: Settings
    core: Scheduler
    server: SchedulerServer
    cluster: Cluster

    def preheating(self, clock: Clock) -> AbstractAsyncContextManager[SharedPreheating]:
        """The preheats of all. Raises PreheatStoreError."""
        store = RedisPreheats(self.place, partial(credentials_key, self.settings))
        service = SharedPreheating(self.core, self.server.tell, store, clock, self.live, self._candidates)
        self.server.on_preheat = service.changed
        return shared_preheating(service)

    def history(self, keep_s: float) -> HistoryStore:
        """The history of all. Raises HistoryStoreError."""
        return RedisHistory(self.place, keep_s)

    async def all_hosts(self) -> list[HostFacts]:
        """The hosts of all."""
        return await self.cluster.all_hosts()

    async def _candidates(self) -> Iterable[Candidate]:
        return [Candidate(each.id, each.site, each.zone, each.rack) for each in await self.all_hosts()]


def credentials_key(settings: Settings) -> bytes:
    """What the credentials of preheats are encrypted with in Redis: derived from the CA's key. Raises TrustError."""
    if settings.tls_dir is not None:
        raise TrustError(
            "with tls_dir the schedulers have no CA's key, from which theirs would be derived: "
            "order the preheat without credentials, or give the schedulers ca_cert and ca_key"
        )
    path = settings.ca_key or settings.data / "scheduler/authority/ca.key"
    try:
        return key_of_ca(read_private(path))
    except FileNotFoundError:
        raise TrustError(f"{path} does not exist") from None


@asynccontextmanager
async def on_live_list(
    settings: Settings, core: Scheduler, server: SchedulerServer, cluster: Cluster, url: str
) -> AsyncIterator[Several]:
    """Keep the server's scheduler on the list while the block lasts. It serves already. Raises P2pdError.

    Quarantines and what hosts were told of tags are shared meanwhile, and `cluster` shows what all know.

    Redis may be gone: the scheduler serves all the same, and `Live.not_ready` says so.
    """
    membership = Membership(url)

    def tell(found: LiveList, outdated: bool) -> None:
        schedulers = tuple(SchedulerAt(each.id, each.url) for each in found.entries)
        server.tell(LiveListChanged(found.epoch, membership.id, schedulers, outdated))

    async with AsyncExitStack() as stack:
        try:
            place = place_of(settings)
            store, quarantines, summaries = RedisLiveStore(place), RedisQuarantines(place), RedisSummaries(place)
            tags = RedisTags(place)
        except SharedStateError as error:
            raise P2pdError(str(error)) from None
        for each in (store, quarantines, summaries, tags):
            stack.push_async_callback(each.close)
        live = Live(membership, store, tell)
        await live.beat()
        async with BackgroundTasks() as tasks:
            tasks.start(live.run())
            tasks.start(share_quarantines(core, server, quarantines, lambda: live.is_stopping))
            process = f"{membership.id}:{secrets.token_hex(4)}"
            tasks.start(tell_others(core, summaries, live, process))
            cluster.others = partial(others, summaries, live, process)
            server.on_tag = tags.share
            tasks.start(tags.write(lambda: live.is_stopping))
            tasks.start(tags.read(partial(hear_of_tag, server, membership.id), lambda: live.is_stopping))
            try:
                yield Several(live, place, settings, core, server, cluster)
            finally:
                live.stop()
        await live.leave()


async def tell_others(core: Scheduler, summaries: RedisSummaries, live: Live, process: str) -> None:
    """Write what this process knows of hosts and pulls, while it is on the list, until cancelled or until it leaves."""
    loop = asyncio.get_running_loop()
    while not live.is_stopping:
        if live.name:
            hosts = [each async for each in unhurried(core.hosts(loop.time()))]
            exchanges, now = core.exchanges(loop.time()), loop.time()
            roster = await asyncio.to_thread(encode_roster, hosts)
            told = await asyncio.to_thread(encode_exchanges, exchanges, now)
            with suppress(SharedStateError):  # `Live` tells of it
                await summaries.write(process, roster, told)
        await asyncio.sleep(WRITTEN_EVERY_S)


async def unhurried(hosts: Iterable[HostFacts]) -> AsyncIterator[HostFacts]:
    """All of them, and other things meanwhile: of 100,000 it takes a second or so."""
    for number, each in enumerate(hosts):
        if number % AT_ONCE == AT_ONCE - 1:
            await asyncio.sleep(0)
        yield each


async def others(summaries: RedisSummaries, live: Live, process: str) -> Others:
    """What the other schedulers know, as they told it some seconds ago; nothing while Redis is gone."""
    ids = [each.id for each in live.known.entries if each.id != process.partition(":")[0]]
    try:
        if not live.is_reached:
            raise SharedStateError("; ".join(live.not_ready()) or "redis does not answer")
        rosters, told = await summaries.read(ids)
    except SharedStateError as error:
        return Others(live=len(ids), untold=len(ids), problem=str(error))
    now = asyncio.get_running_loop().time()
    return await asyncio.to_thread(_others, rosters, told, process, ids, now)


def _others(
    rosters: Sequence[bytes | None], told: Mapping[str, tuple[float, bytes]], process: str, ids: list[str], now: float
) -> Others:
    hosts = {each.id: each for each in merged(map(decode_roster, rosters))}
    exchanges = of_processes(told, process, ids, now)
    return Others(hosts, tuple(exchanges), len(ids), sum(1 for each in rosters if not each))


def hear_of_tag(server: SchedulerServer, own: str, told: TagAsked | TagTold) -> None:
    """What another scheduler has told of a tag."""
    if told.scheduler != own:
        server.tell(told)


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
