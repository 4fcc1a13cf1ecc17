"""Bodies as they are read: from a connection, from memory, or decoded on the way.

Rules: `readinto` receives once, and returns 0 at the body's end. It raises ExchangeFailedError if the body breaks off,
OriginUnusableError if its coding is broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from peer.errors import OriginUnusableError
from peer.origin.codings import CodingError, Decoder
from peer.origin.http1 import ExchangeFailedError

if TYPE_CHECKING:
    from peer.origin.http1 import Reply

_CODED_BYTES = 64 * 1024


class Stream(Protocol):
    """What is read of a reply's body. `peer.origin.http1.Reply` is one."""

    headers: dict[str, str]

    def readinto(self, view: memoryview) -> int: ...

    def close(self) -> None: ...


class HeldStream:
    """A body that was read whole already. `headers` are its reply's."""

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        self.headers = dict(headers)
        self._left = memoryview(body)

    def readinto(self, view: memoryview) -> int:
        size_bytes = min(len(view), len(self._left))
        view[:size_bytes] = self._left[:size_bytes]
        self._left = self._left[size_bytes:]
        return size_bytes

    def close(self) -> None:
        pass


class DecodedStream:
    """The body of `reply` without its content coding."""

    def __init__(self, reply: Reply) -> None:
        self.headers = reply.headers
        self._reply = reply
        self._decoder = Decoder()
        self._coded = memoryview(bytearray(_CODED_BYTES))

    def readinto(self, view: memoryview) -> int:
        try:
            while not (plain := self._decoder.decode(len(view))):
                received = self._reply.readinto(self._coded)
                if received:
                    self._decoder.feed(bytes(self._coded[:received]))
                elif self._decoder.ended:
                    return 0
                else:
                    raise ExchangeFailedError(f"{self._reply.target} ended the body within its coding")
        except CodingError as error:
            raise OriginUnusableError(
                f"{self._reply.target} sends bytes that are not in their coding: {error}"
            ) from None
        view[: len(plain)] = plain
        return len(plain)

    def close(self) -> None:
        self._reply.close()


def read_whole(reply: Reply, most_bytes: int) -> bytes | None:
    """All of the body; None if it has more than `most_bytes`. Raises ExchangeFailedError."""
    if reply.length is not None and reply.length > most_bytes:
        return None
    body = bytearray()
    view = memoryview(bytearray(min(most_bytes + 1, _CODED_BYTES if reply.length is None else reply.length or 1)))
    while received := reply.readinto(view):
        body += view[:received]
        if len(body) > most_bytes:
            return None
    return bytes(body)
