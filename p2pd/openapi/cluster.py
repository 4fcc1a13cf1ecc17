"""The description of what a scheduler tells of the cluster: the overview, its hosts, and predictions."""

from __future__ import annotations

from typing import Any, Final, Literal

from p2pd.openapi.schemas import (
    FLAG,
    NUMBER,
    TEXT,
    TIME,
    WHOLE,
    Schema,
    answer,
    closed_object,
    list_of,
    operation,
    query,
    ref,
    refusals,
    schema_of,
)
from p2pd.predict.forecast import Prediction
from scheduler.core.exchanges import BlobFacts, PullFacts
from scheduler.core.overview import PlaceFacts, Trouble
from scheduler.core.roster import HostFacts

_OTHER_PAGES: Final = {403: "Another web page asks"}


def _rows(kind: Any, **other: Schema) -> Schema:
    """Rows by key. `other` are the properties that are not as in the dataclass."""
    row = schema_of(kind)
    row["properties"] = {**row["properties"], **other}
    return {"type": "object", "additionalProperties": row}


_PULL_TIMES: Final = {"began_at": WHOLE, "ended_at": {"anyOf": [WHOLE, {"type": "null"}]}}
"""Unix seconds, in place of those of the scheduler's clock."""

_CLUSTER: Final = closed_object(
    {
        "places": _rows(PlaceFacts),
        "pulls": _rows(PullFacts, **_PULL_TIMES),
        "blobs": _rows(BlobFacts),
        "troubles": _rows(Trouble),
        "quarantined": {
            "type": "object",
            "additionalProperties": closed_object({"id": TEXT, "came_from": TEXT, "reason": TEXT, "until": WHOLE}),
        },
        "cluster": closed_object(
            {
                "hosts": WHOLE,
                "pulling": WHOLE,
                "rate_bytes_per_s": WHOLE,
                "versions": list_of(schema_of(tuple[str, int])),
                "blobs_in_all": WHOLE,
                "troubles_in_all": WHOLE,
                "pulls_since": {"type": "integer"},
                "scheduler_version": TEXT,
                "schedulers": {},
                "untold": {},
                "problem": {},
            }
        ),
    }
)

_PREDICTIONS: Final = closed_object(
    {
        "mode": schema_of(Literal["advise", "act"]),
        "within_s": NUMBER,
        "learned": FLAG,
        "records": WHOLE,
        "predictions": list_of(schema_of(Prediction)),
        "spent_bytes": schema_of(dict[str, int]),
        "orders": list_of(
            closed_object(
                {"preheat": TEXT, "at": TIME, "image": TEXT, "site": TEXT, "size_bytes": WHOLE, "settled": FLAG}
            )
        ),
    }
)

SCHEMAS: Final[Schema] = {"Host": schema_of(HostFacts)}

OPERATIONS: Final[dict[tuple[str, str], Schema]] = {
    ("GET", "/cluster"): operation(
        "cluster",
        "The cluster at a glance",
        {"200": answer("Rows by key", _CLUSTER), **refusals(_OTHER_PAGES)},
        is_open=True,
    ),
    ("GET", "/cluster/events"): operation(
        "cluster_events",
        "The cluster, and then its changes, as server-sent events: clock, whole, change",
        {
            "200": {
                "description": "Until one of the two ends it",
                "content": {"text/event-stream": {"schema": TEXT}},
            },
            **refusals({**_OTHER_PAGES, 503: "As many listen as may"}),
        },
        is_open=True,
    ),
    ("GET", "/cluster/hosts"): operation(
        "cluster_hosts",
        "Some of the hosts",
        {
            "200": answer("At most 100 of `count`", closed_object({"count": WHOLE, "hosts": list_of(ref("Host"))})),
            **refusals({**_OTHER_PAGES, 422: "The request is wrong"}),
        },
        parameters=[
            query("site", TEXT, "Those of this site"),
            query("zone", TEXT, "Those of this zone"),
            query("text", TEXT, "Those that have this in their id or address"),
            query("first", {"type": "integer", "minimum": 0, "maximum": 99_999_999, "default": 0}, "Leave out so many"),
        ],
        is_open=True,
    ),
    ("GET", "/hosts"): operation(
        "hosts",
        "All connected hosts, of all schedulers",
        {"200": answer("The hosts", list_of(ref("Host"))), **refusals(_OTHER_PAGES)},
        is_open=True,
    ),
    ("GET", "/predictions"): operation(
        "predictions",
        "What is expected to be pulled",
        {
            "200": answer("The predictions", _PREDICTIONS),
            **refusals({404: "This scheduler predicts nothing", 503: "The history cannot be read now"}),
        },
    ),
}
"""By method and path."""
