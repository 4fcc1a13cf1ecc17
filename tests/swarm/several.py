"""Three schedulers on one Redis, each a process that can be cut off from hosts and from Redis, and hosts that pull.

Several tests share them: each waits until what it broke is whole again.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiofastnet
import uvloop

from p2pd.demo.process import command
from scheduler.protocol.rendezvous import owner_of, ranked
from scheduler.shared.live_list import id_of
from scheduler.trust.authority import Authority
from tests.support.client import Reply, ask
from tests.support.images import content_of, digest_of
from tests.support.redis_server import RedisServer
from tests.support.registry import Hold, ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.support.tap import Tap
from tests.swarm.cluster import MIB, REPOSITORY, Cluster, Host, cluster, together, until_true
from tests.swarm.process import Process, started

HOSTS: Final = 4
BLOBS_EACH: Final = 3
"""Blobs of each scheduler in a pull."""

BLOB_BYTES: Final = 2 * MIB
"""Eight pieces."""

LEASE_BYTES: Final = MIB // 2
"""The most bytes of a lease that several hosts may have: two pieces, and one once a second host has come."""

_numbers: Final = itertools.count()


class SchedulerOfSeveral:
    """At one URL, however often it is started."""

    def __init__(self, directory: Path, environ: Mapping[str, str] | None = None) -> None:
        self.to_hosts: Final = Tap(0)
        self.to_redis: Final = Tap(0)
        self.environ: Final = environ
        self._directory: Final = directory
        self._stack: Final = AsyncExitStack()
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The latest that was started."""
        assert self._process is not None
        return self._process

    @property
    def was_started(self) -> bool:
        return self._process is not None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.to_hosts.port}"

    @property
    def id(self) -> str:
        return id_of(self.url)

    async def open(self, redis: RedisServer) -> None:
        self.to_redis.there = redis.port
        await self._stack.enter_async_context(self.to_hosts.open())
        await self._stack.enter_async_context(self.to_redis.open())

    async def start(self, redis: str = "") -> None:
        flags = {
            "listen": "127.0.0.1:0",
            "advertise": f"127.0.0.1:{self.to_hosts.port}",
            "admin": "127.0.0.1:0",
            "data": self._directory,
            "redis": redis or f"redis://127.0.0.1:{self.to_redis.port}",
            "ca-cert": self._directory.parent / "ca/authority/ca.crt",
            "ca-key": self._directory.parent / "ca/authority/ca.key",
        }
        self._process = await started(self._stack, command("scheduler", flags), self.environ)
        self.to_hosts.there = int(self.process.at["listen"].rpartition(":")[2])

    async def stop(self) -> None:
        """In order, as an upgrade does."""
        self.process.daemon.process.terminate()
        await asyncio.to_thread(self.process.daemon.wait, PATIENCE_S)

    def kill(self) -> None:
        self.process.daemon.process.kill()

    def freeze(self) -> None:
        self.process.daemon.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.daemon.process.send_signal(signal.SIGCONT)

    async def page(self) -> Any:
        """What its page shows."""
        return (await ask(self.process.at["admin"], "GET", "/cluster")).json

    async def close(self) -> None:
        await self._stack.aclose()

    @property
    def lists(self) -> list[dict[str, Any]]:
        """The lists that it has told its hosts, as its log has them: `epoch` and `schedulers`."""
        return self.process.logged("live list")

    @property
    def listed(self) -> set[str]:
        """The schedulers in the latest list."""
        return set(self.lists[-1]["schedulers"]) if self.lists else set()

    async def not_ready(self) -> list[str]:
        """Why it is not; empty if it is."""
        reply = await ask(self.process.at["admin"], "GET", "/readyz")
        return [] if reply.status == 200 else list(reply.json["reasons"])


