"""The headers of an answer that p2pd acts on: `Content-Range`, `Content-Length`, `Content-Type`, `Retry-After`.

Rules: pure, and total. A header that is not understood is None, never an error: the caller decides what that means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from msgspec import Struct

# 18 digits hold every length that fits a signed 64-bit file offset, and int() accepts them.
_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(
    r"bytes[ \t=:]+([0-9]{1,18})[ \t]*-[ \t]*([0-9]{1,18})[ \t]*/[ \t]*([0-9]{1,18}|\*)", re.IGNORECASE
)
_UNSATISFIED = re.compile(r"bytes[ \t]+\*/([0-9]{1,18})", re.IGNORECASE)


class ContentRange(Struct, frozen=True):
    """Bytes `[start, stop)` of content of `size_bytes`."""

    start: int
    stop: int
    size_bytes: int


def content_range(text: str, known_size_bytes: int | None = None) -> ContentRange | None:
    """Parse `bytes 0-99/1000`. None also if the range is not within the total, or the total is `*` and not known."""
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if found is None or (found[3] == "*" and known_size_bytes is None):
        return None
    first, last = int(found[1]), int(found[2])
    size_bytes = known_size_bytes if found[3] == "*" and known_size_bytes is not None else int(found[3])
    return ContentRange(first, last + 1, size_bytes) if first <= last < size_bytes else None


def unsatisfied_range(text: str) -> int | None:
    """Parse `bytes */1000`, the Content-Range of a 416: the whole length."""
    found = _UNSATISFIED.fullmatch(text.strip())
    return None if found is None else int(found[1])


def content_length(text: str) -> int | None:
    """The length of a body. It may be there several times (RFC 9110, section 8.6); None for lengths that differ."""
    lengths = {each.strip() for each in text.split(",") if each.strip()}
    numbers = {int(each) if _NUMBER.fullmatch(each) else None for each in lengths}
    return numbers.pop() if len(numbers) == 1 else None


def is_web_page(headers: Mapping[str, str]) -> bool:
    """Whether an answer says that it is one: of a portal that wants a login, or of a wrong address."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "text/html"


def retry_after_s(text: str, unix_s: float) -> float | None:
    """The seconds to wait from `unix_s` on. `Retry-After` is seconds or an HTTP date; 0 for a date in the past."""
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        # "-0000" is a date in UTC without a known zone: the library returns it without a zone.
        unix = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, unix - unix_s)
