"""Host headers: those of addresses and of our own names pass, those of web pages do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.host_header import is_for_us

NAMES = frozenset({"mirror.internal"})


@pytest.mark.parametrize(
    "header",
    [
        "127.0.0.1:65001",
        "127.0.0.1",
        "10.1.2.3:80",
        "[::1]:65001",
        "[::1]",
        "[fe80::1%25eth0]:1",
        "localhost:65001",
        "LOCALHOST.",
        "mirror.internal:65001",
        "Mirror.Internal",
    ],
)
def test_ours(header: str) -> None:
    assert is_for_us([header], NAMES)


@pytest.mark.parametrize(
    "header",
    [
        "evil.example",
        "evil.example:65001",
        "docker.io",
        "127.0.0.1.evil.example",
        "localhost.evil.example:65001",
        "mirror.internal.evil.example",
        "[evil.example]:65001",
        "127.0.0.1@evil.example",
        "",
        ":65001",
        "::1",
    ],
)
def test_not_ours(header: str) -> None:
    assert not is_for_us([header], NAMES)


def test_each_header_counts_and_none_is_from_no_browser() -> None:
    assert is_for_us([], NAMES)
    assert not is_for_us(["127.0.0.1", "evil.example"], NAMES)


@given(st.text())
def test_any_header_has_an_answer(header: str) -> None:
    is_for_us([header], NAMES)
