"""Takes p2pd's values out of a file that others have rewritten since: by what the file says, in whatever layout.

Rules:
1. A value that p2pd set, and that still has p2pd's value, becomes what it was. Tables that p2pd added go if they are
   empty then, and elements that p2pd put into a list go out of it. A value that somebody has changed since is theirs.
2. `version` stays as long as anything else does: it says how the rest is to be read.
3. The result is parsed again and has to say exactly what is wanted. Else None: the file is left to the operator.
"""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

from p2pd.configure import json_file, yaml_file
from p2pd.configure.runtime import COMMENT, MARK

Values = dict[str, Any]


def without_values(path: str, original: bytes | None, ours: bytes, present: bytes) -> bytes | None:
    """`present` without the change that made `ours` from `original`; None if that cannot be done exactly.

    Nothing but white space is left if all of it was p2pd's.
    """
    form = _FORMS.get(PurePosixPath(path).suffix)
    if form is None:
        return None
    parse, remove = form
    try:
        before, after, now = parse((original or b"").decode()), parse(ours.decode()), parse(present.decode())
        wanted = copy.deepcopy(now)
        revert(before, after, wanted)
        if original is None and set(wanted) <= {"version"} and _no_comments(present):
            return b""
        text = remove(_unmarked(present.decode()), before, after)
        return text.encode() if parse(text) == wanted else None
    except (ValueError, TypeError, LookupError, RecursionError, TOMLKitError):
        return None


def revert(original: Mapping[str, Any], ours: Mapping[str, Any], present: Any, *, is_top: bool = True) -> None:
    """Make the changes of `ours` against `original` undone in `present`, a table of plain values or of tomlkit's."""
    for key, value in ours.items():
        if key not in present or original.get(key) == value or (is_top and key == "version" and key not in original):
            continue
        was, now = original.get(key), present[key]
        if isinstance(value, dict) and isinstance(now, dict):
            revert(was if isinstance(was, dict) else {}, value, now, is_top=False)
            _emptied(original, key, present)
        elif isinstance(value, list) and isinstance(now, list):
            _revert_list(was if isinstance(was, list) else [], value, now)
            _emptied(original, key, present)
        elif now == value:
            if key in original:
                present[key] = was
            else:
                del present[key]


def _emptied(original: Mapping[str, Any], key: str, present: Any) -> None:
    """If nothing is left of what p2pd had put something into, it is what it was."""
    if not present[key] and key not in original:
        del present[key]
    elif not present[key] and original[key] is None:  # a key of YAML without a value
        present[key] = None


def _revert_list(original: list[Any], ours: list[Any], present: Any) -> None:
    """Elements have no names. A table among them is the one with the same values beside its lists and tables."""
    left = [one for one in original if one not in ours]  # what p2pd changed was one of these
    for element in ours:
        if element in original:
            continue
        scalars = _scalars(element)
        was = next((one for one in left if scalars is not None and _scalars(one) == scalars), None)
        if was is None and element in present:
            del present[next(at for at, one in enumerate(present) if one == element)]
        elif scalars is not None:
            for one in present:
                if _scalars(one) == scalars:
                    revert(was or scalars, element, one, is_top=False)
                    break


def _scalars(element: object) -> Values | None:
    if not isinstance(element, dict):
        return None
    return {key: value for key, value in element.items() if not isinstance(value, dict | list)}


def _unmarked(text: str) -> str:
    """The text without p2pd's own comments."""
    text = MARK.sub(b"", text.encode()).decode()
    return "".join(line for line in text.splitlines(keepends=True) if line.strip() != COMMENT)


def _no_comments(present: bytes) -> bool:
    return b"#" not in MARK.sub(b"", present)


# TOML


def _without_toml(text: str, original: Values, ours: Values) -> str:
    document = tomlkit.parse(text)
    revert(original, ours, document)
    return document.as_string()


# JSON


def _json_values(text: str) -> Values:
    values = json.loads(text) if text.strip() else {}
    if not isinstance(values, dict):
        raise TypeError
    return values


def _without_json(text: str, original: Values, ours: Values) -> str:
    """Only elements of lists, and the members of one object, are ever p2pd's (docker.py, docker_proxy.py)."""
    for key, value in ours.items():
        before = original.get(key, [])
        if isinstance(value, list) and value != before:
            gone = [one for one in value if one not in before]
            text = json_file.without_elements(text, key, gone, may_go=key not in original)
        elif isinstance(value, dict):
            for name in (one for one in value if one not in original.get(key, {})):
                text = json_file.without_member(text, key, name, value[name], may_go=key not in original)
    return text


# YAML


def _without_yaml(text: str, original: Values, ours: Values, above: tuple[str, ...] = ()) -> str:
    """Only endpoints, and the mappings around them, are ever p2pd's (k3s.py)."""
    for key, value in ours.items():
        was, keys = original.get(key), (*above, key)
        if was == value:
            continue
        if isinstance(value, dict):
            text = _without_yaml(text, was if isinstance(was, dict) else {}, value, keys)
        elif isinstance(value, list):
            for element in value:
                if element in _value(yaml_file.loads(text), keys, []) and element not in (was or []):
                    text = yaml_file.without(text, keys, element)
        if key not in original and not _value(yaml_file.loads(text), keys, True):
            text = yaml_file.without(text, keys)
    return text


def _value(values: Any, keys: tuple[str, ...], otherwise: Any) -> Any:
    """The value that `keys` lead to."""
    for key in keys:
        if not isinstance(values, dict) or key not in values:
            return otherwise
        values = values[key]
    return values


_FORMS: Final[Mapping[str, tuple[Callable[[str], Values], Callable[[str, Values, Values], str]]]] = {
    ".toml": (tomllib.loads, _without_toml),
    ".conf": (tomllib.loads, _without_toml),
    ".json": (_json_values, _without_json),
    ".yaml": (yaml_file.loads, _without_yaml),
}
"""By a file's suffix: its parser, and the removal."""
