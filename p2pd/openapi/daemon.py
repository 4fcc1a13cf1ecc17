"""The description of what each daemon tells of itself, and of what may be asked of a node: cache, settings, import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from p2pd.admin.client_metrics import Served
from p2pd.admin.images import CachedImage
from p2pd.config.changes import Reloaded
from p2pd.openapi.schemas import (
    FLAG,
    NUMBER,
    TEXT,
    WHOLE,
    Schema,
    answer,
    closed_object,
    in_path,
    list_of,
    open_object,
    operation,
    query,
    ref,
    refusals,
    schema_of,
)
from p2pd.site.answering import MAX_IMAGES
from p2pd.site.importing import Imported
from peer.host import DownloadFacts, DownloadStatistics, MessageStatistics, NeighbourFacts
from peer.host_schedulers import SwarmHealth
from peer.store import BlobInfo, VerifyReport
from peer.store.adopter import AdoptStatistics
from peer.store.facts import StoreStatistics
from peer.store.scrubber import ScrubStatistics
from scheduler.core.scheduler import SchedulerStatistics

_TEXTS: Final = list_of(TEXT)


def _with(kind: Any, more: Mapping[str, Schema], *, without: str = "") -> Schema:
    """What is told of a dataclass, with `more` properties beside its own."""
    found = schema_of(kind)
    properties = {name: each for name, each in found["properties"].items() if name != without}
    return {"description": found["description"], **closed_object({**properties, **more})}


_REFUSED: Final = closed_object({"status": WHOLE, "upstream": TEXT, "kind": TEXT, "client": TEXT, "age_s": NUMBER})
_STATE_OF_ALL: Final[Schema] = {
    "version": TEXT,
    "uptime_s": NUMBER,
    "ready": FLAG,
    "reasons": _TEXTS,
    "degraded": _TEXTS,
}
_ADDRESSES: Final[Schema] = dict.fromkeys(
    ("mirror", "admin", "metrics", "own", "https_proxy", "peer", "advertise", "listen"), TEXT
)
_STATE_OF_NODE: Final[Schema] = {
    "data": TEXT,
    "upstreams": _TEXTS,
    "upstream_settings": list_of(
        open_object({"name": TEXT, "urls": _TEXTS, "ca": TEXT, "password_file": TEXT}, may_lack=("ca", "password_file"))
    ),
    "cache": _with(StoreStatistics, {"limits": closed_object({"max_bytes": TEXT, "min_free_bytes": TEXT})}),
    "served": _with(Served, {"last_refusal": {"anyOf": [_REFUSED, {"type": "null"}]}}),
    "adopted": schema_of(AdoptStatistics),
    "scrub": schema_of(ScrubStatistics),
    "downloads": schema_of(DownloadStatistics),
    "swarm": _with(
        SwarmHealth,
        {
            "host": TEXT,
            "place": _TEXTS,
            "scheduler_connected": FLAG,
            "alone": FLAG,
            "certificate_expires_s": schema_of(float | None),
            "sent_bytes": WHOLE,
            "busy_answers": WHOLE,
            **schema_of(MessageStatistics)["properties"],
        },
    ),
    "neighbours": list_of(schema_of(NeighbourFacts)),
    "arriving": list_of(schema_of(DownloadFacts)),
    "clients": schema_of(dict[str, float]),
}
_SCHEDULER: Final[Schema] = {
    "description": "Of a scheduler, its statistics; of a node, the URLs of its schedulers",
    "anyOf": [_with(SchedulerStatistics, {"preheats": schema_of(dict[str, int])}), TEXT],
}
_STATUS: Final = open_object(
    {**_STATE_OF_ALL, **_ADDRESSES, **_STATE_OF_NODE, "scheduler": _SCHEDULER},
    may_lack=[*_ADDRESSES, *_STATE_OF_NODE, "scheduler"],
)
"""A scheduler alone lacks what is a node's."""

