"""Protocol, metrics and the APIs of the admin ports in docs, from the code: `make docs` writes, a test compares.

The messages come from the three codecs, with the bounds that the decoder checks. The metrics come from a node that has
just served a blob, so that each label has a value, and from a scheduler alone; those of clients, which want refusals
and pulls for that, are counted up here.
"""

from __future__ import annotations

import ast
import inspect
import json
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

import scheduler.protocol
from p2pd.admin.client_metrics import ClientMetrics
from p2pd.admin.live_metrics import LiveMetrics
from p2pd.admin.metrics import LoopLag, metrics_of
from p2pd.admin.predict_metrics import PredictMetrics
from p2pd.admin.scheduler_metrics import SchedulerMetrics
from p2pd.predict.service import PredictStatistics
from proxy.core.pulls import PullSummary
from proxy.core.reasons import Refused, Relayed
from proxy.mirror import RequestRecord
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol import codec, connection, from_host, geometry, joining, link, to_host
from scheduler.protocol.codec import FROM_HOST, LINK, TO_HOST
from scheduler.protocol.fields import MAX_FRAME_BYTES, Record
from scheduler.shared.live import Live
from scheduler.shared.live_list import LiveList, Membership
from tests.support.admin_ports import both_ports
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import node_at, run
from tests.support.registry import ImageRegistry

DOCS: Final = Path(__file__).parents[1] / "docs"
GENERATED: Final = "Generated from the code by `make docs`. `tests/test_architecture.py` compares it with the code."


def protocol() -> str:
    """All that travels between a host, the scheduler and a neighbour."""
    frames = (
        f"A host reaches the scheduler by WebSocket at `{connection.PATH}`. A frame has at most {MAX_FRAME_BYTES:,} "
        f"bytes. A blob has at most {geometry.MAX_PIECES:,} pieces, each of {geometry.MIN_PIECE_BYTES:,} to "
        f"{geometry.MAX_PIECE_BYTES:,} bytes (the last one may be shorter). The number before a message's name is its "
        "type on the wire. Fields travel in the order of the table."
    )
    parts = [
        "# Protocol",
        GENERATED,
        _prose(scheduler.protocol),
        "## Certificates",
        _prose(joining),
        "## Frames",
        frames,
        _prose(codec),
    ]
    for title, ways in (("Host to scheduler", FROM_HOST), ("Scheduler to host", TO_HOST), ("Neighbours", LINK)):
        parts += [f"## {title}", *([_prose(link)] if ways is LINK else [])]
        for number, kind in ways.types.items():
            parts += [f"### {number} {kind.__name__}", *_fields(kind)]
    parts.append("## Records")
    records = [kind for module in (from_host, to_host, link) for kind in _classes(module) if _is_record(kind)]
    for record in records:
        parts += [f"### {record.__name__}", *_fields(record)]
    parts.append("## Enumerations")
    for module in (from_host, connection):
        for enum in _classes(module):
            if issubclass(enum, IntEnum):
                parts += [f"### {enum.__name__}", inspect.getdoc(enum) or "", _members(enum)]
    return "\n\n".join(parts) + "\n"


