"""The seam between p2pd and an origin.

Rules:
1. Everything here blocks, and is called from worker threads, never from the event loop.
2. A credential goes to the origin that it was meant for and to no other host: not to redirect targets, not to logs.
3. Errors are those of `peer.errors` and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol, Self


class Kind(Enum):
    """Which endpoint of the distribution API has the content. Both are blobs to the store."""

    BLOB = "blobs"
    MANIFEST = "manifests"


@dataclass(frozen=True, slots=True)
class ContentRef:
    """Content of an origin: `digest` (`sha256:…`) in `repository` (`library/alpine`), at the endpoint for `kind`."""

    repository: str
    digest: str
    kind: Kind = Kind.BLOB


@dataclass(frozen=True, slots=True)
class Credential:
    """How one request to an origin is authorised.

    `authorization` is a client's header, relayed as it is and never shown by `repr`. `own` lets p2pd answer the
    origin's challenge by itself: with the credentials configured for the upstream or, where there are none,
    anonymously (the token flow for public repositories). `Credential()` sends nothing and answers nothing.
    """

    authorization: str | None = field(default=None, repr=False)
    own: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A small answer of an origin, whole: `body` is at most `MAX_ANSWER_BYTES`. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""containerd refuses manifests over 4 MiB and registries accept up to that; lists of tags may be larger."""


class Body(Protocol):
    """A range of one blob on its way from an origin.

    `start` and `stop` are the bytes that this body really has: an origin that ignores Range gives `start` 0 and `stop`
    `size_bytes`, whatever was asked for. `size_bytes` is the whole blob's length. `media_type` is the answer's
    Content-Type, unchanged.
    """

    start: int
    stop: int
    size_bytes: int
    media_type: str

    def readinto(self, view: memoryview) -> int:
        """Fill `view` from the body; returns how many bytes (less than `len(view)` only at the body's end, 0 after it).

        Resumes by itself, from the byte where it broke, a body that was cut short. Raises OriginBrokenError when that
        fails too, OriginRefusedError if the origin refuses to go on, OriginCorruptError if the length changed.
        """
        ...

    def abort(self) -> None:
        """End a `readinto` that another thread is in, with OriginBrokenError; safe at any time, from any thread."""
        ...

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


class Origin(Protocol):
    """One upstream, which is known to clients by its name (`docker.io`)."""

    def request(
        self,
        method: Literal["GET", "HEAD"],
        path: str,
        *,
        credential: Credential,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask for something small below `/v2/` (`library/alpine/manifests/latest`, `` for the ping itself).

        Any status below 500 is an answer, not an error (429 and 5xx are first tried again, within bounds).
        Raises OriginUnreachableError, OriginCorruptError (too large, or content-encoded).
        """
        ...

    def open(self, ref: ContentRef, start: int, stop: int | None, *, credential: Credential) -> Body:
        """Open bytes `[start, stop)` of `ref` (`stop` None: to the end; beyond the end: cut to it).

        Raises OriginRefusedError (4xx), OriginUnreachableError, OriginCorruptError (a Content-Range that contradicts
        the request).
        """
        ...

    def close(self) -> None:
        """Close idle connections and end what waits; afterwards every call raises OriginUnreachableError."""
        ...
