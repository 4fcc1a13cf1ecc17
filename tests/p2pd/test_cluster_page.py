"""The cluster on a scheduler's admin port: the page's files, the overview, and its changes as events."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import aiohttp
import pytest

from p2pd import page
from p2pd.admin.cluster import MAX_LISTENERS, PATHS
from scheduler.core.overview import Others
from scheduler.core.scheduler import Scheduler
from tests.support.cluster_page import Fixed, Served, served
from tests.support.crowd import BLOB, Crowd
from tests.support.node import asynchronous, until


class Events:
    """The events of a listener, one after the other."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def next(self) -> tuple[str, Any]:
        """The next event, with its data."""
        kind = ""
        while True:
            line = (await self.answer.content.readline()).decode().rstrip("\n")
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                return kind, json.loads(line.removeprefix("data: "))
            assert self.answer.content.at_eof() is False or line, "no more events"

    async def begin(self) -> Any:
        """The whole, which comes first."""
        assert (await self.next())[0] == "clock"
        kind, whole = await self.next()
        assert kind == "whole"
        return whole


@asynccontextmanager
async def listening(here: Served, **headers: str) -> AsyncIterator[Events]:
    async with here.session.get("/cluster/events", headers=headers) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        yield Events(answer)


def small_crowd() -> Crowd:
    crowd = Crowd()
    crowd.connect(6, sites=2)
    crowd.join(range(6))
    return crowd


class TestPage:
    @asynchronous
    async def test_a_browser_may_do_nothing_but_ask_this_server(self) -> None:
        async with served(Scheduler()) as here:
            for path, media in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
                status, body, headers = await here.get(path)
                fields = cast("dict[str, str]", headers)
                assert (status, fields["Content-Type"]) == (200, f"{media}; charset=utf-8")
                policy = fields["Content-Security-Policy"]
                assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';")
                assert "unsafe" not in policy
                assert fields["X-Content-Type-Options"] == "nosniff"
                text = body.decode()
                assert not re.search(r"https?://(?!www\.w3\.org/)|<script>|<style| style=| on[a-z]+=|innerHTML", text)

    @asynchronous
    async def test_it_is_open_as_the_status_is_and_needs_no_secret(self) -> None:
        async with served(small_crowd().scheduler) as here:
            for path in PATHS - {"/cluster/events"}:
                assert (await here.get(path))[0] == 200
            async with listening(here) as events:
                await events.begin()

    @asynchronous
    async def test_a_page_whose_name_was_bound_to_this_machine_reads_nothing(self) -> None:
        async with served(small_crowd().scheduler, names=frozenset({"127.0.0.1"})) as here:
            for path in PATHS:
                assert (await here.get(path, Host="evil.example"))[0] == 421

    @asynchronous
    async def test_other_pages_take_no_listeners_place(self) -> None:
        core = Fixed(Scheduler().overview(0.0))
        async with served(core.as_scheduler()) as here:
            for site in ("cross-site", "same-site"):
                for path in PATHS - page.FILES.keys():
                    assert (await here.get(path, **{"Sec-Fetch-Site": site}))[0] == 403
            assert core.asked == 0
            async with listening(here, **{"Sec-Fetch-Site": "same-origin"}) as events:
                await events.begin()

    @asynchronous
    async def test_no_digest_is_told_whole(self) -> None:
        async with served(small_crowd().scheduler) as here:
            whole = (await here.get("/cluster"))[1].decode()
            assert BLOB.hex()[:12] in whole
            assert BLOB.hex()[:13] not in whole


class TestHosts:
    @asynchronous
    async def test_those_of_other_schedulers_are_told_too(self) -> None:
        crowd = Crowd()
        crowd.connect(2, sites=1)
        async with served(crowd.scheduler) as here:
            (one, two) = crowd.scheduler.hosts(0.0)

            async def others() -> Others:
                return Others({one.id: one._replace(swarms=5), "elsewhere": two._replace(id="elsewhere")}, live=1)

            here.cluster.others = others
            found = {each["id"]: each["swarms"] for each in await here.json("/hosts")}
            assert found == {one.id: one.swarms + 5, two.id: two.swarms, "elsewhere": two.swarms}
            shown = await here.json("/cluster/hosts")
            assert (shown["count"], [each["id"] for each in shown["hosts"]]) == (3, ["elsewhere", one.id, two.id])
            assert [each["swarms"] for each in shown["hosts"]] == [two.swarms, one.swarms + 5, two.swarms]
            assert (await here.json("/cluster/hosts?text=elsew"))["count"] == 1

    @asynchronous
    async def test_the_hosts_of_a_place_a_hundred_at_a_time(self) -> None:
        crowd = Crowd()
        crowd.connect(250, sites=2)
        async with served(crowd.scheduler) as here:
            first = await here.json("/cluster/hosts?site=site-1&zone=zone-0")
            assert (first["count"], len(first["hosts"])) == (125, 100)
            rest = await here.json("/cluster/hosts?site=site-1&zone=zone-0&first=100")
            assert len({each["id"] for each in first["hosts"] + rest["hosts"]}) == 125
            assert (await here.json("/cluster/hosts?text=host-77"))["count"] == 1

    @pytest.mark.parametrize("query", ["first=-1", "first=x", "first=9999999999999", "first=%C2%B2", "site=%00"])
    @asynchronous
    async def test_odd_queries(self, query: str) -> None:
        async with served(small_crowd().scheduler) as here:
            assert (await here.get(f"/cluster/hosts?{query}"))[0] == (422 if query.startswith("first") else 200)