def metrics() -> str:
    """The metrics of both daemons."""
    alone = Scheduler(SchedulerSettings())
    of_scheduler = generate_latest(metrics_of(SchedulerMetrics(alone), lambda: 0, LoopLag())).decode()
    scheduler_has = {family.name for family in _parsed(of_scheduler)}
    with tempfile.TemporaryDirectory() as directory, ImageRegistry() as registry:
        node = {family.name: family for family in _parsed(run(_scrape_of_node(Path(directory), registry)))}
    node |= {family.name: family for family in _of_clients()}
    of_several = {family.name: family for family in _of_several()}
    of_predictions = {family.name: family for family in _of_predictions()}
    node |= of_several | of_predictions
    lines = ["| metric | type | labels | of | meaning |", "|---|---|---|---|---|"]
    for family in sorted(node.values(), key=lambda family: family.name):
        if not family.name.startswith("p2pd_"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
        told = ", ".join(f"`{label}`" for label in labels)
        of = "node, scheduler" if family.name in scheduler_has else "node"
        of = "scheduler with `redis`" if family.name in of_several else of
        of = "scheduler with `pull_history`" if family.name in of_predictions else of
        lines.append(f"| `{name}` | {family.type} | {told} | {of} | {family.documentation} |")
    text = (
        "`GET /metrics` on the admin port, in the text format of Prometheus. A node has the scheduler's metrics only "
        "if the scheduler runs inside it. The metrics `process_…` are those of prometheus-client. Alerts are in "
        "[prometheus-rules.yaml](../docker/prometheus-rules.yaml), a dashboard for Grafana 10 and later is in "
        "[grafana-dashboard.json](../docker/grafana-dashboard.json)."
    )
    return "\n\n".join(["# Metrics", GENERATED, text, "\n".join(lines)]) + "\n"


def api(daemon: str) -> str:
    """What a scheduler, or a node of it, says of its admin port: of all routes that it has."""
    with tempfile.TemporaryDirectory() as directory, both_ports(Path(directory)) as ports:
        status, found = ports[daemon].ask("GET", "/api/v1/openapi.json")
    assert status == 200, "a route has no text in p2pd/openapi"
    return json.dumps(found, indent=2) + "\n"


DOCUMENTS: Final[Mapping[str, Callable[[], str]]] = {
    "protocol.md": protocol,
    "metrics.md": metrics,
    "scheduler-api.json": partial(api, "scheduler"),
    "node-api.json": partial(api, "node"),
}


def _prose(module: ModuleType) -> str:
    """A module's docstring as Markdown: `::` opens a literal block, which is indented in both."""
    return (inspect.getdoc(module) or "").replace("::\n", ":\n").replace("Rules:\n", "Rules:\n\n")


def _classes(module: ModuleType) -> list[type[Any]]:
    """The classes that a module defines itself, in its order."""
    return [kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == module.__name__]


def _is_record(kind: type[Any]) -> bool:
    messages = {message for ways in (FROM_HOST, TO_HOST, LINK) for message in ways.types.values()}
    return kind not in messages and issubclass(kind, Record)


def _fields(kind: type[Any]) -> Iterator[str]:
    yield inspect.getdoc(kind) or ""
    found = msgspec.inspect.type_info(kind)
    assert isinstance(found, msgspec.inspect.StructType)
    if not found.fields:
        return
    lines = ["| field | value | default |", "|---|---|---|"]
    for field in found.fields:
        default = "" if field.required else f"`{field.default!r}`"
        lines.append(f"| `{field.name}` | {_value(field.type)} | {default} |")
    yield "\n".join(lines)


def _value(bounds: msgspec.inspect.Type) -> str:
    """What a decoder lets pass, in words."""
    match bounds:
        case msgspec.inspect.Metadata(inner, extra={"step": step}):
            return f"{_value(inner)}, in steps of {step}"
        case msgspec.inspect.BytesType(low, high):
            return f"bytes, {high:,}" if low == high else f"bytes, {low or 0:,} to {high:,}"
        case msgspec.inspect.StrType(pattern=str(pattern)):
            return "text, `" + pattern.removeprefix(r"\A(?:").removesuffix(r")\Z").replace("|", r"\|") + "`"
        case msgspec.inspect.IntType(ge=low, le=high):
            return f"integer, {low:,} to {high:,}"
        case msgspec.inspect.FloatType(ge=0, le=high):
            return f"seconds, 0 to {high:,g}"
        case msgspec.inspect.BoolType():
            return "boolean"
        case msgspec.inspect.EnumType(kind):
            return f"`{kind.__name__}`; an unknown value is read as {kind(-1).name}"
        case msgspec.inspect.UnionType((inner, msgspec.inspect.NoneType())):
            return f"nil, or {_value(inner)}"
        case msgspec.inspect.VarTupleType(inner, max_length=most):
            return f"array of at most {most:,}: {_value(inner)}"
        case msgspec.inspect.StructType(kind):
            return f"`{kind.__name__}`"
    raise TypeError(bounds)


def _members(enum: type[IntEnum]) -> str:
    """A line for each member of an enumeration, with the text below it in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(enum))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        match statement, following:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = inspect.cleandoc(text).replace("\n", " ")
    lines = ["| value | name | meaning |", "|---|---|---|"]
    lines += [f"| {member.value} | {member.name} | {texts.get(member.name, '')} |" for member in enum]
    return "\n".join(lines)


def _parsed(scraped: str) -> list[Metric]:
    return list(text_string_to_metric_families(scraped))


def _of_several() -> list[Metric]:
    """The metrics of one of several schedulers."""
    registry, metrics = CollectorRegistry(), LiveMetrics()
    registry.register(metrics)
    metrics.live = Live(Membership("https://a:65003"), NoStore(), lambda _, __: None)
    return _parsed(generate_latest(registry).decode())


def _of_predictions() -> list[Metric]:
    """The metrics of a scheduler that keeps a history of pulls."""
    registry = CollectorRegistry()
    registry.register(PredictMetrics(lambda: PredictStatistics(0, 0, 0)))
    return _parsed(generate_latest(registry).decode())


class NoStore:
    """Nothing is asked of it."""

    async def look(self, beat: str) -> tuple[LiveList, Mapping[str, int]]:
        raise NotImplementedError

    async def replace(self, stored: LiveList, wanted: LiveList) -> bool:
        raise NotImplementedError

    async def changed(self, within_s: float) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


def _of_clients() -> list[Metric]:
    """The metrics of clients once each label has a value."""
    clients, registry = ClientMetrics(lambda name: name), CollectorRegistry()
    registry.register(clients)
    for cut in (Refused.ORIGIN_BROKEN, None):
        relayed = None if cut else Relayed.NO_ROOM
        clients.observe(RequestRecord("docker.io", "blobs", 200, "none", 1, 1.0, "", 1.0, refused=cut, relayed=relayed))
    clients.pulled(PullSummary("app:1.0", "docker/29.0", 1.0, 1, 0, 0, 0, 1))
    return _parsed(generate_latest(registry).decode())


async def _scrape_of_node(directory: Path, registry: ImageRegistry) -> str:
    layer = content_of("layer", 1000)
    registry.push("library/app", "1.0", make_image(layer))
    async with node_at(directory / "store", f"docker.io={registry.url}", advertise="127.0.0.1:0") as node:
        await node.get(f"library/app/blobs/{digest_of(layer)}")
        return (await node.ask_admin("GET", "/metrics")).body.decode()


if __name__ == "__main__":
    for file, written in DOCUMENTS.items():
        (DOCS / file).write_text(written())
