"""The part of the admin port that all daemons have: health, readiness, metrics, status, and the rules of the port.

1. A request that changes something needs the header `X-P2PD-Request`. A web page cannot make a browser send the header
   to another origin.
2. DNS rebinding makes a foreign page same-origin, so rule 1 does not stop it. On loopback, a request must therefore be
   addressed to an IP address or to one of our names (`proxy.host_guard`).
3. Errors are `{"error": "what happened and what to do"}`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from aiohttp import web

from peer.errors import BlobInUseError, InvalidNameError, P2pdError
from proxy.host_guard import guarded

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

NotReady = Callable[[], list[str]]
"""Says, for `/readyz`, what stands in the way."""

SHUTDOWN_S = 1.0
"""How long an answer may take to finish when the daemon stops."""


def admin_runner(
    *,
    addresses: Mapping[str, str],
    status: Callable[[], Mapping[str, Any]],
    scrape: Callable[[], bytes],
    not_ready: NotReady,
    names: frozenset[str] | None = None,
    degraded: NotReady = list,
    more: Sequence[web.RouteDef] = (),
) -> web.AppRunner:
    """The server of an admin port. `status` gives the daemon's own part of `/status`.

    `scrape` gives the metrics in Prometheus' text format. `addresses` are the daemon's addresses by settings key, and
    may be filled in later. `names` are the host names that requests may be addressed to; None: any. `degraded` says
    what is wrong with a daemon that serves all the same. `more` are further routes.
    """
    started = time.time()
    version = metadata.version("p2pd")

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"healthy": True})

    async def readyz(_: web.Request) -> web.Response:
        reasons = not_ready()
        answer = {"ready": not reasons, "reasons": reasons, "degraded": degraded()}
        return web.json_response(answer, status=503 if reasons else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=scrape(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def whole_status(_: web.Request) -> web.Response:
        common = {
            "version": version,
            "uptime_s": round(time.time() - started, 1),
            "ready": not not_ready(),
            "degraded": degraded(),
            **addresses,
        }
        return web.json_response({**common, **status()})

    @web.middleware
    async def only_for_us(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await guarded(request, handler, names, _refuse)

    app = web.Application(middlewares=[_errors_as_json, only_for_us, _no_cross_origin_changes])
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
            web.get("/status", whole_status),
            *more,
        ]
    )
    return web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)


def _refuse(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)


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
        return web.json_response({"error": f"{error.status} {error.reason}: see /status"}, status=error.status)


@web.middleware
async def _no_cross_origin_changes(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.method not in ("GET", "HEAD") and "X-P2PD-Request" not in request.headers:
        return web.json_response({"error": "add the header X-P2PD-Request: 1"}, status=403)
    return await handler(request)
