"""The journal's text, and taking our change out of what somebody changed since."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.configure.journal import ChangedError, Entry, decode, encode, take_out
from p2pd.configure.runtime import ConfigureError

lines = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n"]), max_size=8)
texts = lines.map(b"".join) | st.binary(max_size=20)
entries = st.builds(
    Entry,
    st.none() | st.binary(max_size=20),
    st.lists(st.binary(max_size=20), min_size=1, max_size=2).map(tuple),
    st.lists(st.text(max_size=5), max_size=2).map(tuple),
    st.lists(st.text(max_size=5), max_size=2).map(tuple),
)


@given(st.dictionaries(st.text(max_size=10), entries, max_size=3))
def test_a_journal_is_read_as_it_was_written(journal: dict[str, Entry]) -> None:
    assert decode("journal", encode(journal)) == journal


@given(st.binary(max_size=30))
def test_what_is_no_journal_is_told(content: bytes) -> None:
    with pytest.raises(ConfigureError, match="damaged"):
        decode("journal", content)


@pytest.mark.parametrize(
    "text",
    [
        '{"format": 1}',
        '{"format": 1, "files": []}',
        '{"format": 1, "files": {"/a": {"original": null, "ours": [], "directories": []}}}',
        '{"format": 1, "files": {"/a": {"original": "!", "ours": [""], "directories": []}}}',
        '{"format": 1, "files": {"/a": null}}',
        "[]",
    ],
)
def test_a_journal_of_the_wrong_form_is_told(text: str) -> None:
    with pytest.raises(ConfigureError, match="damaged"):
        decode("journal", text.encode())


def test_a_newer_journal_is_told() -> None:
    with pytest.raises(ConfigureError, match="newer p2pd"):
        decode("journal", b'{"format": 2, "files": {}}')


@given(texts, texts)
def test_taken_out_of_what_we_wrote_the_original_is_left(original: bytes, ours: bytes) -> None:
    assert take_out(ours, original, ours) == original


@given(lines, lines, lines, lines)
def test_changes_far_from_ours_stay(
    before: list[bytes], after: list[bytes], added: list[bytes], put: list[bytes]
) -> None:
    """Ours stands between two lines that nothing else has; somebody adds at the very start and the very end."""
    ours = b"".join([*before, b"<\n", *put, b">\n", *after])
    original = b"".join([*before, b"<\n", b">\n", *after])
    theirs = b"".join([b"x\n" for _ in added])
    changed = take_out(ours, original, theirs + ours + theirs)
    if put and before and after:
        assert changed == theirs + original + theirs


@pytest.mark.parametrize(
    "present",
    [
        pytest.param(b"head\nOURS\nMORE\ntail\n", id="a line put behind ours"),
        pytest.param(b"head\nMORE\nOURS\ntail\n", id="a line put before ours"),
        pytest.param(b"head\nOUR\ntail\n", id="ours changed"),
        pytest.param(b"head\ntail\nOURS\n", id="ours moved"),
        pytest.param(b"OURS\ntail\n", id="the line before ours removed"),
        pytest.param(b"", id="all removed"),
    ],
)
def test_what_touches_our_lines_cannot_be_taken_out(present: bytes) -> None:
    assert take_out(b"head\nOURS\ntail\n", b"head\ntail\n", present) is None


def test_a_file_of_a_form_that_p2pd_cannot_read_is_not_guessed_at() -> None:
    entry = Entry(None, (b"ours\n",))
    assert entry.base("/a", b"ours\n") is None
    assert entry.base("/a", None) is None
    with pytest.raises(ChangedError, match=r"(?s)/a was changed by somebody else.*\+more"):
        entry.base("/a", b"ours\nmore\n")
