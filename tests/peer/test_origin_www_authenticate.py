"""Parsing `WWW-Authenticate`: what registries send, what the RFC allows, and what nobody should."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from peer.origin.www_authenticate import Challenge, parse_challenges

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'
TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            HUB,
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        ('BASIC Realm="x"', [Challenge("basic", {"realm": "x"})]),
        ("Basic realm = plain , charset=UTF-8", [Challenge("basic", {"realm": "plain", "charset": "UTF-8"})]),
        (r'Basic realm="a \"b\" \\ c"', [Challenge("basic", {"realm": r'a "b" \ c'})]),
        (
            'Basic realm="a", Bearer realm="b"',
            [Challenge("basic", {"realm": "a"}), Challenge("bearer", {"realm": "b"})],
        ),
        ("Negotiate, Basic realm=a", [Challenge("negotiate"), Challenge("basic", {"realm": "a"})]),
        ("Negotiate a87421b==, Basic realm=a", [Challenge("negotiate"), Challenge("basic", {"realm": "a"})]),
        ("Basic, NTLM", [Challenge("basic"), Challenge("ntlm")]),
        ('Basic realm="first", realm="second"', [Challenge("basic", {"realm": "first"})]),
        (", ,Basic realm=a,,", [Challenge("basic", {"realm": "a"})]),
        ("", []),
        ('"', []),
        ('Bearer realm="never ends', [Challenge("bearer")]),
        (
            'Bearer realm="a" garbage service="b"',
            [Challenge("bearer", {"realm": "a"}), Challenge("garbage", {"service": "b"})],
        ),
        (
            "bearer   realm=https://a.b:5000/token?x ,service=r.test",
            [Challenge("bearer", {"realm": "https://a.b:5000/token?x", "service": "r.test"})],
        ),
        ('Bearer realm="a" service="b"', [Challenge("bearer", {"realm": "a", "service": "b"})]),
        ('Bearer realm="a", @@@, service="b"', [Challenge("bearer", {"realm": "a"})]),
    ],
)
def test_known_forms(text: str, expected: list[Challenge]) -> None:
    assert parse_challenges(text) == expected


@given(st.text())
@example('Bearer realm="' + "\\" * 10_000)
@example("a=" * 10_000)
@example("a " * 10_000)
def test_any_text_gives_a_list(text: str) -> None:
    for challenge in parse_challenges(text):
        assert challenge.scheme
        assert challenge.scheme == challenge.scheme.lower()


@given(
    st.lists(
        st.tuples(
            st.text(TOKEN, min_size=1),
            st.dictionaries(st.text(TOKEN.lower(), min_size=1), st.text(), min_size=1, max_size=4),
        ),
        max_size=4,
    )
)
def test_what_is_written_by_the_rules_is_read_back(challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = ", ".join(
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in challenges
    )
    expected = [
        Challenge(scheme.lower(), {name.lower(): value for name, value in reversed(parameters.items())})
        for scheme, parameters in challenges
    ]
    assert parse_challenges(text) == expected
