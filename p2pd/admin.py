"""The admin port: health, metrics, status, and the cache commands.

What changes something needs the header `X-P2PD-Request`, which a web page cannot have a browser send to another origin.
Errors are `{"error": "what happened and what to do"}`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib import metadata
from typing import Any

from aiohttp import web

from p2pd.telemetry import Telemetry
from peer.core.names import parse_digest
from peer.downloads import Downloads
from peer.errors import BlobInUseError, InvalidNameError, P2pdError
from proxy.origins import Origins

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin:
    """The routes of the admin port. `not_ready` says why the daemon is not ready; nothing: it is."""

    def __init__(
        self,
        origins: Origins,
        downloads: Downloads,
        telemetry: Telemetry,
        *,
        addresses: Mapping[str, str],
        not_ready: Callable[[], list[str]],
    ) -> None:
        self._origins = origins
        self._downloads = downloads
        self._store = downloads.store
        self._telemetry = telemetry
        self._addresses = addresses
        self._not_ready = not_ready
        self._started = time.time()

    def application(self) -> web.Application:
        app = web.Application(middlewares=[_errors_as_json, _no_cross_origin_changes])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/status", self._status),
                web.get("/cache", self._blobs),
                web.delete("/cache/{digest}", self._remove),
                web.post("/cache/gc", self._collect),
                web.post("/cache/verify", self._verify),
            ]
        )
        return app

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"healthy": True})

    async def _readyz(self, _: web.Request) -> web.Response:
        reasons = self._not_ready()
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._telemetry.scrape(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _status(self, _: web.Request) -> web.Response:
        now = time.time()
        store, downloads = self._store.statistics(), self._downloads.statistics()
        return web.json_response(
            {
                "version": metadata.version("p2pd"),
                "uptime_s": round(now - self._started, 1),
                "ready": not self._not_ready(),
                **self._addresses,
                "data": str(self._store.directory),
                "upstreams": list(self._origins.upstreams),
                "cache": dataclasses.asdict(store),
                "downloads": dataclasses.asdict(downloads),
                "clients": {name: round(now - seen, 1) for name, seen in self._telemetry.last_seen.items()},
            }
        )

    async def _blobs(self, _: web.Request) -> web.Response:
        return web.json_response([dataclasses.asdict(blob) for blob in self._store.blobs()])

    async def _remove(self, request: web.Request) -> web.Response:
        digest = parse_digest(request.match_info["digest"])
        if not self._store.remove(digest):
            return web.json_response({"error": f"{digest} is not in the cache"}, status=404)
        return web.json_response({"removed": digest})

    async def _collect(self, _: web.Request) -> web.Response:
        removed = await _in_thread(partial(self._store.collect, time.time()))
        return web.json_response(
            {"removed": [blob.digest for blob in removed], "freed_bytes": sum(blob.size_bytes for blob in removed)}
        )

    async def _verify(self, _: web.Request) -> web.Response:
        report = await _in_thread(self._store.verify)
        return web.json_response({"checked": report.checked, "bad": report.bad})


async def _in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, work)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BlobInUseError as error:
        return web.json_response({"error": str(error)}, status=409)
    except InvalidNameError as error:
        return web.json_response({"error": str(error)}, status=400)
    except P2pdError as error:
        return web.json_response({"error": str(error)}, status=500)
    except web.HTTPException as error:
        return web.json_response(
            {"error": f"{error.status} {error.reason}: see /status and /cache"}, status=error.status
        )


@web.middleware
async def _no_cross_origin_changes(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.method not in ("GET", "HEAD") and "X-P2PD-Request" not in request.headers:
        return web.json_response({"error": "add the header X-P2PD-Request: 1"}, status=403)
    return await handler(request)
