"""Content codings (RFC 9110, section 8.4): what a proxy on the way has compressed, although p2pd asks for identity.

Rules:
1. gzip and deflate are decoded. Other codings are not: bytes with such a label are used as they are if a digest, or
   their form, proves them.
2. A label proves nothing: many stores label a layer `gzip` that *is* a gzip file. The digest, or the length, decides.
3. What comes out is bounded before it is made.
"""

from __future__ import annotations

import zlib

_DECODED = frozenset({"gzip", "x-gzip", "deflate"})
_NOT_DECODED = frozenset({"br", "zstd", "compress", "x-compress"})

_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_RAW_DEFLATE = -zlib.MAX_WBITS
_TELLING_BYTES = 2
"""They tell gzip, zlib (what `deflate` means) and raw deflate (what some servers send for it) from one another."""


def coding_of(header: str) -> str | None:
    """The coding of a Content-Encoding header; None if there is none, or only a label that codes nothing."""
    for name in reversed(header.split(",")):
        if (coding := name.strip().lower()) in _DECODED | _NOT_DECODED:
            return coding
    return None


def is_decoded(coding: str | None) -> bool:
    """Whether `Decoder` knows the coding."""
    return coding in _DECODED


class CodingError(ValueError):
    """The bytes are not what their coding says, or end within it."""


class Decoder:
    """Decodes gzip (of several members, too), zlib and raw deflate. `ended` when the coding's end was reached."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._rest = b""
        self._is_first = True
        self._was_full = False
        self.ended = False

    def feed(self, data: bytes) -> None:
        """Take coded bytes. All that came before were decoded."""
        self._rest += data

    def decode(self, most_bytes: int) -> bytes:
        """Up to `most_bytes` (at least 1) of what was fed; empty if more has to be fed. Raises CodingError."""
        if self._is_first and len(self._rest) < _TELLING_BYTES:
            return b""
        while self._rest or self._was_full:
            if self._inflate.eof:
                if not self._rest.strip(b"\0"):  # padding
                    self._rest = b""
                    break
                self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
            try:
                decoded = self._inflate.decompress(self._rest, most_bytes)
            except zlib.error as error:
                if not self._is_first:
                    raise CodingError(str(error)) from None
                self._is_first = False
                self._inflate = zlib.decompressobj(_RAW_DEFLATE)
                continue
            self._is_first = False
            self._was_full = len(decoded) == most_bytes and not self._inflate.eof  # zlib may hold back some output
            self._rest = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            self.ended = self._inflate.eof
            if decoded:
                return decoded
        return b""


def decoded(body: bytes, most_bytes: int) -> bytes | None:
    """The whole of a coded body; None if it is not so coded, is cut short, or has more than `most_bytes`."""
    decoder, parts, size_bytes = Decoder(), [], 0
    decoder.feed(body)
    try:
        while part := decoder.decode(most_bytes + 1 - size_bytes):
            parts.append(part)
            size_bytes += len(part)
            if size_bytes > most_bytes:
                return None
    except CodingError:
        return None
    return b"".join(parts) if decoder.ended else None
