"""Rows as columns, compressed: what schedulers tell each other in Redis, also of 100,000 hosts.

A line of JSON for each column. So no single call of the JSON library holds the interpreter for long, and the event
loop beside the thread that does this goes on. What is read is checked: Redis is not ours alone.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

MAX_BYTES: Final = 64 * 1024 * 1024
"""Of what is told at once, decompressed: more than 200,000 hosts take."""

MAX_TEXT: Final = 512
MAX_NUMBER: Final = 2**62

Columns = Mapping[str, list[Any]]


def encode(columns: Columns) -> bytes:
    """The columns, cut to what `rows` takes, whatever hosts have said. Many take a while: not on the event loop."""
    lines = [json.dumps([name, _cut(cells)], separators=(",", ":")) for name, cells in columns.items()]
    return zlib.compress("\n".join(lines).encode(), 1)


def decode(stored: bytes | None) -> dict[str, list[Any]]:
    """The columns in what is stored; none if it is none."""
    found: dict[str, list[Any]] = {}
    try:
        for line in zlib.decompressobj().decompress(stored or b"", MAX_BYTES).split(b"\n"):
            name, cells = json.loads(line)
            if not isinstance(name, str) or not isinstance(cells, list):
                return {}
            found[name] = cells
    except (zlib.error, ValueError, TypeError, RecursionError):
        return {}
    return found


def rows(found: Columns, kinds: Mapping[str, Any], prefix: str = "") -> list[Sequence[Any]]:
    """The cells of these columns row by row, each of its type (`_FITS`); none if a column is missing or wrong."""
    columns = [found.get(prefix + name, []) for name in kinds]
    if len({len(column) for column in columns}) != 1:
        return []
    if not all(_FITS[kind](column) for kind, column in zip(kinds.values(), columns, strict=True)):
        return []
    return list(zip(*columns, strict=True))


def _cut(column: list[Any]) -> list[Any]:
    kinds = set(map(type, column))
    if kinds == {str} and not _is_text(column):
        return [cell[:MAX_TEXT] for cell in column]
    if kinds == {int} and not _is_within(column):
        return [max(-MAX_NUMBER, min(cell, MAX_NUMBER)) for cell in column]
    return column


def _is_text(column: list[Any]) -> bool:
    return set(map(type, column)) <= {str} and max(map(len, column), default=0) <= MAX_TEXT


def _is_whole(column: list[Any]) -> bool:
    return set(map(type, column)) <= {int} and _is_within(column)


def _is_number(column: list[Any]) -> bool:
    return set(map(type, column)) <= {int, float} and all(map(math.isfinite, column)) and _is_within(column)


def _is_within(column: list[Any]) -> bool:
    return not column or (max(column) <= MAX_NUMBER and min(column) >= -MAX_NUMBER)


_FITS: Final[Mapping[Any, Callable[[list[Any]], bool]]] = {
    str: _is_text,
    int: _is_whole,
    float: _is_number,
    bool: lambda column: set(map(type, column)) <= {bool},
    float | None: lambda column: _is_number([cell for cell in column if cell is not None]),
}
"""By a field's type: whether all cells of a column are of it."""
