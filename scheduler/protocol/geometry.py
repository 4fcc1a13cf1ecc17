"""The division of a blob into pieces: arithmetic that every host and the scheduler must agree on.

Rules:
1. Pure functions. Two hosts that know the size of a blob know the usual length of its pieces (`piece_length`).
2. The scheduler may choose shorter pieces of a long blob, and longer ones of a short blob (`scheduler.core.lengths`),
   which `Joined` tells. Messages say 0 for the usual length, and `said_piece_length` checks every other.
3. Changing the usual length is an incompatible change of the protocol (`scheduler.protocol.from_host.VERSION_OLDEST`).
"""

from __future__ import annotations

MIN_PIECE_BYTES = 256 * 1024
"""In smaller pieces the round trip per piece costs more than the finer spread gains (2 ms are 250 KB at 1 Gbit/s)."""

MAX_PIECE_BYTES = 4 * 1024 * 1024
"""A transfer buffers one piece. Kraken uses 4 MiB for every blob, and Dragonfly uses 4 MiB for small blobs."""

MAX_PIECES = 1 << 16
"""The most pieces that a blob may have: 256 GiB in the longest pieces. It bounds bitfields to 8 KiB."""

MAX_BLOB_BYTES = MAX_PIECES * MAX_PIECE_BYTES

SHARES = 8
"""Piece `i` is in share `i % SHARES`. Each gateway of a site owns some of the shares (`to_host.Gateway`)."""

ALL_SHARES = (1 << SHARES) - 1
"""The set of all shares, a bit for each."""

_BALANCE = 25_000
"""`u * tau / L` in bytes: u = 1 Gbit/s = 125e6 B/s, tau = 2 ms spent on each piece, L = 10 = log2 of 1000 hosts."""

MIN_SWARM_PIECE_BYTES = 512 * 1024
"""The least that a swarm may choose: 42 ms at 100 Mbit/s. With shorter pieces simulated swarms take longer."""

MIN_LENGTHENED_BYTES = 4 * 1024 * 1024
"""The length of the shortest blob of which a swarm may have longer pieces: its 16 usual ones are few enough."""


def piece_length(size_bytes: int) -> int:
    """The length in bytes of every piece of a blob except the last.

    The last of N hosts finishes after `(M + L) * (S / (M * u) + tau)` with M pieces of a blob of S bytes. The minimum
    is at `M = sqrt(L * S / (u * tau))`, which means pieces of `sqrt(25_000 * S)` bytes (limit L3 of the literature:
    Mundinger, Weber and Weiss, with a cost per piece). We take the power of two with the nearest ratio, because the
    time is flat around its minimum and powers of two align with pages and disk blocks.

    Raises ValueError if no blob may have that size.
    """
    if not 0 <= size_bytes <= MAX_BLOB_BYTES:
        raise ValueError(f"a blob of {size_bytes} bytes is outside 0..{MAX_BLOB_BYTES}")
    # x has 2e or 2e + 1 bits exactly when sqrt(x) lies between 2**(e - 1/2) and 2**(e + 1/2).
    nearest = 1 << ((_BALANCE * size_bytes).bit_length() // 2)
    return min(max(nearest, MIN_PIECE_BYTES), MAX_PIECE_BYTES)


def is_long(size_bytes: int) -> bool:
    """Whether a swarm may have shorter pieces of a blob than the usual ones."""
    return piece_length(size_bytes) > MIN_SWARM_PIECE_BYTES


def longest_piece_length(size_bytes: int) -> int:
    """The length of the longest pieces that a swarm may have of a blob: the usual one, or twice that."""
    usual = piece_length(size_bytes)
    return 2 * usual if size_bytes >= MIN_LENGTHENED_BYTES and not is_long(size_bytes) else usual


def is_divisible(size_bytes: int) -> bool:
    """Whether a swarm may have other pieces of a blob than the usual ones."""
    return size_bytes >= MIN_LENGTHENED_BYTES


def told_piece_length(size_bytes: int, length: int) -> int:
    """How messages tell a length of pieces: 0 is the usual one."""
    return 0 if length == piece_length(size_bytes) else length


def knows_pieces(size_bytes: int, told_length: int, *, divides: bool, lengthens: bool) -> bool:
    """Whether a host or a scheduler knows of pieces of this length (0: the usual one) of a blob.

    It has the feature `piece-length` if it `divides`, and `long-pieces` if it `lengthens`.
    """
    if not told_length:
        return True
    return divides if told_length < piece_length(size_bytes) else lengthens


def said_piece_length(size_bytes: int, said: int) -> int:
    """The length in bytes of the pieces of a blob of which a message says `said`: 0 is the usual length.

    Raises ValueError if a blob of that size cannot have such pieces.
    """
    usual = piece_length(size_bytes)
    if not said:
        return usual
    if (
        said & (said - 1)
        or not (said in (usual, longest_piece_length(size_bytes)) or MIN_SWARM_PIECE_BYTES <= said < usual)
        or piece_count(size_bytes, said) > MAX_PIECES
    ):
        raise ValueError(f"a blob of {size_bytes} bytes is not divided into pieces of {said}")
    return said


def piece_count(size_bytes: int, piece_length: int) -> int:
    """The number of pieces of a blob. The empty blob has no pieces."""
    return -(-size_bytes // piece_length)


def piece_span(index: int, size_bytes: int, piece_length: int) -> tuple[int, int]:
    """The bytes `[start, stop)` of piece `index`. Raises IndexError if the blob has no such piece."""
    start = index * piece_length
    if index < 0 or start >= size_bytes:
        raise IndexError(f"a blob of {size_bytes} bytes in pieces of {piece_length} has no piece {index}")
    return start, min(start + piece_length, size_bytes)
