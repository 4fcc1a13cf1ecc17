"""Connections to schedulers of a list that changes: in turn at each URL, and none is remembered that is over."""

from __future__ import annotations

import asyncio

from peer.net.scheduler_clients import SchedulerClients
from peer.tasks import BackgroundTasks
from scheduler.protocol.from_host import Hello
from tests.support.node import asynchronous, until
from tests.support.registry_server import PATIENCE_S

URL = "http://127.0.0.1:1"


def clients_of(background: BackgroundTasks) -> SchedulerClients:
    return SchedulerClients(
        lambda: Hello("a", 1, 1, "127.0.0.1:1"),
        lambda _: None,
        background,
        on_welcome=lambda *_: None,
        on_lost=lambda _: None,
        on_cloned=lambda: None,
    )


@asynchronous
async def test_a_list_that_changes_leaves_nothing_behind() -> None:
    async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background:
        clients = clients_of(background)
        for number in range(20):
            clients.keep([f"{URL}/{number}"])
            await asyncio.sleep(0)
        clients.keep([])
        await until(lambda: not clients._closing)


@asynchronous
async def test_a_url_that_comes_and_goes_has_one_connection_at_a_time() -> None:
    async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background:
        clients, made = clients_of(background), []
        for _ in range(3):
            clients.keep([URL])
            made.append(clients._clients[URL])
            if len(made) == 1:
                await asyncio.sleep(0)  # the first has begun
            clients.keep([])
        assert [each.ended.is_set() for each in made] == [False] * 3
        for number, each in enumerate(made):
            await each.ended.wait()
            assert all(before.ended.is_set() for before in made[:number])