class TestEvents:
    @asynchronous
    async def test_the_whole_first_and_then_what_has_changed(self) -> None:
        crowd = small_crowd()
        async with served(crowd.scheduler) as here, listening(here) as events:
            whole = await events.begin()
            assert whole["cluster"]["hosts"] == 6
            assert {row["hosts"] for row in whole["places"].values()} == {3}
            crowd.leave(5)
            kind, changes = await events.next()
            assert (kind, changes["cluster"]["hosts"]) == ("change", 5)
            assert list(changes["places"]) == ["site-1\nzone-0"], "the other place is as it was"
            crowd.fetch(1)
            changed: dict[str, Any] = {}
            while not changed.get("pulls", {}).get("1", {}).get("origin_bytes"):
                changed = (await events.next())[1]
            for host in range(5):
                crowd.finish([host])
            while not any(row is None for row in changed.get("blobs", {}).values()):
                changed = (await events.next())[1]
            assert whole["blobs"].keys() == changed["blobs"].keys(), "the blob is gone from the list"

    @asynchronous
    async def test_nothing_is_made_while_nobody_listens_and_nothing_sent_while_nothing_changes(self) -> None:
        core = Fixed(Scheduler().overview(0.0))
        async with served(core.as_scheduler()) as here:
            await until(lambda: core.asked == 0)
            async with listening(here) as events:
                await events.begin()
                await until(lambda: core.asked > 3)
                core.found = replace(core.found, hosts=7)
                assert (await events.next())[1]["cluster"]["hosts"] == 7
            await until(lambda: here.cluster.listeners == 0)

    @asynchronous
    async def test_what_takes_long_to_make_is_made_less_often_however_many_ask(self) -> None:
        core = Fixed(Scheduler().overview(0.0))
        core.takes_s = 0.1
        async with served(core.as_scheduler()) as here:
            began = asyncio.get_running_loop().time()
            for _ in range(20):
                assert (await here.get("/cluster"))[0] == 200
            took_s = asyncio.get_running_loop().time() - began
            assert core.asked <= 3 + took_s / 2, "each is fresh for 2 s"

    @asynchronous
    async def test_all_listeners_share_one_encoding_and_are_bounded(self) -> None:
        core = Fixed(Scheduler().overview(0.0))
        async with served(core.as_scheduler()) as here:
            sockets = [listening(here) for _ in range(MAX_LISTENERS)]
            here.session.connector._limit = 0  # type: ignore[union-attr]
            events = [await each.__aenter__() for each in sockets]
            wholes = [await each.begin() for each in events]
            assert all(whole == wholes[0] for whole in wholes)
            status, _, headers = await here.get("/cluster/events")
            assert (status, cast("dict[str, str]", headers)["Retry-After"]) == (503, "10")
            before = core.asked
            core.found = replace(core.found, hosts=9)
            changes = [(await each.next())[1] for each in events]
            assert all(change["cluster"]["hosts"] == 9 for change in changes)
            assert core.asked - before < MAX_LISTENERS
            await sockets[0].__aexit__(None, None, None)
            await until(lambda: here.cluster.listeners < MAX_LISTENERS)
            async with listening(here) as another:
                await another.begin()
            for each in sockets[1:]:
                await each.__aexit__(None, None, None)

    @asynchronous
    async def test_who_reads_nothing_is_dropped_and_who_reads_slowly_gets_the_whole(self) -> None:
        core = Fixed(Scheduler().overview(0.0))
        version = "v" * 500_000
        async with served(core.as_scheduler(), stall_s=0.5) as here:
            with socket.create_connection(here.address.split(":")) as deaf:  # type: ignore[arg-type]
                deaf.sendall(b"GET /cluster/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                await until(lambda: here.cluster.listeners == 1)
                async with listening(here) as events:
                    await events.begin()
                    number = 0
                    while here.cluster.listeners == 2:
                        number += 1
                        core.found = replace(core.found, hosts=number, versions=((version, number),))
                        kind, told = await events.next()
                        assert kind in ("change", "whole")
                        assert told["cluster"]["versions"][0][0] == version
                    assert here.cluster.listeners == 1

    @asynchronous
    async def test_they_end_when_the_daemon_does(self) -> None:
        async with served(small_crowd().scheduler) as here, listening(here) as events:
            await events.begin()
            here.cluster.close()
            while await events.answer.content.readline():
                pass
