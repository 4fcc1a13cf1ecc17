"""Content codings: decoded however they are cut, and never beyond the bound."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.origin.codings import CodingError, Decoder, coding_of, decoded, is_decoded

CODERS: list[Callable[[bytes], bytes]] = [gzip.compress, zlib.compress, lambda content: zlib.compress(content)[2:-4]]


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("gzip", "gzip"),
        ("X-GZip", "x-gzip"),
        ("aws-chunked, deflate", "deflate"),
        ("br", "br"),
        ("gzip, zstd", "zstd"),
        ("identity", None),
        ("none", None),
        ("utf-8", None),
        ("", None),
    ],
)
def test_what_a_header_names(header: str, coding: str | None) -> None:
    assert coding_of(header) == coding
    assert is_decoded(coding) == (coding in ("gzip", "x-gzip", "deflate"))


@given(
    content=st.binary(max_size=3000) | st.integers(0, 100_000).map(bytes),
    coder=st.sampled_from(CODERS),
    cut=st.integers(1, 500),
    most=st.integers(1, 5000),
)
def test_a_body_comes_whole_however_it_is_cut(
    content: bytes, coder: Callable[[bytes], bytes], cut: int, most: int
) -> None:
    coded, decoder, got = coder(content), Decoder(), b""
    for at in range(0, len(coded), cut):
        decoder.feed(coded[at : at + cut])
        while part := decoder.decode(most):
            assert len(part) <= most
            got += part
    assert (got, decoder.ended) == (content, True)


@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_or_a_coding_error(coded: bytes) -> None:
    decoder = Decoder()
    decoder.feed(coded)
    try:
        while decoder.decode(100):
            pass
    except CodingError:
        pass


def test_the_whole_is_bounded() -> None:
    coded = gzip.compress(bytes(1001))
    assert decoded(coded, 1001) == bytes(1001)
    assert decoded(coded, 1000) is None


@pytest.mark.parametrize("coded", [b"", b"plain", gzip.compress(b"x" * 99, mtime=0)[:-5], b'{"a": 1}'])
def test_what_is_not_coded_is_not_decoded(coded: bytes) -> None:
    assert decoded(coded, 1000) is None
