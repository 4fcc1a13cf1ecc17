"""The journal of the files that p2pd changed: it makes `--undo` exact.

For each changed file, the journal has the original bytes (None: no file), the bytes that p2pd may have written, and the
directories that p2pd made. The journal is written before the first file is changed and again after the last. So after a
crash, each file has either its original bytes or bytes that the journal knows as ours.

`Entry.base` is the centre: the file as it would be if p2pd had never changed it. Configuring plans from the bases;
undoing writes them.
"""

from __future__ import annotations

import base64
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pd.configure.removal import without_values
from p2pd.configure.runtime import ConfigureError

FORMAT = 1


class ChangedError(ConfigureError):
    """A file was changed after p2pd's change and in the same place. `difference` shows the later change."""

    def __init__(self, path: str, difference: str) -> None:
        super().__init__(f"{path} was changed by somebody else after p2pd changed it:\n{difference}")
        self.path = path
        self.difference = difference


@dataclass(frozen=True, slots=True)
class Entry:
    """One file. `ours` are the contents that p2pd may have written: one, or two while a change is under way.

    `directories` are those that p2pd made for the file, outermost first. `runtimes` are those that need our change: the
    last one that is undone takes it away. It is empty in journals of earlier versions.
    """

    original: bytes | None
    ours: tuple[bytes, ...]
    directories: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()

    def is_untouched(self, present: bytes | None) -> bool:
        """Whether nobody else has changed the file since p2pd did."""
        return present == self.original or present in self.ours

    def base(self, path: str, present: bytes | None) -> bytes | None:
        """The file without our change. Raises ChangedError if the change cannot be taken out of `present` exactly.

        It is taken out by lines, which keeps every other byte; or by values, if somebody has rewritten the file. A file
        that somebody has removed is nobody's.
        """
        if self.is_untouched(present):
            return self.original
        if present is None:
            return None
        for ours in self.ours:
            without = take_out(ours, self.original, present) if self.original is not None else None
            if without is None:
                without = without_values(path, self.original, ours, present)
            if without is not None:
                return without if without.strip() or self.original is not None else None
        raise ChangedError(path, difference(path, self.ours[-1], present))


Journal = Mapping[str, Entry]
"""The entries by path."""


def encode(journal: Journal) -> bytes:
    files = {
        path: {
            "original": None if entry.original is None else base64.b64encode(entry.original).decode(),
            "ours": [base64.b64encode(one).decode() for one in entry.ours],
            "directories": entry.directories,
            "runtimes": entry.runtimes,
        }
        for path, entry in sorted(journal.items())
    }
    return json.dumps({"format": FORMAT, "files": files}, indent=1).encode()


def decode(where: str, content: bytes) -> Journal:
    """Raises ConfigureError if it is not a journal of this form."""
    try:
        document = json.loads(content)
        if document["format"] != FORMAT:
            raise ConfigureError(f"{where} is of a newer p2pd: use that one to undo")
        return {path: _entry(fields) for path, fields in document["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigureError(f"{where} is damaged: restore the files by hand, then remove it") from None


def _entry(fields: Mapping[str, Any]) -> Entry:
    original = fields["original"]
    first, *others = fields["ours"]
    return Entry(
        original=None if original is None else base64.b64decode(original, validate=True),
        ours=tuple(base64.b64decode(one, validate=True) for one in (first, *others)),
        directories=tuple(map(str, fields["directories"])),
        runtimes=tuple(map(str, fields.get("runtimes", ()))),
    )


def difference(path: str, before: bytes | None, after: bytes | None) -> str:
    """A unified diff, as `diff -u` has it; /dev/null stands for no file."""
    lines = difflib.unified_diff(
        (before or b"").decode(errors="replace").splitlines(),
        (after or b"").decode(errors="replace").splitlines(),
        "/dev/null" if before is None else path,
        "/dev/null" if after is None else path,
        lineterm="",
    )
    return "".join(f"{line}\n" for line in lines)


def take_out(ours: bytes, original: bytes, present: bytes) -> bytes | None:
    """`present` without our change, which had made `ours` from `original`; None if that cannot be done exactly.

    Our change is taken out if its lines stand in `present` unchanged, between the same two lines (or ends of the file)
    as before. A foreign line within our lines, or right beside them, makes the removal inexact: it may belong to the
    lines that would go.
    """
    ours_lines, original_lines, lines = _lines(ours), _lines(original), _lines(present)
    place = {
        start + offset: now + offset
        for start, now, size in difflib.SequenceMatcher(None, ours_lines, lines, autojunk=False).get_matching_blocks()
        for offset in range(size)
    }
    changes = difflib.SequenceMatcher(None, ours_lines, original_lines, autojunk=False).get_opcodes()
    for tag, start, stop, first, last in reversed(changes):
        if tag == "equal":
            continue
        around = [place.get(index) for index in range(start - 1, stop + 1)]
        if around[0] is None or around != [around[0] + offset for offset in range(len(around))]:
            return None
        lines[around[0] + 1 : around[0] + 1 + stop - start] = original_lines[first:last]
    return b"".join(lines[1:-1])


def _lines(content: bytes) -> list[bytes]:
    """The lines between two marks for the ends of the file. A mark equals no line, because it has no line feed."""
    return [b"\nstart", *content.splitlines(keepends=True), b"\nend"]
