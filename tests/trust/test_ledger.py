"""The ledger: each use of a token is taken once, and a host id has one key."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scheduler.trust.certificates import CLOCK_SKEW
from scheduler.trust.errors import JoinRefusedError, TrustError, UnsafeFileError
from scheduler.trust.ledger import SAME_REQUEST_S, Ledger
from scheduler.trust.token import JoinToken, new_token

NOW = 1_000_000.0
END = NOW + 86_400
TOKEN = new_token(b"i" * 5 + b"s" * 20, b"f" * 32)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.db")
    yield opened
    opened.close()


def admit(ledger: Ledger, host: str, key: bytes = b"", token: JoinToken = TOKEN, now: float = NOW) -> None:
    ledger.admit(token, host, key or host.encode(), "1", END, now)


def refused(ledger: Ledger, host: str, key: bytes = b"", token: JoinToken = TOKEN, now: float = NOW) -> str:
    with pytest.raises(JoinRefusedError) as caught:
        admit(ledger, host, key, token, now)
    return caught.value.reason


def test_uses_are_counted(ledger: Ledger) -> None:
    ledger.add_token(TOKEN, "racks", None, 2, NOW)
    admit(ledger, "a")
    admit(ledger, "b")
    assert refused(ledger, "c") == "token-used"
    assert [host.id for host in ledger.hosts()] == ["a", "b"]
    (record,) = ledger.tokens()
    assert (record.note, record.uses_left, record.usable(NOW)) == ("racks", 0, False)


def test_of_many_that_want_the_last_use_one_gets_it(tmp_path: Path) -> None:
    ledgers = [Ledger.open(tmp_path / "ledger.db") for _ in range(8)]
    ledgers[0].add_token(TOKEN, "", None, 1, NOW)

    def join(number: int) -> str:
        try:
            admit(ledgers[number], f"host-{number}")
        except JoinRefusedError as error:
            return error.reason
        return "joined"

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(join, range(8))) == ["joined", *7 * ["token-used"]]
    assert len(ledgers[0].hosts()) == 1
    for ledger in ledgers:
        ledger.close()


def test_a_host_that_did_not_hear_the_answer_takes_no_second_use(ledger: Ledger) -> None:
    ledger.add_token(TOKEN, "", None, 1, NOW)
    admit(ledger, "a")
    admit(ledger, "a", now=NOW + SAME_REQUEST_S - 1)
    assert refused(ledger, "a", now=NOW + 2 * SAME_REQUEST_S) == "token-used"


def test_a_token_ends_with_its_time_its_revocation_and_its_secret(ledger: Ledger) -> None:
    ledger.add_token(TOKEN, "", NOW + 10, None, NOW)
    admit(ledger, "a", now=NOW + 9)
    assert refused(ledger, "b", now=NOW + 10) == "token-expired"
    assert refused(ledger, "b", token=JoinToken(TOKEN.id, b"x" * 20, b"f" * 32)) == "token"
    assert refused(ledger, "b", token=new_token(b"j" * 5 + b"s" * 20, b"f" * 32)) == "token"
    assert ledger.revoke_token(TOKEN.id, NOW)
    assert not ledger.revoke_token("another", NOW)
    assert refused(ledger, "b") == "token-revoked"
    assert [host.id for host in ledger.hosts()] == ["a"], "who joined with it stays"


def test_a_host_id_belongs_to_one_key(ledger: Ledger) -> None:
    ledger.add_token(TOKEN, "", None, None, NOW)
    admit(ledger, "a", b"key")
    assert refused(ledger, "a", b"another key") == "id-taken"
    with pytest.raises(JoinRefusedError, match="another key"):
        ledger.renew("a", b"another key", "2", END, NOW)
    ledger.renew("a", b"key", "2", END + 1, NOW + 5)
    (host,) = ledger.hosts()
    assert (host.serial, host.expires, host.first_seen, host.last_renewed) == ("2", END + 1, NOW, NOW + 5)


def test_a_revoked_host_does_not_come_back(ledger: Ledger) -> None:
    ledger.add_token(TOKEN, "", None, None, NOW)
    admit(ledger, "a", b"key")
    ledger.revoke_host("a", NOW + 1)
    ledger.revoke_host("a", NOW + 2)
    assert ledger.hosts()[0].revoked == NOW + 1
    assert ledger.revoked(NOW) == {"a"}
    assert refused(ledger, "a", b"key") == "revoked"
    assert refused(ledger, "b", b"key") == "revoked", "nor under another id"
    with pytest.raises(JoinRefusedError, match="was revoked"):
        ledger.renew("a", b"key", "2", END, NOW)
    assert ledger.revoked(END) == {"a"}, "the clock of another host may be late"
    assert ledger.revoked(END + CLOCK_SKEW.total_seconds()) == frozenset(), "its certificate is over for everybody"


@pytest.mark.parametrize("again", ["renews", "joins"])
def test_a_revoked_host_may_use_an_older_certificate_that_ends_later(ledger: Ledger, again: str) -> None:
    """The operator has made the lifetime shorter since."""
    ledger.add_token(TOKEN, "", None, None, NOW)
    admit(ledger, "a")
    if again == "renews":
        ledger.renew("a", b"a", "2", NOW + 3600, NOW + 1)
    else:
        ledger.admit(TOKEN, "a", b"a", "2", NOW + 3600, NOW + 1)
    ledger.revoke_host("a", NOW + 2)
    assert ledger.revoked(END - 1) == {"a"}


def test_a_host_that_the_ledger_does_not_know_is_revoked_too(ledger: Ledger) -> None:
    ledger.revoke_host("elsewhere", NOW)
    assert ledger.revoked(END + 1) == {"elsewhere"}, "nobody knows when its certificate is over"
    with pytest.raises(JoinRefusedError, match="no host"):
        ledger.renew("unknown", b"key", "2", END, NOW)


def test_another_process_is_noticed(tmp_path: Path, ledger: Ledger) -> None:
    before = ledger.version()
    ledger.add_token(TOKEN, "", None, None, NOW)
    assert ledger.version() == before, "what the scheduler wrote itself is no news"
    other = Ledger.open(tmp_path / "ledger.db")
    other.revoke_host("a", NOW)
    other.close()
    assert ledger.version() != before


def test_its_files_are_for_nobody_else(tmp_path: Path, ledger: Ledger) -> None:
    ledger.add_token(TOKEN, "", None, None, NOW)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert TOKEN.secret not in content


def test_a_file_that_is_no_ledger_is_an_error(tmp_path: Path) -> None:
    (path := tmp_path / "ledger.db").write_bytes(b"something else, longer than a header of SQLite's is: 100 bytes" * 3)
    path.chmod(0o600)
    with pytest.raises(TrustError, match="cannot be used"):
        Ledger.open(path)
    newer = sqlite3.connect(tmp_path / "newer.db")
    newer.execute("PRAGMA user_version = 2")
    newer.close()
    (tmp_path / "newer.db").chmod(0o600)
    with pytest.raises(TrustError, match="another version"):
        Ledger.open(tmp_path / "newer.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "target")
    with pytest.raises(UnsafeFileError, match="links"):
        Ledger.open(tmp_path / "link.db")
    assert not (tmp_path / "target").exists()
