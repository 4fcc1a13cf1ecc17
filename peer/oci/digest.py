"""The digest that names content: `sha256:` and 64 lower-case hexadecimal digits (OCI image specification, "Digests").

A `Digest` is a `str`: URLs, headers, file names and databases take it as it is. It is checked when it is made, so every
`Digest` is valid. `raw` and `from_raw` convert to and from the 32 bytes that the wire protocol and the core of a host
use. Functions that take a `str` as a digest (the store, readers) take a `Digest`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Self

from peer.errors import InvalidNameError

_PREFIX = "sha256:"
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_SHA512 = re.compile(r"sha512:[0-9a-f]{128}")
_SHOWN_CHARACTERS = 80


class Digest(str):
    """`Digest(text)` parses `text`; raises InvalidNameError."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not _SHA256.fullmatch(text):
            if _SHA512.fullmatch(text):
                raise InvalidNameError(f"digest {shown(text)} is a sha512, and p2pd supports sha256 only")
            raise InvalidNameError(
                f"digest {shown(text)} is not `sha256:` followed by 64 lower-case hexadecimal digits"
            )
        return super().__new__(cls, text)

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
        return self[len(_PREFIX) :]

    @property
    def raw(self) -> bytes:
        """The 32 bytes of the SHA-256."""
        return bytes.fromhex(self.hex)


def shown(text: str) -> str:
    """`text` for an error: printable, and not longer than a line."""
    return ascii(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")
