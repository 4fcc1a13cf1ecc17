"""The cluster as the admin port of a scheduler shows it: a page, what it shows as JSON, and its changes as events.

Rules:
1. The overview (`scheduler.core.overview`) is made at most once in PERIOD_S, only while somebody listens or asks, and
   is encoded once for all listeners. Making it takes at most SHARE of the scheduler's time: a larger cluster is looked
   at less often. The same holds for what other schedulers know (`Others`), where there are several.
2. A listener has no queue. One that has missed a change, because it reads slowly, gets the whole instead. One that
   takes nothing for STALL_S is dropped. There are at most MAX_LISTENERS.
3. A change has the rows that have changed, by key, and the keys of those that are gone.
4. Other web pages cannot read this, and are refused before it costs anything.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import partial
from importlib import metadata
from typing import Any, Final

from aiohttp import web

from p2pd import page
from scheduler.core.overview import ALONE, Others, Overview
from scheduler.core.roster import HostFacts, merged
from scheduler.core.scheduler import Scheduler

PERIOD_S: Final = 1.0
SHARE: Final = 0.05
"""Of the time of the scheduler's one thread."""

OTHERS_EVERY_S: Final = 2.0
"""What the other schedulers know is asked for that often; they tell it every 5 s."""

MAX_LISTENERS: Final = 32
STALL_S: Final = 10.0
ALIVE_S: Final = 15.0
"""A comment is sent this often where nothing changes: so a browser or a proxy knows that the connection lives."""

EXPIRY_EVERY_S: Final = 60.0
HOSTS_AT_ONCE: Final = 100
"""The hosts in one answer to `/cluster/hosts`."""

CLOCK_SET_S: Final = 2.0
"""If the machine's clock differs by more than that from what it was, somebody has set it."""

MAX_TEXT: Final = 128

Section = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Expiring = Callable[[], frozenset[str]]

PATHS: Final = frozenset({*page.FILES, "/cluster", "/cluster/events", "/cluster/hosts", "/hosts"})
"""What is answered here."""

_KEYS: Final[Mapping[str, Callable[[Any], str]]] = {
    "places": lambda row: f"{row.site}\n{row.zone}",
    "pulls": lambda row: str(row.number),
    "blobs": lambda row: row.blob,
    "troubles": lambda row: row.id,
}
"""The lists of the overview, and what their rows are known by."""


