"""An origin in memory, with the faults that real ones have: for the tests of whatever stands upon `peer.origin.api`.

Rules:
1. It does what the two Protocols say, and `test_fakes.py` holds it to the suite that the real ones pass.
2. Every fault is an attribute, and may be changed at any time; what is asked is in `requests`, in order.
3. Nothing waits for time: `wait_for` waits for a condition of the fake, and fails the test after `PATIENCE_S`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal, Self

from peer.errors import OriginBrokenError, OriginRefusedError, OriginUnreachableError
from peer.origin.api import Answer, ContentRef, Credential
from tests.peer.origin_conformance import digest_of
from tests.support.registry_server import PATIENCE_S


def content_of(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes of which no piece is like another."""
    return Random(seed).randbytes(size_bytes)


@dataclass(frozen=True, slots=True)
class Request:
    """What `open` was asked for."""

    digest: str
    start: int
    stop: int | None
    credential: Credential


class FakeOrigin:
    """Serves `contents` under their digests, whatever the repository, and `answers` by path.

    Faults: `ignores_range`; `refused`, credentials that get a 401; `unreachable`; `breaks_after`, how many bytes a body
    gives before it breaks; `instead`, other bytes that are sent for a digest; `announced_bytes`, another length that is
    told for it (a body that is longer than its bytes ends early). After `hold_at`, bodies wait before they give more
    than that many bytes each, until `release` or an abort.
    """

    def __init__(self, contents: Iterable[bytes] = (), answers: Mapping[str, Answer] | None = None) -> None:
        self.contents: dict[str, bytes] = {digest_of(content): content for content in contents}
        self.answers = dict(answers or {})
        self.media_type = "application/octet-stream"
        self.requests: list[Request] = []
        self.ignores_range = False
        self.unreachable = False
        self.refused: set[Credential] = set()
        self.breaks_after: int | None = None
        self.instead: dict[str, bytes] = {}
        self.announced_bytes: dict[str, int] = {}
        self._hold_at: int | None = None
        self.waiting = 0
        self.most_open = 0
        self.open_bodies = 0
        self.changed = threading.Condition()
        self._closed = False

    # -- Origin ----------------------------------------------------------------------------------------------------

    def request(
        self,
        method: Literal["GET", "HEAD"],
        path: str,
        *,
        credential: Credential,
        headers: Mapping[str, str] | None = None,  # noqa: ARG002 - what is served has one form
    ) -> Answer:
        """As `Origin.request`."""
        self._check_reachable()
        if credential in self.refused:
            return Answer(401, {}, b"")
        answer = self.answers.get(path, Answer(404, {}, _unknown("manifests" if "/manifests/" in path else "blobs")))
        return answer if method == "GET" else Answer(answer.status, answer.headers, b"")

    def open(self, ref: ContentRef, start: int, stop: int | None, *, credential: Credential) -> FakeBody:
        """As `Origin.open`."""
        if start < 0 or (stop is not None and stop <= start):
            raise ValueError(f"{start} to {stop} is not a range of bytes")
        with self.changed:
            self.requests.append(Request(ref.digest, start, stop, credential))
            self.changed.notify_all()
        self._check_reachable()
        if credential in self.refused:
            raise OriginRefusedError("no", status=401, headers={"WWW-Authenticate": "Basic"})
        if ref.digest not in self.contents:
            raise OriginRefusedError("unknown", status=404, body=_unknown(ref.kind.value))
        content = self.instead.get(ref.digest, self.contents[ref.digest])
        size_bytes = self.announced_bytes.get(ref.digest, len(content))
        if start >= size_bytes > 0:
            raise OriginRefusedError("beyond the end", status=416)
        if self.ignores_range:
            start, stop = 0, None
        stop = size_bytes if stop is None else min(stop, size_bytes)
        with self.changed:
            self.open_bodies += 1
            self.most_open = max(self.most_open, self.open_bodies)
        return FakeBody(self, content, start, stop, size_bytes, self.media_type)

    def close(self) -> None:
        """As `Origin.close`."""
        self._closed = True
        self.release()

    # -- what tests ask and say ------------------------------------------------------------------------------------

    def hold_at(self, most_bytes: int | None) -> None:
        """Have bodies wait before they give more than so many bytes each; those that wait look again."""
        with self.changed:
            self._hold_at = most_bytes
            self.changed.notify_all()

    def release(self) -> None:
        """Let the bodies that wait go on."""
        self.hold_at(None)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something of this origin is so, in a thread that may wait."""
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S)

    def ranges(self, digest: str) -> list[tuple[int, int]]:
        """The bytes that were asked for, cut to the content, in order of their start."""
        size_bytes = len(self.contents[digest])
        asked = [request for request in self.requests if request.digest == digest]
        return sorted((one.start, min(size_bytes, one.stop or size_bytes)) for one in asked)

    # -- what bodies ask and say -----------------------------------------------------------------------------------

    def pause(self, given: int, wanted: int, aborted: Callable[[], bool]) -> None:
        """Called before a body gives `wanted` bytes after `given`: waits while it is to be held."""
        with self.changed:
            self.waiting += 1
            self.changed.notify_all()
            free = self.changed.wait_for(
                lambda: aborted() or self._hold_at is None or given + wanted <= self._hold_at, PATIENCE_S
            )
            self.waiting -= 1
        assert free, "nobody released the origin"

    def _check_reachable(self) -> None:
        if self._closed or self.unreachable:
            raise OriginUnreachableError("the fake is out of reach")


class FakeBody:
    """As `Body`: bytes `[start, stop)` of what the origin says to have."""

    def __init__(
        self, origin: FakeOrigin, content: bytes, start: int, stop: int, size_bytes: int, media_type: str
    ) -> None:
        self.start = start
        self.stop = stop
        self.size_bytes = size_bytes
        self.media_type = media_type
        self._origin = origin
        self._content = memoryview(content)[start:stop]
        self._given = 0
        self._aborted = False
        self._closed = False

    def readinto(self, view: memoryview) -> int:
        """As `Body.readinto`."""
        part = self._content[self._given : self._given + len(view)]
        self._origin.pause(self._given, len(part), lambda: self._aborted)
        limit = self._origin.breaks_after
        if self._aborted or (limit is not None and self._given + len(part) > limit):
            raise OriginBrokenError("the fake's body broke")
        view[: len(part)] = part
        self._given += len(part)
        return len(part)

    def abort(self) -> None:
        """As `Body.abort`."""
        with self._origin.changed:
            self._aborted = True
            self._origin.changed.notify_all()

    def close(self) -> None:
        """As `Body.close`."""
        with self._origin.changed:
            if not self._closed:
                self._closed = True
                self._origin.open_bodies -= 1
                self._origin.changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _unknown(kind: str) -> bytes:
    return b'{"errors": [{"code": "%s_UNKNOWN"}]}' % kind.removesuffix("s").upper().encode()
