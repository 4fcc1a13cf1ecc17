"""Content-Range, Content-Length and Retry-After: right ones are understood, and no text is an error."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from peer.origin.headers import ContentRange, content_length, content_range, retry_after_s

OFFSETS = st.integers(0, 10**18 - 1)
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()


@given(OFFSETS, OFFSETS, OFFSETS)
def test_a_range_within_the_whole_is_understood(first: int, last: int, size: int) -> None:
    expected = ContentRange(first, last + 1, size) if first <= last < size else None
    assert content_range(f"bytes {first}-{last}/{size}") == expected


@pytest.mark.parametrize(
    "text", ["", "bytes */10", "bytes 0-4/*", "bytes 0-4", "items 0-4/10", "bytes 0-4/10, bytes 5-9/10", "bytes -4/10"]
)
def test_other_ranges_are_not(text: str) -> None:
    assert content_range(text) is None


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        ("bytes 0-4/*", 10, ContentRange(0, 5, 10)),
        ("bytes 0-10/*", 10, None),
        ("bytes 0-4/11", 10, ContentRange(0, 5, 11)),
        ("bytes=0-4/10", None, ContentRange(0, 5, 10)),
        ("Bytes: 0 - 4 / 10", None, ContentRange(0, 5, 10)),
    ],
)
def test_ranges_written_loosely(text: str, known: int | None, expected: ContentRange | None) -> None:
    assert content_range(text, known) == expected


@given(st.text())
@example("bytes 0-0/" + "9" * 5000)
@example("bytes \u0660-\u0660/\u0663")  # digits, but not ours
def test_no_text_is_an_error_for_a_range(text: str) -> None:
    found = content_range(text)
    assert found is None or 0 <= found.start < found.stop <= found.size_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("12", 12),
        ("12, 12", 12),
        (" 012 ,12", 12),
        ("12, 13", None),
        ("12, x", None),
        ("", None),
        ("-1", None),
        ("1_0", None),
    ],
)
def test_a_length_is_digits(text: str, expected: int | None) -> None:
    assert content_length(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 12:00:30 -0000", 30.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
    ],
)
def test_retry_after(text: str, expected: float | None) -> None:
    assert retry_after_s(text, NOW) == expected


@given(st.integers(0, 200_000_000_000))
def test_every_http_date_is_understood(unix_s: int) -> None:
    whole = datetime.fromtimestamp(unix_s, tz=UTC)
    expected = max(0.0, whole.timestamp() - NOW)
    assert retry_after_s(format_datetime(whole, usegmt=True), NOW) == pytest.approx(expected)


@given(
    st.one_of(st.text(), st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,9} [A-Z][a-z]{2} [0-9]{1,9} [0-9:]{1,12} [-+A-Z0-9]*"))
)
@example("9" * 5000)
@example("Mon, 01 Jan 0001 00:00:00 +2359")
def test_no_text_is_an_error_for_retry_after(text: str) -> None:
    found = retry_after_s(text, NOW)
    assert found is None or found >= 0.0
