"""Strategies for messages, made from the same declarations that the decoder checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import reject
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
from scheduler.protocol.geometry import MAX_PIECE_BYTES

Likely = Callable[[Any], Sequence[Any]]
"""Values for a check that mean something to whoever gets the message; none if any value does as well."""


def values(check: Any, likely: Likely | None = None) -> st.SearchStrategy[Any]:
    """Values that a check lets pass, small ones; or those that are `likely`, three times of four."""
    known = likely(check) if likely is not None else ()
    if known:
        chosen = st.sampled_from(known)
        return st.one_of(chosen, chosen, chosen, values(check))
    match check:
        case Octets(low, high, step):
            return st.integers(-(-low // step), min(high, low + 8 * step) // step).flatmap(
                lambda count: st.binary(min_size=count * step, max_size=count * step)
            )
        case Text(pattern):
            return st.from_regex(pattern, fullmatch=True)
        case Whole(0, high) if high == MAX_PIECE_BYTES:  # few lengths are those of a blob's pieces, and 0 is of each
            return st.just(0)
        case Whole(low, high):
            return st.integers(low, high)
        case Seconds(high):
            return st.floats(0, high)
        case Flag():
            return st.booleans()
        case Choice(kind):
            return st.sampled_from(kind)
        case Maybe(inner):
            return st.none() | values(inner, likely)
        case Items(inner, most):
            return st.lists(values(inner, likely), max_size=min(most, 3)).map(tuple)
        case Record(kind):
            return messages(kind, likely)
    raise TypeError(check)


@st.composite
def messages(draw: st.DrawFn, kind: type[Any], likely: Likely | None = None) -> Any:
    """Messages or records of one type, whose fields agree with each other."""
    checks, _ = checks_of(kind)
    try:
        return kind(*[draw(values(check, likely)) for check in checks])
    except ProtocolError:
        reject()