class Cluster:
    """Serves the cluster of one scheduler. `expiring` gives the hosts whose certificates end soon; it may block."""

    paths: Final = PATHS

    def __init__(
        self,
        core: Scheduler,
        expiring: Expiring = frozenset,
        *,
        period_s: float = PERIOD_S,
        stall_s: float = STALL_S,
        others_s: float = OTHERS_EVERY_S,
    ) -> None:
        self._core: Final = core
        self._expiring: Final = expiring
        self._period_s: Final = period_s
        self._stall_s: Final = stall_s
        self._others_s: Final = others_s
        self._listeners = 0
        self._sections: dict[str, Section] = {}
        self._epoch = 0.0
        """The Unix time at which the scheduler's clock was 0: the same all the time, so that times do not change."""
        self._made_at = -1e9
        self._took_s = 0.0
        self._number = 0
        """Of the latest change."""
        self._change = b""
        self._whole: bytes | None = None
        """The whole as an event, once somebody has asked for it since the latest change."""
        self._changed = asyncio.Event()
        self._ending: frozenset[str] = frozenset()
        self._ending_at = -1e9
        self._closing = False
        self.others: Callable[[], Awaitable[Others]] = _alone
        """Asks what the other schedulers know, where there are several."""
        self._others = ALONE
        """What they knew at `_asked_at`, which took this process `_asking_s`."""
        self._asked_at = -1e9
        self._asking_s = 0.0
        self._asking_others = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """The routes of all PATHS."""
        served = [web.get(path, partial(_file, name, media)) for path, (name, media) in page.FILES.items()]
        return [
            *served,
            web.get("/cluster", partial(_for_own_pages, self._snapshot)),
            web.get("/cluster/events", partial(_for_own_pages, self._events)),
            web.get("/cluster/hosts", partial(_for_own_pages, self._hosts)),
            web.get("/hosts", partial(_for_own_pages, self._show_hosts)),
        ]

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return self._listeners

    async def all_hosts(self) -> list[HostFacts]:
        """The connected hosts, of all schedulers."""
        there = (await self.others()).hosts
        return merged([self._core.hosts(asyncio.get_running_loop().time()), there.values()])

    def close(self) -> None:
        """Let all listeners go."""
        self._closing = True
        self._tell()

    # -- making --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at the cluster while somebody listens, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._fresh_s)
            if self._listeners:
                await self._ask_others()
                self._look(loop.time())
                await self._look_at_certificates(loop)

    def _look(self, now: float) -> None:
        """Make the overview, and tell the listeners what has changed."""
        began = time.thread_time()
        if abs(time.time() - now - self._epoch) > CLOCK_SET_S:
            self._epoch = time.time() - now
        found = self._core.overview(now, self._ending, self._others)
        sections = sections_of(found, self._core.quarantined(now), self._epoch)
        change = change_of(self._sections, sections)
        self._sections, self._made_at = sections, now
        if change:
            self._number += 1
            self._change = _event("change", self._number, change)
            self._whole = None
            self._tell()
        self._took_s = time.thread_time() - began

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def _fresh_s(self) -> float:
        """How long what was made is fresh."""
        return max(self._period_s, self._took_s / SHARE)

    def _fresh(self) -> dict[str, Section]:
        now = asyncio.get_running_loop().time()
        if now - self._made_at >= self._fresh_s:
            self._look(now)
        return self._sections

    async def _ask_others(self) -> None:
        """Ask what the other schedulers know, if it was asked long enough ago."""
        loop = asyncio.get_running_loop()
        async with self._asking_others:
            if loop.time() - self._asked_at < max(self._others_s, self._asking_s / SHARE):
                return
            began = time.process_time()
            self._others = await self.others()
            self._asked_at, self._asking_s = loop.time(), time.process_time() - began

    async def _look_at_certificates(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop.time() - self._ending_at >= EXPIRY_EVERY_S:
            self._ending_at = loop.time()
            self._ending = await loop.run_in_executor(None, self._expiring)

    # -- answers -------------------------------------------------------------------------------------------------------

    async def _snapshot(self, _: web.Request) -> web.Response:
        await self._look_at_certificates(asyncio.get_running_loop())
        await self._ask_others()
        return web.json_response(self._fresh(), headers=page.HEADERS)

    async def _hosts(self, request: web.Request) -> web.Response:
        await self._ask_others()
        query = request.query
        first = query.get("first", "0")
        if not re.fullmatch(r"[0-9]{1,8}", first, re.ASCII):
            return web.json_response({"error": "first: expected a number from 0 to 99999999"}, status=422)
        now = asyncio.get_running_loop().time()
        count, found = self._core.hosts_at(
            now,
            query.get("site"),
            query.get("zone"),
            query.get("text", "")[:MAX_TEXT],
            int(first),
            HOSTS_AT_ONCE,
            self._others,
        )
        return web.json_response({"count": count, "hosts": [each._asdict() for each in found]}, headers=page.HEADERS)

    async def _show_hosts(self, _: web.Request) -> web.Response:
        return web.json_response([each._asdict() for each in await self.all_hosts()])

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._listeners >= MAX_LISTENERS:
            error = {"error": f"{MAX_LISTENERS} listen already: close a page, or read /cluster"}
            return web.json_response(error, status=503, headers={"Retry-After": "10"})
        self._listeners += 1
        try:
            return await self._listen(request)
        finally:
            self._listeners -= 1

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no", **page.HEADERS}
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        with suppress(ConnectionError):  # the listener is gone
            await self._send_all(request, response)
        return response

    async def _send_all(self, request: web.Request, response: web.StreamResponse) -> None:
        """Send the whole, and changes until this closes. Raises ConnectionError if the listener is gone."""
        self._fresh()
        await self._send(request, response, _event("clock", self._number, {"time": round(time.time(), 1)}))
        await self._send(request, response, self._all())
        seen = self._number
        while not self._closing:
            if seen == self._number:
                with suppress(TimeoutError):
                    async with asyncio.timeout(ALIVE_S):
                        await self._changed.wait()
            if self._number == seen:
                await self._send(request, response, b": alive\n\n")
            else:
                event = self._change if self._number == seen + 1 else self._all()
                seen = self._number
                await self._send(request, response, event)

    def _all(self) -> bytes:
        if self._whole is None:
            self._whole = _event("whole", self._number, self._sections)
        return self._whole

    async def _send(self, request: web.Request, response: web.StreamResponse, data: bytes) -> None:
        """Raises ConnectionError if the listener is gone, or takes nothing."""
        try:
            async with asyncio.timeout(self._stall_s):
                await response.write(data)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the listener took nothing") from None


def sections_of(found: Overview, quarantined: list[Any], epoch: float) -> dict[str, Section]:
    """The overview as rows by key. `epoch` is the Unix time at which the scheduler's clock was 0."""
    rows: dict[str, Section] = {
        name: {key(row): _row(row) for row in getattr(found, name)} for name, key in _KEYS.items()
    }
    for pull in rows["pulls"].values():
        for name in ("began_at", "ended_at"):
            pull[name] = None if pull[name] is None else round(pull[name] + epoch)
    rows["quarantined"] = {
        f"{each.id}\n{each.came_from}": {
            "id": each.id,
            "came_from": each.came_from,
            "reason": each.reason,
            "until": round(each.until + epoch),
        }
        for each in quarantined
    }
    rows["cluster"] = {
        "hosts": found.hosts,
        "pulling": found.pulling,
        "rate_bytes_per_s": found.rate_bytes_per_s,
        "versions": [list(each) for each in found.versions],
        "blobs_in_all": found.blobs_in_all,
        "troubles_in_all": found.troubles_in_all,
        "pulls_since": round(found.pulls_since + epoch),
        "scheduler_version": metadata.version("p2pd"),
        "schedulers": found.schedulers,
        "untold": found.untold,
        "problem": found.problem,
    }
    return rows


def change_of(before: Mapping[str, Section], now: Mapping[str, Section]) -> dict[str, Section]:
    """What has changed: of each section the rows that are new or others, and None for those that are gone."""
    changes: dict[str, Section] = {}
    for name, rows in now.items():
        old = before.get(name, {})
        changed = {key: row for key, row in rows.items() if key not in old or old[key] != row}
        changed.update({key: None for key in old if key not in rows})
        if changed:
            changes[name] = changed
    return changes


def _row(found: Any) -> Section:
    """Without the copies that `asdict` makes: there may be a thousand rows."""
    return {each.name: getattr(found, each.name) for each in fields(found)}


def _event(kind: str, number: int, data: Mapping[str, Any]) -> bytes:
    """A server-sent event (HTML standard, 9.2.6). JSON has no line breaks."""
    text = json.dumps(data, separators=(",", ":"))
    return f"event: {kind}\nid: {number}\ndata: {text}\n\n".encode()


async def _alone() -> Others:
    return ALONE


async def _for_own_pages(handler: Handler, request: web.Request) -> web.StreamResponse:
    """Answer, unless it is another web page that asks. A browser tells; programs say nothing of the kind."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return web.json_response({"error": "this is not for other web pages"}, status=403)
    return await handler(request)


async def _file(name: str, media_type: str, _: web.Request) -> web.Response:
    return web.Response(body=page.read(name), content_type=media_type, charset="utf-8", headers=page.HEADERS)
