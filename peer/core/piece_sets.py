"""Sets of pieces as integers, a bit for each piece, and how the protocol writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from scheduler.protocol.fields import MAX_DIGESTS_PER_MESSAGE
from scheduler.protocol.geometry import ALL_SHARES, MAX_PIECES, SHARES


def mask(first: int, stop: int) -> int:
    """Pieces `[first, stop)` as a set."""
    return (1 << stop) - (1 << first) if stop > first else 0


def union(ranges: Iterable[tuple[int, int]]) -> int:
    """The pieces of all the ranges `[first, stop)` as a set."""
    pieces = 0
    for first, stop in ranges:
        pieces |= mask(first, stop)
    return pieces


def pieces_of(shares: int) -> int:
    """The pieces of some shares, however many pieces there are, as a set."""
    if shares == ALL_SHARES:
        return -1
    return int.from_bytes(bytes([shares]) * (MAX_PIECES // SHARES), "little")


def bitfield(pieces: int) -> bytes:
    """A set of pieces as the protocol writes it: little-endian, as long as it needs to be."""
    return pieces.to_bytes((pieces.bit_length() + 7) // 8, "little")


def spans(pieces: int) -> Iterator[tuple[int, int]]:
    """The runs of consecutive pieces in a set."""
    first = 0
    while pieces:
        gap = (pieces & -pieces).bit_length() - 1
        first, pieces = first + gap, pieces >> gap
        length = (~pieces & (pieces + 1)).bit_length() - 1
        yield first, first + length
        first, pieces = first + length, pieces >> length


def indices(pieces: int) -> Iterator[int]:
    """The pieces of a set in order, one by one."""
    for first, stop in spans(pieces):
        yield from range(first, stop)


def digest_runs(digests: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Digests of consecutive pieces, joined, with the index of the first; each run fits into one message."""
    run: list[bytes] = []
    first = 0
    for index in sorted(digests):
        if run and (index != first + len(run) or len(run) == MAX_DIGESTS_PER_MESSAGE):
            yield first, b"".join(run)
            run = []
        if not run:
            first = index
        run.append(digests[index])
    if run:
        yield first, b"".join(run)


def gap(held: int, behind: int) -> int:
    """The first piece that is not in `held`, as a set, if at least so many are in it that come after; else none."""
    first = ~held & (held + 1)
    return first if (held >> first.bit_length()).bit_count() >= behind else 0
