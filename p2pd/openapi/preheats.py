"""The description of what orders preheats: the API itself, the drivers of Harbor, and notifications of pushes."""

from __future__ import annotations

from typing import Final

from p2pd.openapi.schemas import (
    FLAG,
    NUMBER,
    TEXT,
    TIME,
    WHOLE,
    Schema,
    answer,
    in_path,
    list_of,
    open_object,
    operation,
    query,
    ref,
    refusals,
)
from p2pd.preheat.harbor import SCOPES
from scheduler.core.preheat_hosts import FORMS
from scheduler.core.preheat_job import JobState, TargetState

_COUNTS: Final[Schema] = {state.name.lower(): WHOLE for state in TargetState}

_REQUEST: Final[Schema] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["images"],
    "properties": {
        "images": list_of(
            {"type": "string", "description": "As docker's: alpine, ghcr.io/team/app:v1, …@sha256:…"},
            minItems=1,
            maxItems=64,
        ),
        "to": {
            "description": f"Which hosts: {FORMS}",
            "anyOf": [TEXT, list_of(TEXT, minItems=1, maxItems=20_000)],
            "default": "all",
        },
        "platforms": {
            "description": "As linux/arm64, or all; without it each host takes its own",
            "anyOf": [TEXT, list_of(TEXT, minItems=1, maxItems=16)],
        },
        "rate": {
            "description": "What each host may take: 20mbit, or bytes per second as 2MB",
            "anyOf": [TEXT, {"type": "integer", "minimum": 0}],
        },
        "ttl": {"description": "For how long it is kept", "anyOf": [TEXT, NUMBER], "default": "7d"},
        "within": {
            "description": "For how long hosts that are away are waited for",
            "anyOf": [TEXT, NUMBER],
            "default": "1h",
        },
        "at": {**TIME, "description": "When it begins"},
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
    "id": TEXT,
    "number": WHOLE,
    "state": {"enum": [state.name.lower() for state in JobState]},
    "reason": TEXT,
    "images": list_of(TEXT),
    "to": list_of(TEXT),
    "platforms": list_of(TEXT),
    "rate_bytes_per_s": WHOLE,
    "ttl_s": NUMBER,
    "window": TEXT,
    "source": TEXT,
    "created": TIME,
    "begins": TIME,
    "ends": TIME,
    "finished": {"anyOf": [TIME, {"type": "null"}]},
    "pinned_until": {
        "description": "When the last host keeps it no longer; null if none is to keep it",
        "anyOf": [TIME, {"type": "null"}],
    },
    "newcomers_until": {
        "description": "Until when hosts that join are told, too; null if they are not",
        "anyOf": [TIME, {"type": "null"}],
    },
}

_PREHEAT: Final[Schema] = open_object(
    {
        **_FACTS,
        "hosts": open_object(_COUNTS),
        "sites": list_of(open_object({"site": TEXT, **_COUNTS, "size_bytes": WHOLE, "fetched_bytes": WHOLE})),
        "results": list_of(
            open_object(
                {
                    "host": TEXT,
                    "site": TEXT,
                    "state": {"enum": [state.name.lower() for state in TargetState]},
                    "attempt": WHOLE,
                    "reason": TEXT,
                    "size_bytes": WHOLE,
                    "fetched_bytes": WHOLE,
                    "unpinned_bytes": WHOLE,
                    "confirmed": FLAG,
                }
            )
        ),
    }
)


SCHEMAS: Final[Schema] = {"Request": _REQUEST, "Facts": open_object(_FACTS), "Preheat": _PREHEAT}

WRONG: Final = "The request is wrong: `problems` has a line for each member that is"
TOO_MANY: Final = "Too many preheats are not over"
NOT_KEPT: Final = "The scheduler cannot keep preheats now"
NONE: Final = "There is no such preheat"

_ID: Final = in_path("id", {"type": "string", "pattern": "^[a-z0-9]{1,32}$"}, "Of a preheat")


def _of_one(name: str, summary: str) -> Schema:
    told = {200: "The preheat", 404: NONE, 422: WRONG, 503: NOT_KEPT}
    found = answer(told.pop(200), ref("Preheat"))
    return operation(name, summary, {"200": found, **refusals(told)}, parameters=[_ID])


_JOBS: Final = "/api/v1/preheats"

_OWN: Final[dict[tuple[str, str], Schema]] = {
    ("POST", _JOBS): operation(
        "create",
        "Begin a preheat",
        {
            "200": answer("The preheat of this key", ref("Preheat")),
            "201": answer("It begins", ref("Preheat"), location=True),
            **refusals({422: WRONG, 429: TOO_MANY, 503: NOT_KEPT}),
        },
        parameters=[
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The preheat of a key that comes again is the answer: 200, not 201.",
                "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
            }
        ],
        body=ref("Request"),
        example={"images": ["ghcr.io/team/app:v2"], "to": "30%"},
    ),
    ("GET", _JOBS): operation(
        "list",
        "The newest preheats first",
        {"200": answer("The preheats", list_of(ref("Facts"))), **refusals({422: WRONG, 503: NOT_KEPT})},
        parameters=[query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}, "How many")],
    ),
    ("GET", f"{_JOBS}/{{id}}"): _of_one("show", "A preheat, with a result for each host"),
    ("POST", f"{_JOBS}/{{id}}/cancel"): _of_one("cancel", "End a preheat, or have no more hosts join one that is over"),
    ("POST", f"{_JOBS}/{{id}}/retry"): _of_one("retry", "Tell the hosts again that failed or were away"),
}

# -- Harbor ----------------------------------------------------------------------------------------------------------

