"""The page of an admin port that describes all its others."""

from __future__ import annotations

from typing import Final

from aiohttp import web

PATH: Final = "/api/v1/openapi.json"


def openapi_routes() -> list[web.RouteDef]:
    """The route, which needs the daemon's secret, or the token of preheats."""
    return [web.get(PATH, _describe)]


async def _describe(request: web.Request) -> web.Response:
    from p2pd.openapi.document import document  # hardly ever asked for, and it imports much

    return web.json_response(document(request.app.router.routes()))
