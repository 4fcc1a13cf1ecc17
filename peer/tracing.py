"""The seam to a recorder of traces: spans of a client's request, and of all that the request leads to.

Rules:
1. Nothing is traced unless the operator wants it. Then `current` has the span of the request that is being answered.
   Else it has None, each hook is one look at a variable, and no other code of tracing runs.
2. A span is for a request, a blob, or one source of a blob's bytes with counts: never for a piece. A blob of thousands
   of pieces has some twenty spans.
3. Spans are recorded by the event loop's thread. A thread that sends a request has the text of its context alone.
4. A context leaves this host by `outgoing`: to other hosts, which are told the blobs' digests anyway, and to an origin
   that the operator lets have it. Others could tell by it which requests belong to one pull, and who repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from enum import Enum
from typing import Final, Protocol

HEADER: Final = "traceparent"
"""W3C Trace Context: a version, the trace, the span that asks, flags; 55 characters."""

Attributes = Mapping[str, str | int | float | bool]


class SpanKind(Enum):
    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


class Span(Protocol):
    """One piece of work, from when it was made until `end`. `at` are seconds of the monotonic clock; None is now."""

    @property
    def traceparent(self) -> str:
        """Its context, as a header's value."""
        ...

    def child(self, name: str, kind: SpanKind, attributes: Attributes, *, at: float | None = None) -> Span:
        """The span of a part of this work, or of what follows from it."""
        ...

    def note(self, attributes: Attributes) -> None:
        """Set attributes."""
        ...

    def event(self, name: str, attributes: Attributes) -> None:
        """Something happened now."""
        ...

    def end(self, error: str = "", *, at: float | None = None) -> None:
        """It has ended; with an error, unless the text is empty."""
        ...


current: ContextVar[Span | None] = ContextVar("current", default=None)
"""The span of the client's request that this task is about."""

outgoing: ContextVar[str] = ContextVar("outgoing", default="")
"""The context that requests of this thread have, where they may have one."""


class sending:  # noqa: N801 # a context manager
    """For a thread: its requests have this context, if there is one."""

    __slots__ = ("_token", "_traceparent")

    def __init__(self, traceparent: str) -> None:
        self._traceparent = traceparent
        self._token: Token[str] | None = None

    def __enter__(self) -> None:
        if self._traceparent:
            self._token = outgoing.set(self._traceparent)

    def __exit__(self, *_exc_info: object) -> None:
        if self._token is not None:
            outgoing.reset(self._token)
