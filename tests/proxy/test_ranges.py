"""The Range header: every header means some bytes of the blob, or all of it, or is refused as RFC 9110 has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.ranges import MAX_RANGES, ByteSpan, UnsatisfiableRangeError, parse_ranges

SIZE = 1000


def spans(header: str | None, size_bytes: int = SIZE) -> list[tuple[int, int]] | None:
    found = parse_ranges(header).spans(size_bytes)
    return None if found is None else [(span.start, span.stop) for span in found]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-", (0, SIZE)),  # containerd's parallel fetch
        ("bytes=200-", (200, SIZE)),  # a resume
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 20)),
        ("bytes=999-999", (999, SIZE)),
        ("bytes=990-5000", (990, SIZE)),
        (f"bytes=5-{10**18}", (5, SIZE)),
        ("bytes=-1", (999, SIZE)),
        ("bytes=-5000", (0, SIZE)),
        ("bytes= 1-2 ", (1, 3)),
        ("bytes=007-0009", (7, 10)),
    ],
)
def test_one_range(header: str, expected: tuple[int, int]) -> None:
    assert spans(header) == [expected]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-9,20-29", [(0, 10), (20, 30)]),
        ("bytes=20-29, 0-9\t,\t-5", [(20, 30), (0, 10), (995, SIZE)]),  # the client's order
        ("bytes=0-9,2000-3000", [(0, 10)]),  # what lies outside is left out
        ("bytes=0-9,5-14", [(0, 10), (5, 15)]),
        ("bytes=0-9,0-9", [(0, 10), (0, 10)]),
    ],
)
def test_several(header: str, expected: list[tuple[int, int]]) -> None:
    assert spans(header) == expected


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=1000-1000", "bytes=-0", f"bytes={10**18}-", "bytes=2000-,-0"])
def test_none_of_it_is_there(header: str) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        parse_ranges(header).spans(SIZE)


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_the_empty_blob_has_no_range(header: str) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        parse_ranges(header).spans(0)


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "bytes", "bytes=", "bytes=-", "bytes=5-1", "bytes=a-b", "bytes=1-2-3", "bytes=1", "bytes=--1"),
        *("bytes=0x1-2", "bytes=+1-2", "bytes=1_0-20", "bytes=1 0-20", "items=0-1", "bytes =0-1", "bytes=0-1,x"),
        *("bytes=\u0661-\u0662", "bytes=\uff11-", f"bytes=0-{10**20}", f"bytes={'9' * 4000}-"),
    ],
)
def test_what_is_no_range_is_as_if_it_were_not_there(header: str | None) -> None:
    assert spans(header) is None


class TestAttacks:
    """Many or overlapping ranges do not make a small request a large answer."""

    def test_at_most_the_blob_is_sent(self) -> None:
        assert spans("bytes=" + ",".join(["0-"] * 5)) is None
        assert spans("bytes=0-599,400-999") is None
        assert spans("bytes=0-499,500-999") == [(0, 500), (500, 1000)]

    def test_at_most_so_many(self) -> None:
        assert len(spans("bytes=" + ",".join(["0-0"] * MAX_RANGES), 10**6) or []) == MAX_RANGES
        assert spans("bytes=" + ",".join(["0-0"] * (MAX_RANGES + 1)), 10**6) is None


_NUMBERS = st.one_of(st.just(""), st.integers(0, 40).map(str), st.integers(0, 10**22).map(str), st.text(max_size=2))
_RANGES = st.tuples(_NUMBERS, st.sampled_from(["-", "-", "-", "", "--"]), _NUMBERS).map("".join)
_HEADERS = st.one_of(
    st.text(max_size=30),
    st.lists(_RANGES, max_size=6).map(lambda ranges: "bytes=" + ",".join(ranges)),
)


@given(header=_HEADERS, size_bytes=st.integers(0, 50))
def test_any_header_gives_bytes_of_the_blob(header: str, size_bytes: int) -> None:
    try:
        found = parse_ranges(header).spans(size_bytes)
    except UnsatisfiableRangeError:
        return
    if found is None:
        return
    assert found
    assert all(0 <= span.start < span.stop <= size_bytes for span in found)
    assert sum(span.size_bytes for span in found) <= size_bytes


@given(
    ranges=st.lists(
        st.tuples(st.none() | st.integers(0, 30), st.none() | st.integers(0, 30)).filter(lambda r: r != (None, None)),
        min_size=1,
        max_size=4,
    ),
    size_bytes=st.integers(0, 20),
)
def test_it_is_what_a_naive_reader_of_the_rfc_would_send(
    ranges: list[tuple[int | None, int | None]], size_bytes: int
) -> None:
    header = "bytes=" + ",".join(
        f"{'' if first is None else first}-{'' if last is None else last}" for first, last in ranges
    )
    blob = list(range(size_bytes))
    parts = []
    for first, last in ranges:
        if first is not None and last is not None and last < first:
            assert parse_ranges(header).spans(size_bytes) is None
            return
        if first is None:
            assert last is not None
            parts.append(blob[-last:] if last else [])
        else:
            parts.append([at for at in blob if at >= first and (last is None or at <= last)])
    parts = [part for part in parts if part]
    if not parts:
        with pytest.raises(UnsatisfiableRangeError):
            parse_ranges(header).spans(size_bytes)
        return
    found = parse_ranges(header).spans(size_bytes)
    if len(parts) > 1 and sum(map(len, parts)) > size_bytes:
        assert found is None
    else:
        assert found is not None
        assert [blob[span.start : span.stop] for span in found] == parts


def test_content_range() -> None:
    assert ByteSpan(0, 1).content_range(10) == "bytes 0-0/10"
    assert ByteSpan(3, 10).content_range(10) == "bytes 3-9/10"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, (0, None)),
        ("bytes=200-", (200, None)),
        ("bytes=200-299,0-9", (200, 300)),
        ("bytes=-5", (995, None)),
        ("bytes=5000-", (0, None)),  # refused once the length is certain
        ("bytes=0-,0-", (0, None)),
    ],
)
def test_where_an_answer_begins(header: str | None, expected: tuple[int, int | None]) -> None:
    assert parse_ranges(header).first_bytes(SIZE) == expected