_SITE_REQUEST: Final = closed_object(
    {
        "path": {"type": "string", "pattern": "^/[^\\x00]*$", "description": "An archive that the daemon can read"},
        "images": {**list_of(TEXT, maxItems=MAX_IMAGES), "description": "None: all of the archive's"},
        "keep": {"type": "string", "description": "For how long: 7d", "default": "7d"},
    }
) | {"required": ["path"]}

_DIGEST: Final = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
_DURATION: Final = {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,9})? ?[dhms]?$"}
_SETTING: Final = closed_object({"key": TEXT, **dict.fromkeys(("value", "from", "means"), schema_of(str | None))})

SCHEMAS: Final[Schema] = {"Status": _STATUS}

OPERATIONS: Final[dict[tuple[str, str], Schema]] = {
    ("GET", "/healthz"): operation(
        "healthy", "Whether it answers", {"200": answer("It does", closed_object({"healthy": FLAG}))}, is_open=True
    ),
    ("GET", "/readyz"): operation(
        "ready",
        "Whether it takes new work, and what is wrong",
        {
            status: answer(text, closed_object({"ready": FLAG, "reasons": _TEXTS, "degraded": _TEXTS}))
            for status, text in {"200": "It does", "503": "It does not, for these reasons"}.items()
        },
        is_open=True,
    ),
    ("GET", "/metrics"): operation(
        "metrics",
        "The metrics, in Prometheus' text format",
        {"200": {"description": "The metrics", "content": {"text/plain": {"schema": TEXT}}}},
        is_open=True,
    ),
    ("GET", "/status"): operation("status", "How it is", {"200": answer("All of it", ref("Status"))}, is_open=True),
    ("GET", "/api/v1/openapi.json"): operation(
        "describe", "This description", {"200": answer("OpenAPI", {"type": "object"})}
    ),
    ("GET", "/cache"): operation(
        "blobs", "The blobs that are held, whole or in part", {"200": answer("They are", list_of(schema_of(BlobInfo)))}
    ),
    ("GET", "/cache/images"): operation(
        "images", "The images that are held, by name", {"200": answer("They are", list_of(schema_of(CachedImage)))}
    ),
    ("DELETE", "/cache/{digest}"): operation(
        "remove",
        "Remove a blob",
        {
            "200": answer("It is gone", closed_object({"removed": _DIGEST})),
            **refusals({400: "It is no digest", 404: "It is not held", 409: "It is in use: try again"}),
        },
        parameters=[in_path("digest", _DIGEST, "Of the blob")],
    ),
    ("POST", "/cache/gc"): operation(
        "collect",
        "Remove what is too old, or beyond the room",
        {"200": answer("What is gone", closed_object({"removed": list_of(_DIGEST), "freed_bytes": WHOLE}))},
    ),
    ("POST", "/cache/verify"): operation(
        "verify", "Read and hash all that is held", {"200": answer("What was found", schema_of(VerifyReport))}
    ),
    ("GET", "/config"): operation(
        "settings", "The settings in force, and where each is from", {"200": answer("By key", list_of(_SETTING))}
    ),
    ("POST", "/reload"): operation(
        "reload",
        "Read the settings again",
        {
            "200": answer("What has changed", schema_of(Reloaded)),
            **refusals({422: "The settings are wrong: all is as it was"}),
        },
    ),
    ("POST", "/drain"): operation(
        "drain",
        "Finish what is under way, and stop",
        {
            "200": answer("It stops now; whether all was finished", closed_object({"finished": FLAG})),
            **refusals({422: "`timeout` is no duration"}),
        },
        parameters=[
            query(
                "timeout",
                {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,9})? ?[dhms]?$"},
                "At the latest after",
                required=True,
            )
        ],
    ),
    ("POST", "/site/import"): operation(
        "import",
        "Take in images of an archive",
        {
            "200": answer("What came of each", list_of(schema_of(Imported))),
            **refusals({400: "The archive cannot be taken in", 422: "The request is wrong"}),
        },
        body=_SITE_REQUEST,
        example={"path": "/media/disk/site.tar", "images": ["registry.example/team/app:v2"], "keep": "30d"},
    ),
}
"""By method and path."""
