"""Tables in a terminal of any size: pure. What does not fit is counted and left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LEAST_ROWS: Final = 3
"""The rows that each table gets before the tables above it get more."""

BAR: Final = 8


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of as many cells as `head` has. The first column is as wide as there is room; the others are right-aligned
    if their heads begin with `>`."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    nothing: str = "none"


def screen(top: Sequence[str], tables: Sequence[Table], width: int, height: int) -> list[str]:
    """The lines of a screen: `top`, and below it the tables, each with as many rows as there is room for."""
    lines = list(top)
    room = height - len(lines) - sum(3 if table.rows else 2 for table in tables)
    given = [min(len(table.rows), LEAST_ROWS) for table in tables]
    room -= sum(given)
    for at, table in enumerate(tables):
        more = max(0, min(len(table.rows) - given[at], room))
        given[at] += more
        room -= more
    for table, rows in zip(tables, given, strict=True):
        lines += ["", *_lines(table, rows, width)]
    return [clean(line)[:width].rstrip() for line in lines[:height]]


def bar(share: float) -> str:
    """A share of 1 as a bar and in per cent."""
    part = min(1.0, max(0.0, share))
    filled = int(part * BAR)
    return f"{'#' * filled}{'.' * (BAR - filled)} {int(100 * part):3d} %"


def clean(text: str) -> str:
    """Text without what a terminal would obey: names come from other hosts."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _lines(table: Table, count: int, width: int) -> list[str]:
    if not table.rows:
        return [f"{table.title}: {table.nothing}"]
    left_out = len(table.rows) - count
    title = f"{table.title} ({left_out} more)" if left_out else table.title
    heads = [head.removeprefix(">") for head in table.head]
    shown = [[*map(clean, row)] for row in table.rows[:count]]
    widths = [max(map(len, column)) for column in zip(heads, *shown, strict=True)]
    widths[0] = max(8, min(widths[0], width - sum(widths[1:]) - 2 * (len(widths) - 1)))
    return [title, *(_line(row, table.head, widths) for row in [heads, *shown])]


def _line(cells: Sequence[str], head: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if name.startswith(">") else _cut(cell, width).ljust(width)
        for cell, name, width in zip(cells, head, widths, strict=True)
    ]
    return "  ".join(padded)


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 1]}~"
