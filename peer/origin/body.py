"""The body of a blob over HTTP: received into the caller's buffer, and resumed where it breaks.

Rules:
1. `_position` moves with each receive, so a resume asks for exactly the bytes that have not arrived.
2. A resume counts as progress only if it brought _PROGRESS_BYTES. `max_attempts` resumes without progress end the body.
3. The whole length never changes. If an origin ignores Range, the bytes before `_position` are read and thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from peer.errors import OriginBrokenError, OriginUnreachableError, OriginUnusableError
from peer.origin.http1 import ExchangeFailedError
from peer.origin.rates import Traffic
from peer.pacing import PACED_BYTES

if TYPE_CHECKING:
    from peer.origin.cancel import CancelScope
    from peer.origin.retry import Attempts
    from peer.origin.streams import Stream
    from peer.origin.upstream import UpstreamEndpoint

_PROGRESS_BYTES = 64 * 1024
"""With this bound, resuming a blob takes no more requests than fetching it in pieces of this size."""


class Opened(Struct, frozen=True):
    """A body that starts at byte `start` of a blob of `size_bytes`, and is read up to byte `stop`."""

    reply: Stream
    endpoint: UpstreamEndpoint
    start: int
    stop: int
    size_bytes: int
    media_type: str


class HttpBody:
    """`peer.origin.api.Body` over HTTP, which explains `start`, `stop`, `size_bytes` and `media_type`."""

    def __init__(
        self,
        name: str,
        opened: Opened,
        cancel_scope: CancelScope,
        attempts: Attempts,
        traffic: Traffic,
        max_fruitless: int,
        reopen: Callable[[int, int], Opened],
        finish: Callable[[CancelScope], None],
    ) -> None:
        """`name` is for messages. `reopen` opens the missing range. `finish` gets `cancel_scope` at the end."""
        self.start = opened.start
        self.stop = opened.stop
        self.size_bytes = opened.size_bytes
        self.media_type = opened.media_type
        self._name = name
        self._opened = opened
        self._cancel_scope = cancel_scope
        self._attempts = attempts
        self._traffic = traffic
        self._max_fruitless = max_fruitless
        self._reopen = reopen
        self._finish: Callable[[CancelScope], None] | None = finish
        self._position = opened.start
        self._resumed_at = opened.start
        self._fruitless = 0

    def readinto(self, view: memoryview) -> int:
        """Fill `view`; see `peer.origin.api.Body.readinto`."""
        wanted = min(len(view), self.stop - self._position)
        filled = 0
        try:
            while filled < wanted:
                try:
                    received = self._receive(view[filled:wanted])
                except ExchangeFailedError as error:
                    self._resume(error)
                else:
                    self._position += received
                    filled += received
        except OriginUnreachableError as error:
            raise OriginBrokenError(
                f"{self._name} broke at byte {self._position} of {self.size_bytes} and could not be resumed: {error}"
            ) from error
        return filled

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the last answer, by lower-case name."""
        return self._opened.reply.headers

    def abort(self) -> None:
        """Make a `readinto` in another thread raise OriginBrokenError."""
        self._cancel_scope.end()

    def close(self) -> None:
        """See `peer.origin.api.Body.close`. For the thread that reads."""
        finish, self._finish = self._finish, None
        if finish is not None:
            self._opened.reply.close()
            self._cancel_scope.end()
            finish(self._cancel_scope)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _receive(self, view: memoryview) -> int:
        """Receive once, as fast as the rate allows."""
        self._cancel_scope.check()
        received = self._opened.reply.readinto(view[: self._traffic.most_at_once(len(view))])
        if not received:
            raise ExchangeFailedError(f"{self._opened.endpoint} ended the body early")
        self._cancel_scope.wait(self._traffic.received(received))
        return received

    def _resume(self, trouble: ExchangeFailedError) -> None:
        """Open a new reply whose next byte is the byte at `_position`."""
        while True:
            self._opened.reply.close()
            self._attempts.failed(self._opened.endpoint)
            if self._position - self._resumed_at >= _PROGRESS_BYTES:
                self._fruitless = 0
            if self._fruitless == self._max_fruitless:
                raise OriginBrokenError(
                    f"{self._name} broke at byte {self._position} of {self.size_bytes}, and {self._fruitless} resumes"
                    f" in a row brought next to nothing: {trouble}"
                )
            if self._fruitless:
                self._cancel_scope.wait(self._attempts.backoff_s(self._fruitless))
            self._fruitless += 1
            self._resumed_at = self._position
            self._traffic.retried()
            self._opened = self._reopen(self._position, self.stop)
            if self._opened.size_bytes != self.size_bytes:
                raise OriginUnusableError(
                    f"{self._name} was {self.size_bytes} bytes long and is {self._opened.size_bytes} on resuming at"
                    f" {self._opened.endpoint}: its endpoints do not have the same content"
                )
            try:
                self._skip(self._position - self._opened.start)
            except ExchangeFailedError as error:
                trouble = error
            else:
                return

    def _skip(self, amount_bytes: int) -> None:
        """Read and throw away bytes that have arrived already."""
        scratch = memoryview(bytearray(min(amount_bytes, PACED_BYTES)))
        while amount_bytes:
            amount_bytes -= self._receive(scratch[:amount_bytes])
