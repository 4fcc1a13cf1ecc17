"""The pages of an admin port by which a daemon is asked for its settings, to read them again, and to drain."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from aiohttp import web

from p2pd.config.changes import Reloaded
from p2pd.config.values import parse_duration


class Control(Protocol):
    """What may be asked of a daemon: see `p2pd.daemon.control`."""

    def in_force(self) -> list[dict[str, str | None]]: ...

    async def reload(self) -> Reloaded:
        """Raises ConfigError."""
        ...

    async def drain(self, timeout_s: float) -> bool: ...


def control_routes(control: Control) -> list[web.RouteDef]:
    """These pages need the daemon's secret. 422: the settings are wrong, and nothing has changed."""

    async def config(_: web.Request) -> web.Response:
        return web.json_response(control.in_force())

    async def reload(_: web.Request) -> web.Response:
        return web.json_response(dataclasses.asdict(await control.reload()))

    async def drain(request: web.Request) -> web.Response:
        timeout_s = parse_duration(request.query.get("timeout", ""))
        return web.json_response({"finished": await control.drain(timeout_s)})

    return [web.get("/config", config), web.post("/reload", reload), web.post("/drain", drain)]
