"""Setting one value in a TOML file of the operator's, as text, so that comments and layout stay as they are.

Rules:
1. A line is replaced, or a line is added below the table's header, or the table is added at the end. Nothing else.
2. The result is parsed again and has to be what was there, with that one value set. TOML can be written in ways that no
   search for lines understands (inline tables, dotted keys, headers within strings): there this check fails, and the
   operator is told what to add.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

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


def headers(lines: list[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The lines that are a table's header, `[a.b]`, and the keys in it."""
    for index, line in enumerate(lines):
        if not line.lstrip().startswith("["):
            continue
        try:
            inner: Any = tomllib.loads(line)
        except tomllib.TOMLDecodeError:
            continue
        keys = []
        while isinstance(inner, dict) and inner:
            key, inner = next(iter(inner.items()))
            keys.append(key)
        yield index, tuple(keys)


def with_value(path: str, content: bytes, keys: tuple[str, ...], name: str, value: str | list[str] | bool) -> bytes:
    """`content` with `name = value` in the table `keys`. Raises ConfigureError where that is not possible exactly."""
    before = parse(path, content)
    text = text_of(path, content)
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    found = {keys_: index for index, keys_ in headers(lines)}
    setting = f"{name} = {json.dumps(value, ensure_ascii=False)}"
    header = "[" + ".".join(_key(key) for key in keys) + "]"
    if keys not in found:
        end = newline if text and not text.endswith("\n") else ""
        gap = newline if text.strip() else ""
        lines.append(f"{end}{gap}{header}{newline}  {setting}{newline}")
    else:
        _set(lines, found[keys], [index for index, _ in headers(lines)], name, setting, newline)
    after = "".join(lines).encode()
    if not _is(after, before, keys, name, value):
        raise ConfigureError(
            f"{path} is written in a way that p2pd cannot change safely; nothing was changed. "
            f"Add this to it by hand, in its table if that exists:\n{header}\n  {setting}"
        )
    return after


def _set(lines: list[str], start: int, all_headers: list[int], name: str, setting: str, newline: str) -> None:
    """Replace the line of `name` in the table whose header is line `start`, or add one below the header."""
    stop = min((index for index in all_headers if index > start), default=len(lines))
    value = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|\[[^\[\]\n]*\]|true|false)"""
    line_of = re.compile(rf"""^(\s*){re.escape(name)}\s*=\s*{value}(\s*(?:\#.*)?)$""", re.DOTALL)
    for index in range(start + 1, stop):
        match = line_of.match(lines[index])
        if match is not None:
            lines[index] = f"{match[1]}{setting}{match[2]}"
            return
    indent = lines[start][: len(lines[start]) - len(lines[start].lstrip())]
    if not lines[start].endswith("\n"):
        lines[start] += newline
    lines.insert(start + 1, f"{indent}  {setting}{newline}")


def _is(after: bytes, before: dict[str, Any], keys: tuple[str, ...], name: str, value: object) -> bool:
    """Whether `after` is `before` with that one value set."""
    wanted = copy.deepcopy(before)
    inner = wanted
    for key in keys:
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            return False
    inner[name] = value
    try:
        return tomllib.loads(after.decode()) == wanted
    except tomllib.TOMLDecodeError:
        return False


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
