"""An operator's TOML file: its values, and edits with tomlkit, which leaves comments and layout as they are.

Rules:
1. A value is replaced, a list of many lines gets another first element, a line is added below a table's header, or a
   table is added. Nothing else changes, but that the last line gets its line feed.
2. The standard library parses the result again, which has to have exactly the values that are wanted. TOML forbids some
   additions: a header must not open a table that dotted keys made. tomlkit gathers the tables of an array that stand
   apart. There the file is left alone, and the error says what to add by hand.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable
from typing import Any

import tomlkit
from tomlkit.container import OutOfOrderTableProxy
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Array, InlineTable, Item, Table

from p2pd.configure.runtime import ConfigureError, text_of


def parse(path: str, content: bytes) -> dict[str, Any]:
    """The file's values. Raises ConfigureError if it is no TOML."""
    try:
        return tomllib.loads(text_of(path, content))
    except tomllib.TOMLDecodeError as error:
        raise ConfigureError(f"{path} is not TOML ({error}): mend it first; nothing was changed") from None


def table(values: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The table that `keys` lead to; an empty one if there is none."""
    found: Any = values
    for key in keys:
        found = found.get(key, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, dict) else {}


def new_table(keys: tuple[str, ...], values: dict[str, Any]) -> Table:
    """The table `[keys[1]. …]` with `values`, to be put into a document as `keys[0]`."""
    made = tomlkit.table()
    for name, value in values.items():
        made.add(name, tomlkit.item(value).indent(2))
    for key in reversed(keys[1:]):
        inner, made = made, tomlkit.table(is_super_table=True)
        made.add(key, inner)
    return made


def edited(
    path: str,
    content: bytes,
    edit: Callable[[tomlkit.TOMLDocument], None],
    is_wanted: Callable[[dict[str, Any]], bool],
    by_hand: str,
) -> bytes:
    """`content` after `edit`. Raises ConfigureError, which says what to do by hand, if the result is not as wanted."""
    text = text_of(path, content)
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text if text.endswith("\n") or not text else text + newline
    try:
        document = tomlkit.parse(lines)
        is_kept = document.as_string() == lines
        edit(document)
        after = document.as_string()
        if "\n" not in text.replace("\r\n", ""):
            after = after.replace("\r\n", "\n").replace("\n", newline)
        if is_kept and is_wanted(tomllib.loads(after)):
            return after.encode()
    except (TOMLKitError, tomllib.TOMLDecodeError):
        pass
    raise ConfigureError(f"{path} is written in a way that p2pd cannot change safely; nothing was changed. {by_hand}")


def with_value(path: str, content: bytes, keys: tuple[str, ...], name: str, value: str | list[str] | bool) -> bytes:
    """`content` with `name = value` in the table `keys`. A list is what it was, after another first element.

    Raises ConfigureError where that is not possible exactly.
    """

    def edit(document: tomlkit.TOMLDocument) -> None:
        found: Any = document
        for key in keys:
            found = found.get(key, {}) if isinstance(found, dict) else {}
        present = found.get(name)
        if isinstance(value, list) and isinstance(present, Array) and "\n" in present.as_string():
            present.insert(0, value[0])  # a list of many lines may have comments
        elif name in found or isinstance(found, InlineTable | OutOfOrderTableProxy):
            found[name] = value
        elif isinstance(found, Table):
            item = tomlkit.item(value)
            item.trivia.indent = found.trivia.indent + "  "
            found.value.body.insert(0, (tomlkit.key(name), item))
        else:
            gap: list[tuple[None, Item]] = [(None, tomlkit.nl())] if content.strip() else []
            document.body.extend([*gap, (tomlkit.key(keys[0]), added)])

    added = new_table(keys, {name: value})
    wanted = copy.deepcopy(parse(path, content))
    inner: Any = wanted
    for key in keys:
        inner = inner.setdefault(key, {}) if isinstance(inner, dict) else {}
    if isinstance(inner, dict):
        inner[name] = value
    by_hand = (
        f"Add this to it by hand, in its table if that exists:\n{tomlkit.document().add(keys[0], added).as_string()}"
    )
    return edited(path, content, edit, lambda values: values == wanted, by_hand)
