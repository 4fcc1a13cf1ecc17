"""The connection to the scheduler: what the log says of it, when it is made again, and which bounds it keeps."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from msgspec.structs import replace

import peer.net.scheduler_client as module
from peer.net.scheduler_client import SchedulerClient
from peer.net.scheduler_log import MAX_LINES, SchedulerLog, is_elsewhere
from peer.tasks import BackgroundTasks
from scheduler.core.events import Connected, LiveListChanged, Received
from scheduler.core.scheduler import Scheduler
from scheduler.protocol.codec import TO_HOST, ToHost
from scheduler.protocol.connection import PATH
from scheduler.protocol.from_host import FEATURES, Announce, Hello, Holding, InlineBlob, Join, Leave, TagAnswer
from scheduler.protocol.to_host import SchedulerAt, Schedulers, Welcome
from scheduler.shell.bounds import Bounds
from scheduler.shell.server import SchedulerServer
from tests.support.node import asynchronous, until
from tests.support.ports import free_port

HELLO = Hello("host", 1, 1, "127.0.0.1:1")
D = b"d" * 32


class Told:
    """What a client has said, and the log of it."""

    def __init__(self, url: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self.caplog = caplog
        self.welcomes: list[Welcome] = []
        self.found_at: list[float] = []
        self.listed: list[Schedulers | None] = []
        self.heard_of: list[ToHost] = []
        self.losses: list[bool] = []
        self.failures = 0
        self.clones = 0
        self.hello = HELLO
        self.client = SchedulerClient(url, lambda: self.hello, self)

    # as `peer.net.scheduler_client.ConnectionOwner`

    def found(self, _client: SchedulerClient, welcome: Welcome, listed: Schedulers | None) -> None:
        self.welcomes.append(welcome)
        self.listed.append(listed)
        self.found_at.append(asyncio.get_running_loop().time())

    def heard(self, _client: SchedulerClient, message: ToHost) -> None:
        self.heard_of.append(message)

    def lost(self, _client: SchedulerClient, *, stops: bool) -> None:
        self.losses.append(stops)

    def failed(self, _client: SchedulerClient) -> None:
        self.failures += 1

    def cloned(self) -> None:
        self.clones += 1
        self.hello = replace(HELLO, host="another")

    def lines(self) -> list[dict[str, object]]:
        return [each.msg for each in self.caplog.records if isinstance(each.msg, dict) and "peer.net" in each.name]


@asynccontextmanager
async def running(client: SchedulerClient) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(client.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BACKOFF_FIRST_S", "BACKOFF_MOST_S", "RETURN_WITHIN_S", "BACKOFF_IN_USE_S"):
        monkeypatch.setattr(module, name, 0.01)


@asynchronous
async def test_an_outage_has_a_line_when_it_begins_and_one_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    told = Told(f"http://127.0.0.1:{port}", caplog)
    async with running(told.client):
        await asyncio.sleep(0.2)  # so that the outage has a length
        await until(lambda: told.failures > 2)
        (line,) = told.lines()
        assert line["event"] == "no scheduler"
        async with SchedulerServer(Scheduler()).serving("127.0.0.1", port):
            await until(lambda: bool(told.welcomes))
            found = told.lines()[-1]
            assert found["event"] == "connected to a scheduler"
            assert int(str(found["attempts"])) > 2
            assert float(str(found["after_s"])) > 0
        await until(lambda: told.losses == [True])
        failures = told.failures
        await until(lambda: told.failures > failures + 2)
        lost, refused = told.lines()[2:]
        assert (lost["event"], lost["reason"]) == ("lost the scheduler", "STOPPING: the scheduler stops")
        assert refused["event"] == "no scheduler"


class Trust:
    """`peer.trust.host_trust.HostTrust` without certificates: the session is to be opened anew when `over` is set."""

    to_scheduler = True

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def credentials(self) -> None:
        pass

    def check_scheduler(self, _connection: object) -> None:
        pass

    def keep_session(self, _connection: object) -> None:
        pass

    async def watch(self, _connection: object, host: str | None, *, reopens: bool) -> None:
        assert (host, reopens) == (None, True)
        await self.over.wait()
        self.over.clear()


@asynchronous
async def test_a_session_is_opened_anew_when_a_certificate_is_soon_over(caplog: pytest.LogCaptureFixture) -> None:
    async with SchedulerServer(Scheduler()).serving("127.0.0.1", 0) as port:
        told, trust = Told(f"http://127.0.0.1:{port}", caplog), Trust()
        told.client._trust = trust  # type: ignore[assignment] # it has what is used of it
        async with running(told.client):
            for count in (1, 2, 3):
                await until(lambda count=count: len(told.welcomes) == count)  # type: ignore[misc]
                assert told.losses == [False] * (count - 1)
                trust.over.set()
        assert {line["event"] for line in told.lines()} == {"connected to a scheduler"}


@asynchronous
async def test_another_server_is_named_as_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port := free_port()).start()
    told = Told(f"http://127.0.0.1:{port}", caplog)
    async with running(told.client):
        await until(lambda: bool(told.lines()))
        await asyncio.sleep(0.1)
    (line,) = told.lines()
    assert str(line["reason"]).startswith("HTTP 404: ")
    await runner.cleanup()


@asynchronous
async def test_a_scheduler_that_never_answers_is_no_connection(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECT_WITHIN_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listening:  # and nobody accepts
        told = Told(f"http://127.0.0.1:{listening.getsockname()[1]}", caplog)
        async with running(told.client):
            await until(lambda: told.failures > 2)
    (line,) = told.lines()
    assert line["reason"] == "no answer within 0.05 s"
    assert not told.welcomes


@asynchronous
async def test_a_connection_that_comes_and_goes_has_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    of_scheduler = SchedulerLog()
    for _ in range(50):
        of_scheduler.found("http://s")
        of_scheduler.lost("http://s", "the connection broke")
    assert len(caplog.records) == MAX_LINES


@asynchronous
async def test_hosts_come_back_at_different_times(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETURN_WITHIN_S", 1.5)
    port = free_port()
    hosts = [Told(f"http://127.0.0.1:{port}", caplog) for _ in range(20)]
    for number, host in enumerate(hosts):
        host.hello = replace(HELLO, host=f"host{number}")
    async with asyncio.TaskGroup() as group:
        async with SchedulerServer(Scheduler()).serving("127.0.0.1", port):
            tasks = [group.create_task(host.client.run()) for host in hosts]
            await until(lambda: all(host.welcomes for host in hosts))
        async with SchedulerServer(Scheduler()).serving("127.0.0.1", port):
            await until(lambda: all(len(host.welcomes) == 2 for host in hosts))
            for task in tasks:
                task.cancel()
    came = [host.found_at[1] for host in hosts]
    assert max(came) - min(came) > 0.1


@asynchronous
async def test_an_id_that_stays_in_use_is_another_machines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLONE_AFTER_S", 0.1)
    async with SchedulerServer(Scheduler()).serving("127.0.0.1", 0) as port:
        first, clone = (Told(f"http://127.0.0.1:{port}", caplog) for _ in range(2))
        clone.hello = replace(HELLO, address="127.0.0.1:2")
        async with running(first.client):
            await until(lambda: bool(first.welcomes))
            async with running(clone.client):
                await until(lambda: bool(clone.welcomes))
                assert (first.losses, clone.clones) == ([], 1)


@asynchronous
async def test_a_message_beyond_the_bounds_costs_itself_and_not_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with SchedulerServer(Scheduler()).serving("127.0.0.1", 0) as port:
        told = Told(f"http://127.0.0.1:{port}", caplog)
        async with running(told.client):
            await until(lambda: bool(told.welcomes))
            for _ in range(3):
                told.client.tell(TagAnswer("docker.io", "library/app", "v1", 200, D, 1, "x" * 300))
            told.client.tell(Announce((Holding(D, 1, complete=True),)))
            await until(lambda: told.client.messages == 1)
            assert told.losses == []
    assert [each["event"] for each in told.lines()].count(
        "a message to the scheduler is beyond the protocol's bounds"
    ) == 1


@asynchronous
async def test_more_messages_than_the_welcome_allows_wait(caplog: pytest.LogCaptureFixture) -> None:
    bounds = Bounds(messages_per_s=200, burst=20)
    welcome = TO_HOST.encode(Welcome(1, burst=bounds.burst))

    async def scheduler(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        await websocket.receive()
        await websocket.send_bytes(welcome)
        while len(times) < 60:
            await websocket.receive()
            times.append(asyncio.get_running_loop().time())
        return websocket

    times: list[float] = []
    app = web.Application()
    app.router.add_get(PATH, scheduler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port := free_port()).start()
    told = Told(f"http://127.0.0.1:{port}", caplog)
    async with running(told.client):
        await until(lambda: bool(told.welcomes))
        began = asyncio.get_running_loop().time()
        for _ in range(60):
            told.client.tell(Leave(D))
        await until(lambda: len(times) == 60)
    assert times[-1] - began > (60 - bounds.burst - 1) / bounds.messages_per_s
    await runner.cleanup()


def test_where_the_scheduler_sees_a_host() -> None:
    assert is_elsewhere("10.0.0.1:65002", "192.0.2.7")
    assert is_elsewhere("[2001:db8::1]:65002", "2001:db8::2")
    assert not is_elsewhere("10.0.0.1:65002", "10.0.0.1")
    assert not is_elsewhere("node-1:65002", "192.0.2.7")
    assert not is_elsewhere("10.0.0.1:65002", "127.0.0.1")
    assert not is_elsewhere("10.0.0.1:65002", "")


@asynchronous
async def test_a_host_under_whose_id_another_has_lied_goes_on_under_another_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = b"tiny"
    join = Join(hashlib.sha256(data).digest(), "docker.io", "library/app", len(data))
    core, now = Scheduler(), asyncio.get_running_loop().time()
    core.handle(Connected(10_000, HELLO, "127.0.0.1"), now)
    core.handle(Received(10_000, join), now)
    core.handle(Received(10_000, InlineBlob(join.digest, b"lies")), now)
    assert core.statistics().quarantined == 1
    async with SchedulerServer(core).serving("127.0.0.1", 0) as port:
        told = Told(f"http://127.0.0.1:{port}", caplog)
        async with running(told.client):
            await until(lambda: bool(told.welcomes))
            assert told.clones == 1


AT = SchedulerAt("00000000000000aa", "http://127.0.0.1:1")


@asynchronous
async def test_a_scheduler_that_is_one_of_several_is_found_with_its_list(caplog: pytest.LogCaptureFixture) -> None:
    server = SchedulerServer(Scheduler())
    async with server.serving("127.0.0.1", 0) as port:
        told = Told(f"http://127.0.0.1:{port}", caplog)
        told.hello = replace(HELLO, features=FEATURES)
        server.tell(LiveListChanged(1, AT.id, (AT,)))
        async with running(told.client):
            await until(lambda: bool(told.welcomes))
            assert told.listed == [Schedulers(1, AT.id, (AT,))]
            assert told.heard_of == []
            server.tell(LiveListChanged(2, AT.id, (AT, replace(AT, id="00000000000000bb"))))
            await until(lambda: len(told.heard_of) == 1)


@asynchronous
async def test_a_client_that_is_closed_says_goodbye_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    core = Scheduler()
    async with SchedulerServer(core).serving("127.0.0.1", 0) as port, BackgroundTasks() as tasks:
        told = Told(f"http://127.0.0.1:{port}", caplog)
        tasks.start(told.client.run())
        await until(lambda: bool(told.welcomes))
        told.client.close()
        await until(lambda: core.statistics().hosts == 0)
        never = Told(f"http://127.0.0.1:{port}", caplog)
        never.client.close()
        await never.client.run()


@asynchronous
async def test_a_host_that_has_another_id_says_so_at_once(caplog: pytest.LogCaptureFixture) -> None:
    core = Scheduler()
    async with SchedulerServer(core).serving("127.0.0.1", 0) as port:
        told = Told(f"http://127.0.0.1:{port}", caplog)
        async with running(told.client):
            await until(lambda: bool(told.welcomes))
            told.hello = replace(HELLO, host="another")
            told.client.reopen()
            await until(lambda: [host.id for host in core.hosts(0.0)] == ["another"])