class Several:
    """The schedulers `a`, `b` and `c`, and hosts."""

    def __init__(self, directory: Path, registry: ImageRegistry, redis: RedisServer, swarm: Cluster) -> None:
        self.registry: Final = registry
        self.redis: Final = redis
        self.schedulers: list[SchedulerOfSeveral] = []
        self.hosts: list[Host] = []
        self._swarm: Final = swarm
        self._directory: Final = directory
        self.digests: list[str] = []
        """Whatever the hosts hold."""

    @property
    def urls(self) -> list[str]:
        return [each.url for each in self.schedulers]

    def others(self, than: SchedulerOfSeveral) -> list[SchedulerOfSeveral]:
        return [each for each in self.schedulers if each is not than]

    def owner(self, digest: str, among: Sequence[SchedulerOfSeveral]) -> SchedulerOfSeveral:
        name = owner_of(bytes.fromhex(digest.removeprefix("sha256:")), [each.id for each in among])
        return next(each for each in among if each.id == name)

    async def add_scheduler(self, name: str, environ: Mapping[str, str] | None = None) -> SchedulerOfSeveral:
        added = SchedulerOfSeveral(self._directory / name, environ)
        await added.open(self.redis)
        self.schedulers.append(added)
        return added

    async def add_host(self) -> None:
        self.hosts.append(await self._swarm.add(schedulers=self.urls))

    async def add_idle_host(self, scheduler: SchedulerOfSeveral, *asks: SchedulerOfSeveral) -> Host:
        """One more host, which has no blob, and is connected to this scheduler alone. It asks these others next."""
        ids, order = [each.id for each in self.schedulers], [each.id for each in (scheduler, *asks)]
        names = map("idle-{}".format, itertools.count())
        name = next(each for each in names if ranked(each.encode(), ids)[: len(order)] == order)
        host = await self._swarm.add(schedulers=[scheduler.url], host_id=name)
        await until(lambda: is_connected(host, scheduler))
        assert list(await connections(host)) == [scheduler.url]
        return host

    async def remove_scheduler(self, removed: SchedulerOfSeveral) -> None:
        self.schedulers.remove(removed)
        await removed.close()

    async def close(self) -> None:
        async with asyncio.TaskGroup() as group:
            for each in self.schedulers:
                group.create_task(each.close())

    # -- what hosts pull -------------------------------------------------------------------------------------------

    def push(self, repository: str = REPOSITORY) -> dict[str, bytes]:
        """New blobs, as many for each scheduler, by digest."""
        left = {each.id: BLOBS_EACH for each in self.schedulers}
        made: dict[str, bytes] = {}
        while any(left.values()):
            content = content_of(f"blob {next(_numbers)}", BLOB_BYTES)
            owner = self.owner(digest_of(content), self.schedulers).id
            if left[owner]:
                left[owner] -= 1
                made[self.registry.put_blob(repository, content)] = content
        self.digests += made
        return made

    def hold(self, blobs: Mapping[str, bytes], victim: SchedulerOfSeveral) -> dict[str, Hold]:
        """Each blob of the victim's stops in the middle, on its way from the origin: one piece of each is in flight."""
        of_victim = [each for each in blobs if self.owner(each, self.schedulers) is victim]
        return {digest: self.registry.hold(REPOSITORY, digest, MIB + 1) for digest in of_victim}

    async def pull(
        self,
        victim: SchedulerOfSeveral | None = None,
        fault: Callable[[], Awaitable[None]] | None = None,
        *,
        goes_on: bool = False,
    ) -> None:
        """All hosts pull new blobs, and the fault happens in the middle of the victim's. No client notices.

        When it happens, what is held back is all that is in flight, so nothing else leaves the origin twice.
        `goes_on`: more blobs are wanted before hosts can have noticed anything.
        """
        blobs, more = self.push(), dict[str, bytes]()
        began_s = time.monotonic()
        overdue = -await overdue_leases(processes(self.schedulers))
        holds = {} if fault is None else self.hold(blobs, victim or self.schedulers[0])
        async with asyncio.TaskGroup() as group:
            pulling = group.create_task(self.fetch(blobs))
            if fault is not None:
                for each in holds.values():
                    await until_true(each.reached.is_set)
                await self._until_held(blobs, holds)
                overdue += await overdue_leases(processes([] if victim is None else [victim]))
                happening = group.create_task(_then(fault, holds))
                await asyncio.sleep(0)  # the fault has begun
                if goes_on:
                    more = self.push()
                    await self.fetch(more)
                await happening
            await pulling
        others = [each for each in self.schedulers if each is not victim]
        overdue += await overdue_leases(processes(others))
        blobs |= more
        whole = sum(map(len, blobs.values()))
        twice = sum(self._swarm.sent_bytes(digest) for digest in blobs) - whole
        in_flight = len(holds) if victim is not None else 0
        if await self._have_given_up(others, time.monotonic() - began_s):
            assert twice <= (len(self.schedulers) - 1) * whole, "each scheduler has it fetched once"
        else:
            assert twice <= LEASE_BYTES * (in_flight + overdue), (twice, in_flight, overdue)

    async def fetch(self, blobs: Mapping[str, bytes], repository: str = REPOSITORY) -> None:
        """All hosts get each of these blobs."""
        wanted = [host.blob(digest, repository) for host in self.hosts for digest in blobs]
        replies: list[Reply] = await together(wanted)
        whole = list(blobs.values()) * len(self.hosts)
        noticed = [each for each, content in zip(replies, whole, strict=True) if each.body != content]
        assert not noticed, [(each.status, each.end, len(each.body), each.body[:300]) for each in noticed]

    async def _have_given_up(self, schedulers: Sequence[SchedulerOfSeveral], within_s: float) -> bool:
        """Whether a host has lost one of these, which live: on a machine that stalls for seconds they seem silent."""
        urls = [each.url for each in schedulers]
        told = [each for host in self.hosts for url, each in (await connections(host)).items() if url in urls]
        return any(each["last_error"] and each["last_error_age_s"] <= within_s for each in told)

    async def _until_held(self, blobs: Mapping[str, bytes], holds: Mapping[str, Hold]) -> None:
        """Wait until all hosts have all of the blobs, but for what is held back."""

        async def holds_all(host: Host) -> bool:
            held = {each["digest"]: each["held_bytes"] for each in await host.cached()}
            return all(held.get(each, 0) >= BLOB_BYTES - LEASE_BYTES * (each in holds) for each in blobs)

        for host in self.hosts:
            await until(partial(holds_all, host))

    # -- what is waited for ----------------------------------------------------------------------------------------

    async def until_at(self, schedulers: Sequence[SchedulerOfSeveral]) -> None:
        """Wait until all blobs of all hosts are at these, which live, and each host is connected there."""
        for host in self.hosts:
            async with asyncio.timeout(PATIENCE_S):
                while not await self._is_at(host, schedulers):  # noqa: ASYNC110 # other processes
                    await asyncio.sleep(0.01)

    async def some_is_at(self, schedulers: Sequence[SchedulerOfSeveral]) -> bool:
        """Whether a host has all its blobs at these."""
        return any([await self._is_at(host, schedulers) for host in self.hosts])

    async def _is_at(self, host: Host, schedulers: Sequence[SchedulerOfSeveral]) -> bool:
        told = await connections(host)
        here = {url: each["blobs"] for url, each in told.items() if each["blobs"] and each["connected"]}
        return here == await self.shares(host, schedulers)

    async def shares(self, host: Host, schedulers: Sequence[SchedulerOfSeveral]) -> dict[str, int]:
        """How many blobs of a host are to be at each scheduler."""
        here = [each["digest"] for each in await host.cached()]
        owners = [self.owner(digest, schedulers).url for digest in here]
        return {url: owners.count(url) for url in dict.fromkeys(owners)}

    async def until_whole(self) -> None:
        """Wait until all schedulers live and know it, and all hosts have their blobs there."""
        await until_true(lambda: all(each.listed == set(self.urls) for each in self.schedulers))
        await until(self.are_ready)
        await self.until_at(self.schedulers)

    def beats(self, redis: RedisServer | None = None) -> Counter[bytes]:
        """How often each scheduler was heard of in Redis."""
        found: dict[bytes, bytes] = (redis or self.redis).client.hgetall("{p2pd}:beats")
        return Counter({name: int(count) for name, count in found.items()})

    def epoch(self) -> int:
        """Of the latest list that a scheduler has told."""
        return max(int(each.lists[-1]["epoch"]) for each in self.schedulers)

    def all_live(self, since: int) -> bool:
        """Whether no list from that epoch on lacks one of the schedulers: no blob has moved."""
        told = [each for scheduler in self.schedulers for each in scheduler.lists if each["epoch"] >= since]
        return all(set(each["schedulers"]) == set(self.urls) for each in told)

    async def shown_by_all(self, repository: str) -> tuple[int, int, int] | None:
        """Schedulers, hosts, and bytes that hosts have received of a repository, as each scheduler shows them.

        None if they differ.
        """
        pages = [await each.page() for each in self.schedulers]
        shown = {
            (
                page["cluster"]["schedulers"] - page["cluster"]["untold"],
                page["cluster"]["hosts"],
                sum(pull["received_bytes"] for pull in page["pulls"].values() if pull["repository"] == repository),
            )
            for page in pages
        }
        return shown.pop() if len(shown) == 1 else None

    async def are_ready(self) -> bool:
        return not any([await each.not_ready() for each in self.schedulers])

    async def none_is_ready(self) -> bool:
        return all([await each.not_ready() for each in self.schedulers])


