"""The seam between p2pd and an origin.

Rules:
1. Everything here blocks, and is called from worker threads, never from the event loop.
2. A credential goes only to the origin that it was meant for: not to redirect targets, not to logs.
3. Errors are those of `peer.errors` and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol, Self

from msgspec import Struct

from peer.oci.digest import AnyDigest


class Kind(Enum):
    """The endpoint of the distribution API that has the content. Both are blobs in the store."""

    BLOB = "blobs"
    MANIFEST = "manifests"


class ContentRef(Struct, frozen=True):
    """Content of one origin: `digest` in the repository of that name (`library/alpine`), at the endpoint for `kind`.

    `size_bytes` is its length as a manifest or another host said; None if nobody has. It is used where an origin's
    answer does not tell the length, or tells that of coded bytes. `query` is for neighbours alone.
    """

    repository: str
    digest: AnyDigest
    kind: Kind = Kind.BLOB
    size_bytes: int | None = None
    query: str = ""


@dataclass(frozen=True, slots=True)
class Credential:
    """The authorisation of one request to an origin.

    `authorization` is a client's header, relayed unchanged and left out of `repr`. With `own`, p2pd answers the
    origin's challenge itself: with the credentials configured for the upstream, or else anonymously (the token flow for
    public repositories). `Credential()` sends nothing and answers nothing.
    """

    authorization: str | None = field(default=None, repr=False)
    own: bool = False


class Answer(Struct, frozen=True):
    """A small answer of an origin, whole: `body` is at most `MAX_ANSWER_BYTES`. Header names are lower case.

    Values of one name are joined by commas. `challenges` are those of WWW-Authenticate one by one: many clients read
    one challenge per field (RFC 9110, section 11.6.1 warns of joining them). `redirected`: it came from a redirect's
    target outside of the origin's API. Such a refusal is not the origin's own.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    challenges: tuple[str, ...] = ()
    redirected: bool = False


MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""containerd refuses manifests over 4 MiB and registries accept up to that; lists of tags may be larger."""


class Body(Protocol):
    """A range of one blob, as it arrives from an origin.

    `start` and `stop` are the bytes that this body has. If an origin ignores Range, they are 0 and `size_bytes`, for
    every request. `size_bytes` is the whole blob's length. `media_type` is the answer's Content-Type, unchanged.
    """

    start: int
    stop: int
    size_bytes: int
    media_type: str

    def readinto(self, view: memoryview) -> int:
        """Fill `view` from the body. Returns the number of bytes: less than `len(view)` only at the body's end.

        A body that is cut short is resumed from the byte where it broke. Raises OriginBrokenError if that fails too,
        OriginRefusedError if the origin refuses it, OriginUnusableError if the length has changed.
        """
        ...

    def abort(self) -> None:
        """Make a `readinto` in another thread raise OriginBrokenError. Safe at any time, from any thread."""
        ...

    def close(self) -> None:
        """Close the connection, or keep it for other requests if the body was read to its end."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


class Origin(Protocol):
    """The origin of one upstream, which clients know by its name (`docker.io`)."""

    def request(
        self,
        method: Literal["GET", "HEAD"],
        path: str,
        *,
        credential: Credential,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask for a small answer below `/v2/`, such as `library/alpine/manifests/latest`; an empty path is the ping.

        Any status below 500 is an answer, not an error. 429 and 5xx are first tried again, within bounds.
        Raises OriginUnreachableError, OriginUnusableError (in a coding that p2pd does not know), OriginTooLargeError.
        """
        ...

    def open(self, ref: ContentRef, start: int, stop: int | None, *, credential: Credential) -> Body:
        """Open bytes `[start, stop)` of `ref` (`stop` None: to the end; beyond the end: cut to it).

        Raises OriginRefusedError (4xx), OriginUnreachableError, OriginUnusableError (an answer that is not the content,
        or does not tell how long it is), OriginCorruptError (a manifest whose bytes are wrong).
        """
        ...

    def close(self) -> None:
        """Close idle connections and end every wait. Later calls raise OriginUnreachableError."""
        ...
