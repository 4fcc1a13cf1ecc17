"""The description of the API of preheats: OpenAPI 3.1. docs/preheat-api.json is made from it."""

from __future__ import annotations

from importlib import metadata
from typing import Any, Final

from scheduler.core.preheat_hosts import FORMS
from scheduler.core.preheat_job import JobState, TargetState

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_BYTES: Final[Schema] = {"type": "integer", "minimum": 0}
_TIME: Final[Schema] = {"type": "string", "format": "date-time"}
_COUNTS: Final[Schema] = {state.name.lower(): _BYTES for state in TargetState}


def document() -> Schema:
    """The whole description, as JSON."""
    jobs, one = "/api/v1/preheats", "/api/v1/preheats/{id}"
    name = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[a-z0-9]{1,32}$"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "p2pd preheats",
            "version": metadata.version("p2pd"),
            "description": "Images are fetched to hosts before their clients ask for them.",
        },
        "security": [{"bearer": []}],
        "paths": {
            jobs: {
                "post": {
                    "operationId": "create",
                    "summary": "Begin a preheat",
                    "parameters": [
                        {
                            "name": "Idempotency-Key",
                            "in": "header",
                            "description": "The preheat of a key that comes again is the answer: 200, not 201.",
                            "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
                        }
                    ],
                    "requestBody": {"required": True, "content": _json(_ref("Request"))},
                    "responses": {
                        "200": _answer("The preheat of this key", _ref("Preheat")),
                        "201": _answer("It begins", _ref("Preheat"), location=True),
                        **_refusals(422, 429, 503),
                    },
                },
                "get": {
                    "operationId": "list",
                    "summary": "The newest preheats first",
                    "parameters": [
                        {
                            "name": "limit",
                            "in": "query",
                            "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
                        }
                    ],
                    "responses": {
                        "200": _answer("The preheats", {"type": "array", "items": _ref("Facts")}),
                        **_refusals(422, 503),
                    },
                },
            },
            one: {"get": _of_one("show", "A preheat, with a result for each host", name)},
            f"{one}/cancel": {"post": _of_one("cancel", "End a preheat", name)},
            f"{one}/retry": {"post": _of_one("retry", "Tell the hosts again that failed or were away", name)},
        },
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The first line of admin-secret, on the scheduler's machine; or the token of"
                    " `p2pd preheat --token`",
                }
            },
            "schemas": {"Request": _REQUEST, "Facts": _object(_FACTS), "Preheat": _PREHEAT, "Error": _ERROR},
        },
    }


def _of_one(operation: str, summary: str, name: Schema) -> Schema:
    return {
        "operationId": operation,
        "summary": summary,
        "parameters": [name],
        "responses": {"200": _answer("The preheat", _ref("Preheat")), **_refusals(404, 422, 503)},
    }


def _refusals(*statuses: int) -> Schema:
    told = {
        403: "The secret, or the token, is missing or wrong",
        404: "There is no such preheat",
        422: "The request is wrong: `problems` has a line for each member that is",
        429: "Too many preheats are not over",
        503: "The scheduler cannot keep preheats now",
    }
    secret = {"anyOf": [_ref("Error"), {"type": "array", "maxItems": 0}]}  # a script that looks at no status sees none
    found = {str(status): _answer(told[status], _ref("Error")) for status in statuses}
    return {"403": _answer(told[403], secret), **found}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _answer(description: str, schema: Schema, *, location: bool = False) -> Schema:
    headers = {"headers": {"Location": {"schema": _TEXT}}} if location else {}
    return {"description": description, "content": _json(schema), **headers}


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Schema, **more: object) -> Schema:
    return {"type": "array", "items": items, **more}


_REQUEST: Final[Schema] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["images"],
    "properties": {
        "images": _list(
            {"type": "string", "description": "As docker's: alpine, ghcr.io/team/app:v1, …@sha256:…"},
            minItems=1,
            maxItems=64,
        ),
        "to": {
            "description": f"Which hosts: {FORMS}",
            "anyOf": [_TEXT, _list(_TEXT, minItems=1, maxItems=20_000)],
            "default": "all",
        },
        "platforms": {
            "description": "As linux/arm64, or all; without it each host takes its own",
            "anyOf": [_TEXT, _list(_TEXT, minItems=1, maxItems=16)],
        },
        "rate": {
            "description": "What each host may take: 20mbit, or bytes per second as 2MB",
            "anyOf": [_TEXT, {"type": "integer", "minimum": 0}],
        },
        "ttl": {"description": "For how long it is kept", "anyOf": [_TEXT, {"type": "number"}], "default": "7d"},
        "within": {
            "description": "For how long hosts that are away are waited for",
            "anyOf": [_TEXT, {"type": "number"}],
            "default": "1h",
        },
        "at": {**_TIME, "description": "When it begins"},
        "window": {"type": "string", "description": "In these hours alone, by the scheduler's clock: 22:00-05:00"},
        "credentials": {
            "type": "object",
            "description": "A docker config.json. It is kept encrypted until the preheat is over.",
            "properties": {"auths": {"type": "object"}},
            "required": ["auths"],
        },
    },
}

_FACTS: Final[Schema] = {
    "id": _TEXT,
    "number": _BYTES,
    "state": {"enum": [state.name.lower() for state in JobState]},
    "reason": _TEXT,
    "images": _list(_TEXT),
    "to": _list(_TEXT),
    "platforms": _list(_TEXT),
    "rate_bytes_per_s": _BYTES,
    "ttl_s": {"type": "number"},
    "window": _TEXT,
    "source": _TEXT,
    "created": _TIME,
    "begins": _TIME,
    "ends": _TIME,
    "finished": {"anyOf": [_TIME, {"type": "null"}]},
    "pinned_until": {
        "description": "When the last host keeps it no longer; null if none is to keep it",
        "anyOf": [_TIME, {"type": "null"}],
    },
}

_PREHEAT: Final[Schema] = _object(
    {
        **_FACTS,
        "hosts": _object(_COUNTS),
        "sites": _list(_object({"site": _TEXT, **_COUNTS, "size_bytes": _BYTES, "fetched_bytes": _BYTES})),
        "results": _list(
            _object(
                {
                    "host": _TEXT,
                    "site": _TEXT,
                    "state": {"enum": [state.name.lower() for state in TargetState]},
                    "attempt": _BYTES,
                    "reason": _TEXT,
                    "size_bytes": _BYTES,
                    "fetched_bytes": _BYTES,
                    "unpinned_bytes": _BYTES,
                    "confirmed": {"type": "boolean"},
                }
            )
        ),
    }
)

_ERROR: Final[Schema] = {
    "type": "object",
    "properties": {"error": _TEXT, "problems": _list(_TEXT)},
    "required": ["error"],
}
