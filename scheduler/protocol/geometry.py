"""How a blob is cut into pieces: arithmetic that every host and the scheduler must agree on.

Rules:
1. Pure functions of the blob's size. Two hosts that know the size know the pieces, with nothing exchanged.
2. Changing a number here is an incompatible change of the protocol (`scheduler.protocol.version`).
"""

from __future__ import annotations

MIN_PIECE_BYTES = 256 * 1024
"""Below it the round trip per piece costs more than the finer spread gains (2 ms are 250 KB at 1 Gbit/s)."""

MAX_PIECE_BYTES = 4 * 1024 * 1024
"""A transfer buffers one piece; 4 MiB is what Kraken uses for every size and Dragonfly for small blobs."""

MAX_PIECES = 1 << 16
"""The most pieces that a blob may have: 256 GiB in the longest pieces. It bounds bitfields to 8 KiB."""

MAX_BLOB_BYTES = MAX_PIECES * MAX_PIECE_BYTES

SHARES = 8
"""Piece `i` is in share `i % SHARES`: a site's gateways have some of the shares each (`to_host.Gateway`)."""

ALL_SHARES = (1 << SHARES) - 1
"""The set of all shares, a bit for each."""

_BALANCE = 25_000
"""`u * tau / L` in bytes: u = 1 Gbit/s = 125e6 B/s, tau = 2 ms spent on each piece, L = 10 = log2 of 1000 hosts."""


def piece_length(size_bytes: int) -> int:
    """The length in bytes of every piece of a blob but the last.

    The time of the last of N hosts is `(M + L) * (S / (M * u) + tau)` with M pieces of a blob of S bytes, which is
    least at `M = sqrt(L * S / (u * tau))`, that is at pieces of `sqrt(25_000 * S)` bytes (limit L3 of the literature:
    Mundinger, Weber and Weiss, with a cost per piece). We take the power of two that is nearest to it in ratio:
    the time is flat around its least value, and powers of two align with pages and disk blocks.

    Raises ValueError if no blob may have that size.
    """
    if not 0 <= size_bytes <= MAX_BLOB_BYTES:
        raise ValueError(f"a blob of {size_bytes} bytes is outside 0..{MAX_BLOB_BYTES}")
    # x has 2e or 2e + 1 bits exactly when sqrt(x) lies between 2**(e - 1/2) and 2**(e + 1/2).
    nearest = 1 << ((_BALANCE * size_bytes).bit_length() // 2)
    return min(max(nearest, MIN_PIECE_BYTES), MAX_PIECE_BYTES)


def piece_count(size_bytes: int, piece_length: int) -> int:
    """How many pieces a blob has; the empty blob has none."""
    return -(-size_bytes // piece_length)


def piece_span(index: int, size_bytes: int, piece_length: int) -> tuple[int, int]:
    """The bytes `[start, stop)` of piece `index`. Raises IndexError if the blob has no such piece."""
    start = index * piece_length
    if index < 0 or start >= size_bytes:
        raise IndexError(f"a blob of {size_bytes} bytes in pieces of {piece_length} has no piece {index}")
    return start, min(start + piece_length, size_bytes)
