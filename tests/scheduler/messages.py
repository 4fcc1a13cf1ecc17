"""Strategies for messages, made from the same declarations that the decoder checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st
from msgspec import inspect

from scheduler.protocol.fields import ProtocolError
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
        case inspect.Metadata(type=inspect.BytesType(max_length=int(high)), extra={"step": int(step)}):
            return st.integers(0, min(high // step, 8)).flatmap(
                lambda count: st.binary(min_size=count * step, max_size=count * step)
            )
        case inspect.BytesType(min_length, int(high)):
            return st.binary(min_size=min_length or 0, max_size=min(high, (min_length or 0) + 8))
        case inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern, fullmatch=True)
        case inspect.IntType(ge=int(low), le=int(high)):  # few numbers are lengths of a blob's pieces, and 0 is of each
            return st.just(0) if (low, high) == (0, MAX_PIECE_BYTES) else st.integers(low, high)
        case inspect.FloatType(ge=0, le=high):
            return st.floats(0, high)
        case inspect.BoolType():
            return st.booleans()
        case inspect.EnumType(kind):
            return st.sampled_from(list(kind))
        case inspect.UnionType((inner, inspect.NoneType())):
            return st.none() | values(inner, likely)
        case inspect.VarTupleType(inner, max_length=int(most)):
            return st.lists(values(inner, likely), max_size=min(most, 3)).map(tuple)
        case inspect.StructType(kind):
            return messages(kind, likely)
    raise TypeError(check)


def fields_of(kind: type[Any]) -> tuple[inspect.Field, ...]:
    """The fields of a message or a record, with the bounds that its decoder checks."""
    found = inspect.type_info(kind)
    assert isinstance(found, inspect.StructType)
    return found.fields


@st.composite
def messages(draw: st.DrawFn, kind: type[Any], likely: Likely | None = None) -> Any:
    """Messages or records of one type, whose fields agree with each other."""
    try:
        return kind(*[draw(values(field.type, likely)) for field in fields_of(kind)])
    except ProtocolError:
        reject()
