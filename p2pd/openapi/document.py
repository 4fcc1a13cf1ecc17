"""The description of an admin port: of all routes that it has. They are a node's, a scheduler's, or both."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from typing import Final

from aiohttp import web

from p2pd import page
from p2pd.openapi import cluster, daemon, preheats
from p2pd.openapi.schemas import ERROR, Schema

OPERATIONS: Final[dict[tuple[str, str], Schema]] = {
    **daemon.OPERATIONS,
    **cluster.OPERATIONS,
    **preheats.OPERATIONS,
}
"""Of all daemons, by method and path."""

_SCHEMAS: Final[Schema] = {**daemon.SCHEMAS, **cluster.SCHEMAS, **preheats.SCHEMAS, "Error": ERROR}

_TEXT: Final = (
    "The admin port of a p2pd daemon. What is open needs no secret. All else is answered on the daemon's own machine to"
    " whoever shows its secret, and what is about preheats also elsewhere, to whoever shows their token. A request to"
    " another host than the port's is answered with 421."
)


def document(routes: Iterable[web.AbstractRoute]) -> Schema:
    """The OpenAPI document of these routes, without the files of the page. Raises KeyError for one that has no text."""
    paths: dict[str, Schema] = {}
    for route in routes:
        path = "" if route.resource is None else route.resource.canonical
        if path not in page.FILES and route.method != "HEAD":
            paths.setdefault(path, {})[route.method.lower()] = OPERATIONS[route.method, path]
    return {
        "openapi": "3.1.0",
        "info": {"title": "p2pd", "version": metadata.version("p2pd"), "description": _TEXT},
        "security": [{"bearer": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The first line of admin-secret in the daemon's directory; for what is about"
                    " preheats also the token of `p2pd preheat --token`",
                }
            },
            "schemas": _used(paths),
        },
    }


def _used(paths: Schema) -> Schema:
    """The schemas that are named in the paths, or in one another."""
    found: Schema = {}
    left = [paths]
    while left:
        text = str(left.pop())
        for name, schema in _SCHEMAS.items():
            if name not in found and f"#/components/schemas/{name}'" in text:
                found[name] = schema
                left.append(schema)
    return dict(sorted(found.items()))
