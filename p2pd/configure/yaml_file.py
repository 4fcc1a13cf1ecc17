"""An operator's YAML file: its values, and lines put in or taken out where the parser says that things are.

Rules:
1. Text is only inserted or cut out: every other byte stays, and with it comments and layout.
2. The result is parsed again, and has to have exactly the values that are wanted. So anchors, tags, merge keys and
   documents of several parts are refused by themselves, where a change would touch them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from p2pd.configure.runtime import ConfigureError, text_of

Values = dict[str, Any]

_MAX_VALUES: Final = 100_000
"""Aliases of aliases stand for many more values than a file has bytes."""


def parse(path: str, content: bytes) -> Values:
    """The file's values; none if it is empty. Raises ConfigureError if it is no YAML or no mapping."""
    try:
        return loads(text_of(path, content))
    except ValueError as error:
        reason = str(error).replace("\n", " ")
        raise ConfigureError(f"{path} is not YAML as expected ({reason}): mend it first; nothing was changed") from None


def loads(text: str) -> Values:
    """The values, an anchor's and its aliases' apart. Raises ValueError if it is no YAML, or no mapping."""
    try:
        values = _unshared(yaml.safe_load(text), itertools.count())
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(values, dict | None):
        raise ValueError("it is no mapping")  # noqa: TRY004 # of the file, not of an argument
    return values or {}


def with_first(text: str, keys: Sequence[str], element: str) -> str:
    """`text` with `element` before all others in the list that `keys` lead to; missing mappings and the list are made.

    Raises ValueError where that is not possible exactly.
    """
    wanted = loads(text)
    inner: Any = wanted
    for key in keys[:-1]:
        inner[key] = inner.get(key) or {}
        inner = inner[key]
        if not isinstance(inner, dict):
            raise ValueError(f"{key} is no mapping")  # noqa: TRY004
    inner[keys[-1]] = [element, *(inner.get(keys[-1]) or [])]
    lines = text if text.endswith("\n") or not text else f"{text}\n"
    after = _inserted(lines, _compose(lines), list(keys), element)
    if after is None or loads(after) != wanted:
        raise ValueError("it is written in a way that p2pd cannot change safely")
    return after


def without(text: str, keys: Sequence[str], element: str | None = None) -> str:
    """`text` without the member that `keys` lead to, or without `element` of that list."""
    parent = _compose(text)
    for key in keys if element is not None else keys[:-1]:
        found = _find(parent, [key])
        parent = found[1] if found is not None else None
    if not isinstance(parent, MappingNode | SequenceNode):
        return text
    is_mapping = isinstance(parent, MappingNode)
    items = [member if is_mapping else (member, member) for member in parent.value]
    wanted = keys[-1] if element is None else element
    at = next((at for at, (start, _) in enumerate(items) if start.value == wanted), None)
    if at is None:
        return text
    start, end = items[at]
    if not parent.flow_style:
        lines = text.splitlines(keepends=True)
        return "".join([*lines[: start.start_mark.line], *lines[_last_line(end) + 1 :]])
    first, last = start.start_mark.index, end.end_mark.index
    if at + 1 < len(items):
        last = items[at + 1][0].start_mark.index
    elif at > 0:
        first = items[at - 1][1].end_mark.index
    return text[:first] + text[last:]


def _unshared(value: Any, counter: Iterator[int]) -> Any:
    if next(counter) > _MAX_VALUES:
        raise ValueError("its aliases stand for too many values")
    if isinstance(value, dict):
        return {key: _unshared(one, counter) for key, one in value.items()}
    return [_unshared(one, counter) for one in value] if isinstance(value, list) else value


def _inserted(text: str, node: Node | None, keys: list[str], element: str) -> str | None:
    """The text with the element, where `keys` begin in `node`; None if the node is of another form."""
    if node is None:
        return text + "".join(_block(keys, element, 0))
    if isinstance(node, SequenceNode):
        if node.flow_style:
            return _at(text, node.start_mark.index + 1, json.dumps(element) + (", " if node.value else ""))
        return _before_line(text, node.start_mark.line, [f"{' ' * node.start_mark.column}- {json.dumps(element)}\n"])
    if not isinstance(node, MappingNode):
        return None
    found = _find(node, keys[:1])
    if found is None:
        if node.flow_style:
            member = json.dumps(_nested(keys, element))[1:-1]
            return _at(text, node.start_mark.index + 1, member + (", " if node.value else ""))
        first = node.start_mark
        return _before_line(text, first.line, _block(keys, element, first.column))
    key, value = found
    if isinstance(value, ScalarNode) and value.value == "":  # nothing stands behind the key
        lines = _block(keys, element, key.start_mark.column)[1:]
        return _before_line(text, key.start_mark.line + 1, lines)
    return _inserted(text, value, keys[1:], element)


def _block(keys: Sequence[str], element: str, column: int) -> list[str]:
    """The lines of the keys, one below the other, and of the element."""
    names = [f"{' ' * (column + 2 * depth)}{_quoted(key)}:\n" for depth, key in enumerate(keys)]
    return [*names, f"{' ' * (column + 2 * len(keys))}- {json.dumps(element)}\n"]


def _quoted(key: str) -> str:
    return key if key.isalpha() else json.dumps(key)


def _nested(keys: Sequence[str], element: str) -> Any:
    return {keys[0]: _nested(keys[1:], element)} if keys else [element]


def _at(text: str, index: int, added: str) -> str:
    return text[:index] + added + text[index:]


def _before_line(text: str, line: int, added: list[str]) -> str:
    lines = text.splitlines(keepends=True)
    newline = "\r\n" if "\r\n" in text else "\n"
    return "".join([*lines[:line], *(one.replace("\n", newline) for one in added), *lines[line:]])


def _compose(text: str) -> Node | None:
    try:
        node: Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    return node


def _find(node: Node | None, keys: Sequence[str]) -> tuple[Node, Node] | None:
    """The nodes of the last key and of its value."""
    found = None
    for key in keys:
        members = node.value if isinstance(node, MappingNode) else []
        found = next((member for member in members if member[0].value == key), None)
        if found is None:
            return None
        node = found[1]
    return found


def _last_line(node: Node) -> int:
    """The line that the last scalar below the node ends on. (A block itself ends where the next thing begins.)"""
    return max(leaf.end_mark.line for leaf in _leaves(node))


def _leaves(node: Node) -> Iterator[Node]:
    inner = node.value if isinstance(node, SequenceNode) else []
    if isinstance(node, MappingNode):
        inner = [one for member in node.value for one in member]
    if not inner:
        yield node
    for one in inner:
        yield from _leaves(one)
