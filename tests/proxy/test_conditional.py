"""Conditional requests: the forms of If-None-Match and If-Range."""

from __future__ import annotations

import pytest

from peer.oci.digest import Digest
from proxy.core.conditional import not_modified, range_applies

A, B = Digest.of(b"a"), Digest.of(b"b")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ("", False),
        (f'"{A}"', True),
        (A, True),  # docker-registry takes it
        (f'W/"{A}"', True),
        (f'"{B}", "{A}"', True),
        (f'"x,y" ,W/"{A}"', True),
        ("*", True),
        (" * ", True),
        (f'"{B}"', False),
        (f'"{A}x"', False),
        ('"*"', False),
        (A[:-1], False),
        ('"', False),
    ],
)
def test_if_none_match(header: str | None, expected: bool) -> None:
    assert not_modified(header, A) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, True),
        (f'"{A}"', True),
        (f'"{B}"', False),
        (f'W/"{A}"', False),  # RFC 9110, section 13.1.5: the comparison is strong
        ("Sat, 29 Oct 1994 19:43:31 GMT", False),
    ],
)
def test_if_range(header: str | None, expected: bool) -> None:
    assert range_applies(header, A) is expected
