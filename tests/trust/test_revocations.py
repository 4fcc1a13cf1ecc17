"""Who was revoked is known after a restart, whatever has become of the file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from peer.trust import revocations
from peer.trust.revocations import Revocations


def test_who_is_revoked_is_known_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "identity" / "revoked"
    assert Revocations(file).add(("b", "a", "b")) == ["b", "a"]
    again = Revocations(file)
    assert "a" in again
    assert "b" in again
    assert again.add(("c", "a")) == ["c"]
    assert file.read_text() == "b\na\nc\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_those_told_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "MAX_KEPT", 2)
    monkeypatch.setattr(revocations, "MAX_REVOKED", 3)
    known = Revocations(tmp_path / "revoked")
    assert known.add(("a", "b", "c", "d")) == ["a", "b", "c"]
    assert (tmp_path / "revoked").read_text() == "b\nc\n"


@pytest.mark.parametrize("content", [b"\xff\xfe\0", b"", None])
def test_a_file_that_is_damaged_or_none_costs_what_was_in_it(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "revoked"
    if content is None:
        file.mkdir()
    else:
        file.touch(0o600)
        file.write_bytes(content)
    known = Revocations(file)
    assert known.add(("a",)) == ["a"]
    assert "a" in known
