"""The pages of an admin port by which a daemon is asked for its settings, and to read them again."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from aiohttp import web

from p2pd.config.changes import Reloaded


class Control(Protocol):
    """What may be asked of a daemon: see `p2pd.daemon.control`."""

    def in_force(self) -> list[dict[str, str | None]]: ...

    async def reload(self) -> Reloaded:
        """Raises ConfigError."""
        ...


def control_routes(control: Control) -> list[web.RouteDef]:
    """These pages need the daemon's secret. 422: the settings are wrong, and nothing has changed."""

    async def config(_: web.Request) -> web.Response:
        return web.json_response(control.in_force())

    async def reload(_: web.Request) -> web.Response:
        return web.json_response(dataclasses.asdict(await control.reload()))

    return [web.get("/config", config), web.post("/reload", reload)]
