"""Spans of `peer.tracing`, recorded by OpenTelemetry's SDK and sent to a collector by OTLP over HTTP.

Rules:
1. What tracing costs is bounded: a queue of QUEUE spans, one thread that sends, limits on what a span may have. Spans
   are lost when the collector is slow or gone, and nothing else is: no request waits for it. One line in the log says
   that it is gone, and one that it is back.
2. Whoever asks names the trace. A context that is none is ignored, and a new trace begins. A client that says that its
   trace is not recorded has none here; of those that say nothing, the operator's share is recorded.
3. The SDK's own variables count (`OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS`), but where p2pd has a key.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Final

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind as OtelKind
from opentelemetry.trace import StatusCode, Tracer, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from peer.tracing import HEADER, Attributes, Span, SpanKind

log = structlog.get_logger("p2pd.tracing")

QUEUE: Final = 2048
BATCH: Final = 256
SEND_EVERY_S: Final = 2.0
SEND_WITHIN_S: Final = 5.0
END_WITHIN_S: Final = 2.0
"""How long the last spans may take when the daemon ends."""

MAX_STATE_CHARACTERS: Final = 512
"""Of `tracestate`: up to that length it has to be taken (W3C Trace Context, section 3.3.1.5), and no longer one is."""

_LIMITS: Final = SpanLimits(
    max_span_attributes=48, max_events=32, max_event_attributes=8, max_links=4, max_span_attribute_length=256
)
_KINDS: Final = {
    SpanKind.INTERNAL: OtelKind.INTERNAL,
    SpanKind.SERVER: OtelKind.SERVER,
    SpanKind.CLIENT: OtelKind.CLIENT,
}
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class Recorder:
    """Makes the spans that have no parent on this host. `close` waits at most END_WITHIN_S, in a thread."""

    def __init__(self, endpoint: str, *, host: str, share: float) -> None:
        """`endpoint` is the whole URL, such as `http://127.0.0.1:4318/v1/traces`; `share` in [0, 1] is of the requests
        that come without a context."""
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)  # `_Sending` says it once
        self._sending = _Sending(endpoint)
        about = {"service.name": "p2pd", "service.version": metadata.version("p2pd"), "service.instance.id": host}
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create(about),
            shutdown_on_exit=False,
            span_limits=_LIMITS,
        )
        self._processor = BatchSpanProcessor(
            self._sending, max_queue_size=QUEUE, max_export_batch_size=BATCH, schedule_delay_millis=SEND_EVERY_S * 1000
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("p2pd")
        self._clock = _Clock()

    def begin(
        self, name: str, headers: Mapping[str, str], attributes: Attributes, *, joins_only: bool = False
    ) -> Span | None:
        """The span of a request with these headers; None: it is not recorded.

        `joins_only`: it is recorded only as a part of the trace that the headers name.
        """
        context = _PROPAGATOR.extract(_context_in(headers))
        if joins_only and not get_current_span(context).get_span_context().is_valid:
            return None
        span = self._tracer.start_span(name, context, OtelKind.SERVER, dict(attributes))
        return _Span(self._tracer, span, self._clock) if span.is_recording() else None

    def close(self) -> None:
        """Send what there is, as far as it goes in time."""
        ending = threading.Thread(target=self._processor.shutdown, name="last spans", daemon=True)
        ending.start()
        ending.join(END_WITHIN_S)
        self._sending.give_up()


class _Span:
    """`peer.tracing.Span`."""

    def __init__(self, tracer: Tracer, span: OtelSpan, clock: _Clock) -> None:
        self._tracer = tracer
        self._span = span
        self._clock = clock

    @property
    def traceparent(self) -> str:
        told: dict[str, str] = {}
        _PROPAGATOR.inject(told, set_span_in_context(self._span))
        return told[HEADER]

    def child(self, name: str, kind: SpanKind, attributes: Attributes, *, at: float | None = None) -> _Span:
        context = set_span_in_context(self._span)
        span = self._tracer.start_span(name, context, _KINDS[kind], dict(attributes), start_time=self._clock.ns(at))
        return _Span(self._tracer, span, self._clock)

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(dict(attributes))

    def event(self, name: str, attributes: Attributes) -> None:
        self._span.add_event(name, dict(attributes))

    def end(self, error: str = "", *, at: float | None = None) -> None:
        if error:
            # Of a text that UTF-8 cannot have, the exporter would lose all spans that it is sent with.
            self._span.set_status(StatusCode.ERROR, error[:256].encode("utf-8", "replace").decode())
        self._span.end(self._clock.ns(at))


class _Clock:
    """Unix time in nanoseconds for a time of the monotonic clock."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def ns(self, at: float | None) -> int:
        return self._offset_ns + (time.monotonic_ns() if at is None else int(at * 1e9))


class _Sending(SpanExporter):
    """The exporter, and the log's lines about it. One thread calls `export`."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._exporter = OTLPSpanExporter(endpoint, timeout=SEND_WITHIN_S)
        self._failing = False
        self._closed = False
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._closed:
            return SpanExportResult.FAILURE
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        self._lost += len(spans) if failed else 0
        if failed and not self._failing:
            log.warning("traces cannot be sent, their spans are lost until they can", collector=self._endpoint)
        elif self._failing and not failed:
            log.info("traces are sent again", collector=self._endpoint, lost_spans=self._lost)
            self._lost = 0
        self._failing = failed
        return result

    def give_up(self) -> None:
        """End an attempt that goes on, and begin no other. From any thread."""
        self._closed = True
        self._exporter.shutdown()  # type: ignore[no-untyped-call] # theirs

    def shutdown(self) -> None:
        self.give_up()


def _context_in(headers: Mapping[str, str]) -> dict[str, str]:
    """What the propagator reads, without what is too long to be any."""
    found = {HEADER: headers.get(HEADER, "")}
    state = headers.get("tracestate", "")
    return found | ({"tracestate": state} if state and len(state) <= MAX_STATE_CHARACTERS else {})
