"""The digest that names content: an algorithm, a colon, and lower-case hexadecimal digits (OCI image specification,
"Digests").

An `AnyDigest` is of any algorithm that the specification registers. A `Digest` is a SHA-256, which the store and the
swarm know blobs by; content of another algorithm is only relayed (`proxy.relay`). Both are a `str`: URLs, headers, file
names and databases take them as they are. They are checked when they are made, so every one is valid. `raw` and
`from_raw` convert to and from the 32 bytes that the wire protocol and the core of a host use. Functions that take a
`str` as a digest (the store, readers) take a `Digest`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Final, Protocol, Self

from blake3 import blake3

from peer.errors import InvalidNameError

_PREFIX = "sha256:"
_HEX_AT = len(_PREFIX)
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_SHOWN_CHARACTERS = 80


class Hasher(Protocol):
    """A hash function under way, as in hashlib."""

    def update(self, data: memoryview, /) -> object: ...

    def hexdigest(self) -> str: ...


ALGORITHMS: Final[Mapping[str, tuple[int, Callable[[], Hasher]]]] = {
    "sha256": (64, hashlib.sha256),
    "sha384": (96, hashlib.sha384),
    "sha512": (128, hashlib.sha512),
    "blake3": (64, blake3),
}
"""The hexadecimal digits and the hash function of each algorithm: those that are registered, and Go's third SHA-2."""


_HEXADECIMAL = re.compile("[0-9a-f]+")


class AnyDigest(str):
    """`AnyDigest(text)` parses `text`, and gives a `Digest` for a SHA-256; raises InvalidNameError."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        algorithm, _, digits = text.partition(":")
        length, _ = ALGORITHMS.get(algorithm, (0, None))
        if not length or len(digits) != length or not _HEXADECIMAL.fullmatch(digits):
            raise InvalidNameError(
                f"digest {shown(text)} is not one of {', '.join(ALGORITHMS)}, a colon, and its lower-case hexadecimal"
                " digits"
            )
        return super().__new__(Digest if algorithm == "sha256" else cls, text)  # type: ignore[return-value]

    @property
    def hex(self) -> str:
        """The hexadecimal digits."""
        return self.partition(":")[2]

    @property
    def algorithm(self) -> str:
        """The name of the algorithm, such as `sha512`."""
        return self.partition(":")[0]

    def hasher(self) -> Hasher:
        """A new hash function of the digest's algorithm."""
        return ALGORITHMS[self.algorithm][1]()

    def names(self, content: bytes) -> bool:
        """Whether this is the digest of `content`."""
        hasher = self.hasher()
        hasher.update(memoryview(content))
        return hasher.hexdigest() == self.hex


class Digest(AnyDigest):
    """A SHA-256. `Digest(text)` parses `text`; raises InvalidNameError."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not _SHA256.fullmatch(text):
            raise InvalidNameError(
                f"digest {shown(text)} is not `sha256:` followed by 64 lower-case hexadecimal digits"
            )
        return str.__new__(cls, text)

    @classmethod
    def from_raw(cls, raw: bytes) -> Self:
        """The digest whose SHA-256 is `raw`; raises InvalidNameError unless that has 32 bytes."""
        return cls(_PREFIX + raw.hex())

    @classmethod
    def of(cls, content: bytes) -> Self:
        """The digest of `content`."""
        return cls.from_raw(hashlib.sha256(content).digest())

    @property
    def hex(self) -> str:
        """The 64 hexadecimal digits."""
        return self[_HEX_AT:]

    @property
    def raw(self) -> bytes:
        """The 32 bytes of the SHA-256."""
        return bytes.fromhex(self[_HEX_AT:])


def shown(text: str) -> str:
    """`text` for an error: printable, and not longer than a line."""
    return ascii(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")
