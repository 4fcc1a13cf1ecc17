"""Strategies for messages, made from the same declarations that the decoder checks."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from scheduler.protocol.fields import (
    Choice,
    Flag,
    Items,
    Maybe,
    Octets,
    ProtocolError,
    Record,
    Seconds,
    Text,
    Whole,
    checks_of,
)


def values(check: Any) -> st.SearchStrategy[Any]:
    """Values that a check lets pass, small ones."""
    match check:
        case Octets(low, high, step):
            return st.integers(-(-low // step), min(high, low + 8 * step) // step).flatmap(
                lambda count: st.binary(min_size=count * step, max_size=count * step)
            )
        case Text(pattern):
            return st.from_regex(pattern, fullmatch=True)
        case Whole(low, high):
            return st.integers(low, high)
        case Seconds(high):
            return st.floats(0, high)
        case Flag():
            return st.booleans()
        case Choice(kind):
            return st.sampled_from(kind)
        case Maybe(inner):
            return st.none() | values(inner)
        case Items(inner, most):
            return st.lists(values(inner), max_size=min(most, 3)).map(tuple)
        case Record(kind):
            return messages(kind)
    raise TypeError(check)


def messages(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Messages or records of one type, whose fields agree with each other."""
    checks, _ = checks_of(kind)
    return st.tuples(*map(values, checks)).map(lambda fields: _make(kind, fields)).filter(lambda made: made is not None)


def _make(kind: type[Any], fields: tuple[Any, ...]) -> Any:
    try:
        return kind(*fields)
    except ProtocolError:
        return None