_HARBOR_ERROR: Final[Schema] = open_object({"errors": TEXT})
_HARBOR_REFUSALS: Final[Schema] = refusals({422: "The request is wrong", 429: TOO_MANY, 503: NOT_KEPT}, _HARBOR_ERROR)
_HARBOR_NONE: Final[Schema] = refusals({404: NONE, 503: NOT_KEPT}, _HARBOR_ERROR)

_IMAGE: Final[Schema] = {
    "type": {"const": "image"},
    "url": {"type": "string", "description": "Of a manifest: https://HOST/v2/REPOSITORY/manifests/TAG"},
    "headers": {
        "description": "Authorization, as Basic or Bearer, is what the registry is asked with",
        "anyOf": [{"type": "object"}, {"type": "null"}],
    },
}
_SCOPE: Final[Schema] = {"enum": [*SCOPES, None]}
_DRAGONFLY_REQUEST: Final[Schema] = open_object(
    {"type": {"const": "preheat"}, "args": open_object({**_IMAGE, "scope": _SCOPE}, may_lack=("headers", "scope"))}
)
_MANIFEST: Final = "https://harbor.example/v2/team/app/manifests/v2"
_EXAMPLE: Final = {"type": "image", "url": _MANIFEST, "headers": {"Authorization": "Bearer TOKEN"}}
_OLD_REQUEST: Final[Schema] = open_object(_IMAGE, may_lack=("headers",))
_TASK: Final[Schema] = {"url": TEXT, "hostname": TEXT, "ip": TEXT}
_RESULTS: Final[Schema] = open_object(
    {
        "success_tasks": list_of(open_object(_TASK)),
        "failure_tasks": list_of(open_object({**_TASK, "description": TEXT})),
        "scheduler_cluster_id": WHOLE,
    }
)
_DRAGONFLY_JOB: Final[Schema] = open_object(
    {
        "id": WHOLE,
        "created_at": TIME,
        "updated_at": TIME,
        "type": {"const": "preheat"},
        "state": {"enum": ["PENDING", "SUCCESS", "FAILURE"]},
        "result": open_object(
            {"job_states": list_of(open_object({"error": TEXT, "results": list_of(_RESULTS)}), maxItems=1)}
        ),
    }
)
_OLD_JOB: Final[Schema] = open_object(
    {
        "ID": TEXT,
        "startTime": TIME,
        "finishTime": {"anyOf": [TIME, {"const": ""}]},
        "errorMsg": TEXT,
        "Status": {"enum": ["WAITING", "RUNNING", "SUCCESS", "FAILED"]},
    }
)


def _ping(name: str) -> Schema:
    return operation(name, "Whether this answers", {"200": answer("It does", open_object({"healthy": FLAG}))})


_HARBOR: Final[dict[tuple[str, str], Schema]] = {
    ("GET", "/healthy"): _ping("dragonfly_health"),
    ("GET", "/_ping"): _ping("dragonfly_health_before_2_12"),
    ("GET", "/health"): _ping("kraken_health"),
    ("POST", "/oapi/v1/jobs"): operation(
        "dragonfly_create",
        "Begin a preheat, as Dragonfly does (Harbor 2.12 and later)",
        {"200": answer("It begins", _DRAGONFLY_JOB), **_HARBOR_REFUSALS},
        body=_DRAGONFLY_REQUEST,
        example={"type": "preheat", "args": {**_EXAMPLE, "scope": "all_peers"}},
    ),
    ("GET", "/oapi/v1/jobs/{id}"): operation(
        "dragonfly_show",
        "A preheat, as Dragonfly shows it",
        {"200": answer("The preheat", _DRAGONFLY_JOB), **_HARBOR_NONE},
        parameters=[in_path("id", {"type": "integer", "minimum": 1}, "The number of a preheat")],
    ),
    ("POST", "/preheats"): operation(
        "dragonfly_create_before_2_12",
        "Begin a preheat, as Dragonfly did (Harbor 2.11 and before)",
        {"200": answer("It begins", open_object({"ID": TEXT})), **_HARBOR_REFUSALS},
        body=_OLD_REQUEST,
        example=_EXAMPLE,
    ),
    ("GET", "/preheats/{id}"): operation(
        "dragonfly_show_before_2_12",
        "A preheat, as Dragonfly showed it",
        {"200": answer("The preheat", _OLD_JOB), **_HARBOR_NONE},
        parameters=[_ID],
    ),
    ("POST", "/registry/notifications"): operation(
        "notify",
        "Take events of pushes: of distribution, webhooks of Harbor, CloudEvents, and of Harbor's driver for Kraken",
        {
            "200": answer("Taken; these tags were pushed", open_object({"accepted": list_of(TEXT)})),
            **refusals(
                {
                    400: "The body is no JSON of events, or `upstream` is no name of a registry",
                    413: "The body is too long",
                    503: "The scheduler starts or stops, or too many pushes wait",
                }
            ),
        },
        parameters=[
            query("upstream", TEXT, "The registry's name in images, where the events have another"),
            {
                "name": "X-Hub-Signature-256",
                "in": "header",
                "description": "In place of the token: sha256=, and the HMAC-SHA256 of the body under it",
                "schema": {"type": "string", "pattern": "^sha256=[0-9a-f]{64}$"},
            },
        ],
        body={
            "anyOf": [
                open_object({"events": list_of({})}),
                open_object({"Events": list_of({})}),
                open_object({"type": TEXT}),
            ]
        },
        example={"events": [{"action": "push", "target": {"repository": "team/app", "tag": "v2", "url": _MANIFEST}}]},
    ),
}

OPERATIONS: Final[dict[tuple[str, str], Schema]] = {**_OWN, **_HARBOR}
"""By method and path."""
