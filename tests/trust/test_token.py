"""Join tokens: what is written is read again, and no other text is a token."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.trust.errors import TokenTextError
from scheduler.trust.token import ID_BYTES, SECRET_BYTES, JoinToken, new_token, parse_token

TOKENS = st.builds(
    new_token,
    st.binary(min_size=ID_BYTES + SECRET_BYTES, max_size=ID_BYTES + SECRET_BYTES),
    st.binary(min_size=32, max_size=32),
)
TOKEN = new_token(bytes(range(ID_BYTES + SECRET_BYTES)), b"f" * 32)


@given(TOKENS, st.sampled_from(["", " ", "\n", "\t\r\n"]))
def test_a_token_is_read_again(token: JoinToken, space: str) -> None:
    assert parse_token(f"{space}{token.text}{space}") == token


@given(TOKENS)
def test_a_token_is_one_word(token: JoinToken) -> None:
    assert re.fullmatch(r"[a-z0-9_]{100}", token.text), "a double click selects all of it"


@given(st.text())
def test_any_text_is_a_token_or_our_error(text: str) -> None:
    with suppress(TokenTextError):
        assert parse_token(text).text == text.strip()


def test_an_error_does_not_repeat_the_text() -> None:
    with pytest.raises(TokenTextError) as caught:
        parse_token(TOKEN.text[:-1])
    assert TOKEN.text[:20] not in str(caught.value)


@given(TOKENS, st.integers(0, 99), st.sampled_from("abcz27_10A"))
def test_another_letter_is_another_token_or_none(token: JoinToken, at: int, letter: str) -> None:
    text = token.text[:at] + letter + token.text[at + 1 :]
    try:
        assert (parse_token(text) == token) == (text == token.text)
    except TokenTextError:
        assert text != token.text


@pytest.mark.parametrize("text", ["", TOKEN.text[:-1], f"{TOKEN.text}a", TOKEN.text.upper(), f"{TOKEN.text[:-1]}b"])
def test_a_damaged_token_is_refused(text: str) -> None:
    with pytest.raises(TokenTextError):
        parse_token(text)


def test_a_token_does_not_show_its_secret() -> None:
    shown = repr(TOKEN)
    assert TOKEN.id in shown
    assert "secret" not in shown
