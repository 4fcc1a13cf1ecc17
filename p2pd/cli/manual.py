"""Man pages, from the commands themselves: `python -m p2pd.cli.manual DIRECTORY` writes one for p2pd and each command.

The text is what `--help` has, so both say the same. groff's `man` macros; the date is that of SOURCE_DATE_EPOCH, if it
is set, so that a package can be built twice alike.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from inspect import cleandoc
from pathlib import Path
from typing import Final

import click

from p2pd.cli.app import COMMANDS, GROUPS, app
from p2pd.config.sources import DEFAULT_FILE, FILE_VARIABLE, PREFIX

EXITS: Final = (
    ("0", "Done."),
    ("1", "Failed: the last line says why."),
    ("2", "Used wrongly: a flag, a variable or a file is wrong."),
    ("130", "Ended by Ctrl-C."),
)
PLACES: Final = (
    (str(DEFAULT_FILE), f"The configuration, unless --config or ${FILE_VARIABLE} names another file."),
    ("/var/lib/p2pd", "The cache, unless the key data names another directory."),
    (f"{PREFIX}<KEY>", "A variable for each key of the configuration: it wins over the file, and a flag over it."),
)


def pages() -> Iterator[tuple[str, str]]:
    """The name and the text of each page: `p2pd.1`, `p2pd-cache.1`, `p2pd-cache-ls.1`."""
    for context in _contexts(click.Context(app, info_name="p2pd", help_option_names=["-h", "--help"])):
        yield f"{context.command_path.replace(' ', '-')}.1", "\n".join(_page(context)) + "\n"


def write(directory: Path) -> None:
    """Write all pages. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (directory / name).write_text(text)


def _contexts(context: click.Context) -> Iterator[click.Context]:
    yield context
    command = context.command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from _contexts(click.Context(below, info_name=name, parent=context))


def _page(context: click.Context) -> Iterator[str]:
    path, command = context.command_path, context.command
    first, *rest = re.split(r"\n[ \t]*\n", cleandoc(command.help or ""))
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    yield f'.TH "{path.replace(" ", "-").upper()}" "1" "{date}" "p2pd {metadata.version("p2pd")}" "p2pd"'
    yield ".SH NAME"
    yield f"{_text(path.replace(' ', '-'))} \\- {_text(_one_line(first)).rstrip('.')}"
    yield ".SH SYNOPSIS"
    yield f".B {_text(path)}"
    yield _text(" ".join(command.collect_usage_pieces(context)))
    if rest:
        yield ".SH DESCRIPTION"
        for number, paragraph in enumerate(rest):
            if number:
                yield ".PP"
            yield from _paragraph(paragraph)
    yield from _commands(context)
    options = [each for each in command.get_params(context) if isinstance(each, click.Option) and not each.hidden]
    yield from _list("OPTIONS", [record for each in options if (record := each.get_help_record(context))])
    yield from _list("EXIT STATUS", EXITS)
    yield from _list("FILES AND ENVIRONMENT", PLACES)
    parent = context.parent
    if parent is not None:
        yield ".SH SEE ALSO"
        yield f".BR {_text(parent.command_path.replace(' ', '-'))} (1)"


def _commands(context: click.Context) -> Iterator[str]:
    command = context.command
    if command is app:
        named = {name for names in GROUPS.values() for name in names}
        groups = {**GROUPS, "More": tuple(name for name in COMMANDS if name not in named)}
        yield ".SH COMMANDS"
        for title, names in groups.items():
            yield f".SS {title}"
            yield from _rows([(f"p2pd-{name}(1)", COMMANDS[name]) for name in names])
    elif isinstance(command, click.Group):
        found = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
        path = context.command_path.replace(" ", "-")
        rows = [(f"{path}-{name}(1)", _one_line(each.help or "")) for name, each in found if each and not each.hidden]
        yield from _list("COMMANDS", rows)


def _list(title: str, rows: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> Iterator[str]:
    if rows:
        yield f".SH {title}"
        yield from _rows(rows)


def _rows(rows: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> Iterator[str]:
    for term, meaning in rows:
        yield ".TP"
        yield f"\\fB{_text(term)}\\fR"
        yield _text(_one_line(meaning))


def _paragraph(text: str) -> Iterator[str]:
    """A paragraph is filled, but for one that begins with click's `\\b`."""
    if not text.startswith("\b"):
        yield _text(_one_line(text))
        return
    yield ".nf"
    yield from map(_text, text.removeprefix("\b").strip("\n").splitlines())
    yield ".fi"


def _one_line(text: str) -> str:
    return " ".join(text.replace("\b", "").split())


def _text(text: str) -> str:
    """As groff sets it: no escape, no request, and dashes that can be pasted."""
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{safe}" if safe.startswith((".", "'")) else safe


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "build/man"))
