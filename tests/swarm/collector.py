"""A collector of traces: it takes OTLP over HTTP, and says what spans it got."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class SeenSpan:
    """A span. `host` is who recorded it; ids are hexadecimal."""

    host: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    events: list[str]
    error: str
    seconds: float


@dataclass
class Collector:
    """`url` is what hosts are told. `status` is what it answers; `slow`: it never answers."""

    url: str = ""
    status: int = 200
    slow: bool = False
    requests: int = 0
    spans: list[SeenSpan] = field(default_factory=list)

    def named(self, name: str) -> list[SeenSpan]:
        return [span for span in self.spans if span.name.startswith(name)]

    async def take(self, request: web.Request) -> web.Response:
        self.requests += 1
        body = await request.read()
        if self.slow:
            await asyncio.Event().wait()
        if self.status != 200:
            return web.Response(status=self.status)
        for of_host in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {each.key: each.value.string_value for each in of_host.resource.attributes}
            assert about["service.name"] == "p2pd"
            self.spans += [
                _seen(about["service.instance.id"], each) for all_ in of_host.scope_spans for each in all_.spans
            ]
        return web.Response(content_type="application/x-protobuf")


def _seen(host: str, span: Any) -> SeenSpan:
    return SeenSpan(
        host,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes},
        [each.name for each in span.events],
        span.status.message if span.status.code == 2 else "",
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on loopback."""
    collector = Collector()
    app = web.Application(client_max_size=1 << 24)
    app.add_routes([web.post("/v1/traces", collector.take)])
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        collector.url = f"http://{host}:{port}/v1/traces"
        yield collector
    finally:
        await runner.cleanup()
