"""The part of the admin port that all daemons have: health, readiness, metrics, status, and the rules of the port.

1. Health, readiness, metrics, status and a scheduler's page are open to whoever reaches the port. Everything else
   needs the daemon's secret (`p2pd.admin.secret`): what changes something, and lists of what is held. A digest that is
   held is as good as the content where another door is open. Such calls are answered on this machine alone, whatever
   the port listens on: the port has no TLS, and the secret would cross the network in the clear.
2. DNS rebinding makes a foreign page same-origin. On loopback, a request must therefore be addressed to an IP address
   or to one of our names (`proxy.host_guard`).
3. Errors are `{"error": "what happened and what to do"}`. Without the secret a list is empty: a script that does not
   look at the status sees nothing.
4. The metrics may have a port of their own, which does nothing else (`metrics_runner`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

from aiohttp import web

from p2pd.admin.secret import is_on_this_machine, shows
from p2pd.config.values import ConfigError
from peer.errors import BlobInUseError, InvalidNameError, P2pdError
from proxy.host_guard import guarded

if TYPE_CHECKING:
    from p2pd.admin.cluster import Cluster  # loads the scheduler

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

NotReady = Callable[[], list[str]]
"""Says, for `/readyz`, what stands in the way."""

Admits = Callable[[web.Request], bool]
"""Whether a request has shown what lets it pass without the daemon's secret."""

_OPEN = frozenset({"/healthz", "/readyz", "/metrics", "/status"})
_ELSEWHERE = "this is answered on the daemon's own machine alone: run the command there, by SSH or in the container"
_HOW = "`Authorization: Bearer` with the first line of the file admin-secret in the daemon's directory"

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
    cluster: Cluster | None = None,
    secret: str | None = None,
    admits: Admits = lambda _: False,
) -> web.AppRunner:
    """The server of an admin port. `status` gives the daemon's own part of `/status`.

    `scrape` gives the metrics in Prometheus' text format. `addresses` are the daemon's addresses by settings key, and
    may be filled in later. `names` are the host names that requests may be addressed to; None: any. `degraded` says
    what is wrong with a daemon that serves all the same. `more` are further routes, which need the `secret`, unless
    `admits` lets a request pass without. `cluster` is that of a scheduler.
    """
    started = time.time()
    version = metadata.version("p2pd")
    open_paths = _OPEN if cluster is None else _OPEN | cluster.paths

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"healthy": True})

    async def readyz(_: web.Request) -> web.Response:
        reasons = not_ready()
        answer = {"ready": not reasons, "reasons": reasons, "degraded": degraded()}
        return web.json_response(answer, status=503 if reasons else 200)

    async def whole_status(_: web.Request) -> web.Response:
        common = {
            "version": version,
            "uptime_s": round(time.time() - started, 1),
            "ready": not not_ready(),
            "reasons": not_ready(),
            "degraded": degraded(),
            **addresses,
        }
        return web.json_response({**common, **status()})

    @web.middleware
    async def only_for_us(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await guarded(request, handler, names, _refuse)

    @web.middleware
    async def with_secret(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_open = (
            request.path in open_paths or request.match_info.http_exception is not None
        )  # no such page: that is no secret
        if secret is None or is_open or admits(request):
            return await handler(request)
        if not _is_local(request.transport):
            return web.json_response({"error": _ELSEWHERE}, status=403)
        if shows(request.headers.get("Authorization", ""), secret):
            return await handler(request)
        refused: object = [] if request.method == "GET" else {"error": f"show the daemon's secret: {_HOW}"}
        return web.json_response(refused, status=403)

    app = web.Application(middlewares=[_errors_as_json, only_for_us, with_secret])

    app.add_routes(
        [
            *([] if cluster is None else cluster.routes()),
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", partial(_metrics, scrape)),
            web.get("/status", whole_status),
            *more,
        ]
    )
    return web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)


def metrics_runner(scrape: Callable[[], bytes]) -> web.AppRunner:
    """The server of a port that has the metrics, and nothing else."""
    app = web.Application(middlewares=[_errors_as_json])
    app.add_routes([web.get("/metrics", partial(_metrics, scrape))])
    return web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)


async def _metrics(scrape: Callable[[], bytes], _: web.Request) -> web.Response:
    return web.Response(body=scrape(), headers={"Content-Type": "text/plain; version=0.0.4"})


def _is_local(transport: asyncio.Transport | None) -> bool:
    """Whether a request comes from this machine."""
    if transport is None:
        return False
    peer, here = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    return bool(peer and here) and is_on_this_machine(peer[0], here[0])


def _refuse(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ConfigError as error:
        return web.json_response({"error": str(error)}, status=422)
    except BlobInUseError as error:
        return web.json_response({"error": str(error)}, status=409)
    except InvalidNameError as error:
        return web.json_response({"error": str(error)}, status=400)
    except P2pdError as error:
        return web.json_response({"error": str(error)}, status=500)
    except web.HTTPException as error:
        told = {"error": f"{error.status} {error.reason}: see /api/v1/openapi.json"}
        allowed = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
        return web.json_response(told, status=error.status, headers=allowed)