def processes(schedulers: Iterable[SchedulerOfSeveral]) -> list[Process]:
    """Of those that were started."""
    return [each.process for each in schedulers if each.was_started]


async def overdue_leases(schedulers: Iterable[Process]) -> int:
    """How many leases of these have brought nothing in time: on a machine that stalls for seconds there are some.

    The pieces of such a lease leave the origin twice.
    """
    return sum([int((await each.scheduler())["leases_overdue"]) for each in schedulers])


async def _then(fault: Callable[[], Awaitable[None]], holds: Mapping[str, Hold]) -> None:
    try:
        await fault()
    finally:
        for each in holds.values():
            each.go.set()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110 # other processes
            await asyncio.sleep(0.02)


async def connections(host: Host) -> dict[str, dict[str, Any]]:
    """What a host says of the schedulers to which it wants a connection, by URL."""
    return {each["url"]: each for each in (await host.status())["swarm"]["schedulers"]}


async def is_connected(host: Host, *schedulers: SchedulerOfSeveral) -> bool:
    """Whether a host is connected to one of these."""
    told = await connections(host)
    return any(told[each.url]["connected"] for each in schedulers if each.url in told)


@asynccontextmanager
async def several(
    directory: Path,
    registry: ImageRegistry,
    redis: RedisServer,
    environs: Sequence[Mapping[str, str]],
    *,
    through: str = "",
) -> AsyncIterator[Several]:
    """A scheduler with each of these variables. `through`: the URL of Redis, instead of a tap to `redis`."""
    Authority.open(directory / "ca", time.time()).close()
    async with cluster(directory, registry) as swarm:
        made = Several(directory, registry, redis, swarm)
        try:
            for number, environ in enumerate(environs):
                await made.add_scheduler(f"scheduler-{number}", environ)
            async with asyncio.TaskGroup() as group:
                for each in made.schedulers:
                    group.create_task(each.start(through))
            for _ in range(HOSTS):
                await made.add_host()
            yield made
        finally:
            await made.close()


class Running:
    """`several`, on a loop of their own that turns while `run` does."""

    def __init__(self, made: Several, runner: asyncio.Runner) -> None:
        self.several: Final = made
        self.run: Final = runner.run


@contextmanager
def running(
    directory: Path, registry: ImageRegistry, redis: RedisServer, environs: Sequence[Mapping[str, str]]
) -> Iterator[Running]:
    """For several tests. What is opened is closed by the same task."""
    with asyncio.Runner(loop_factory=aiofastnet.loop_factory(uvloop.new_event_loop)) as runner:
        loop = runner.get_loop()
        made: Final[asyncio.Queue[Several]] = asyncio.Queue()
        end: Final = asyncio.Event()

        async def keep() -> None:
            async with several(directory, registry, redis, environs) as opened:
                made.put_nowait(opened)
                await end.wait()

        keeping = loop.create_task(keep())

        async def begin() -> Several:
            while made.empty():  # or it has failed
                if keeping.done():
                    await keeping
                await asyncio.sleep(0.01)
            return made.get_nowait()

        async def finish() -> None:
            end.set()
            await keeping

        found = runner.run(begin())
        try:
            yield Running(found, runner)
        finally:
            runner.run(finish())
