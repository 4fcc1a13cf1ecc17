"""The text of an operator's JSON file: where its members and elements are, and the text without one of them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from json.decoder import JSONDecoder
from typing import Any, Final

_SPACE: Final = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Item:
    """A member of an object or an element of a list, from `start` to `stop`; its value is from `value` to `stop`."""

    name: str
    start: int
    value: int
    stop: int


def items(text: str, bracket: int = 0) -> list[Item]:
    """The items of the object or list that begins at `bracket` or after white space there.

    `text` is JSON. Raises ValueError or IndexError if it is not.
    """
    decoder = JSONDecoder()
    opening = _skip(text, bracket)
    at = _skip(text, opening + 1)
    found = []
    while text[at] not in "]}":
        start, name = at, ""
        if text[opening] == "{":
            name, at = decoder.raw_decode(text, start)
            at = _skip(text, _skip(text, at) + 1)
        value = at
        _, at = decoder.raw_decode(text, value)
        found.append(Item(name, start, value, at))
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def member(text: str, name: str) -> Item | None:
    """The first member of that name in the object `text`."""
    return next((item for item in items(text) if item.name == name), None)


def without(text: str, among: list[Item], gone: Item) -> str:
    """The text without the item `gone` of the items `among`, and without the comma that it had."""
    at = among.index(gone)
    if at + 1 < len(among):
        return text[: gone.start] + text[among[at + 1].start :]
    return text[: among[at - 1].stop if at else gone.start] + text[gone.stop :]


def without_elements(text: str, name: str, gone: list[Any], *, may_go: bool) -> str:
    """The object `text` without the elements `gone` of the list `name`; if it `may_go`, not with an empty list."""
    found = member(text, name)
    if found is None:
        return text
    for element in gone:
        among = items(text, found.value)
        each = next((one for one in among if json.loads(text[one.value : one.stop]) == element), None)
        text = text if each is None else without(text, among, each)
    return _without_empty(text, name) if may_go else text


def without_member(text: str, name: str, gone: str, value: Any, *, may_go: bool) -> str:
    """The object `text` without the member `gone`, if it has that value, of the object `name`; if that `may_go`, not
    with an empty object."""
    found = member(text, name)
    if found is None or text[found.value] != "{":
        return text
    among = items(text, found.value)
    each = next((one for one in among if one.name == gone and json.loads(text[one.value : one.stop]) == value), None)
    text = text if each is None else without(text, among, each)
    return _without_empty(text, name) if may_go else text


def put_first(text: str, bracket: int, item: str, *, is_empty: bool) -> str:
    """The text with `item` behind the bracket at `bracket`, in the layout of the item that was first."""
    rest = text[bracket + 1 :]
    space = rest[: len(rest) - len(rest.lstrip())]
    if is_empty:
        return text[: bracket + 1] + item + rest[len(space) :]
    return f"{text[: bracket + 1]}{space}{item},{rest if space else ' ' + rest}"


def _without_empty(text: str, name: str) -> str:
    """The object `text` without the list or object `name`, if that is empty."""
    members = items(text)
    found = next(one for one in members if one.name == name)
    return text if items(text, found.value) else without(text, members, found)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
