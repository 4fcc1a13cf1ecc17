"""Fields of an answer that decide what comes next: `InlineBlob-Range`, `InlineBlob-Length`, `Retry-After`.

Rules: pure, and total. What is not understood is None, never an error: the caller knows whether it can do without.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

# 18 digits hold every length that fits a signed 64-bit file offset, and int() of them is never refused.
_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes[ \t]+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.IGNORECASE)
_UNSATISFIED = re.compile(r"bytes[ \t]+\*/([0-9]{1,18})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Bytes `[start, stop)` of something that is `size_bytes` long."""

    start: int
    stop: int
    size_bytes: int


def content_range(text: str) -> ContentRange | None:
    """`bytes 0-99/1000`. None also for a total that is not told (`*`), or a range that is not within it."""
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if found is None:
        return None
    first, last, size_bytes = map(int, found.groups())
    return ContentRange(first, last + 1, size_bytes) if first <= last < size_bytes else None


def unsatisfied_range(text: str) -> int | None:
    """`bytes */1000`: the whole length, from the Content-Range of a 416."""
    found = _UNSATISFIED.fullmatch(text.strip())
    return None if found is None else int(found[1])


def content_length(text: str) -> int | None:
    """The bytes of a body. None also for several lengths, which http.client would take the first of."""
    return int(text) if _NUMBER.fullmatch(text) else None


def retry_after_s(text: str, unix_s: float) -> float | None:
    """How many seconds from `unix_s` on to wait: `Retry-After` is seconds or an HTTP date (a past one is 0)."""
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        # "-0000" is a date in UTC of which no zone is known: the library gives it none.
        unix = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, unix - unix_s)
