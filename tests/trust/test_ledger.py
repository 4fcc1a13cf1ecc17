"""The ledger: each use of a token is taken once, and a host id has one key. SQLite's and Redis's are the same to it."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scheduler.shared.redis_clients import RedisPlace
from scheduler.shared.redis_ledger import RedisLedger
from scheduler.shared.redis_url import parse_redis_url
from scheduler.trust.certificates import CLOCK_SKEW
from scheduler.trust.errors import JoinRefusedError, TrustError, UnsafeFileError
from scheduler.trust.ledger import SAME_REQUEST_S, Ledger
from scheduler.trust.sqlite_ledger import SqliteLedger
from scheduler.trust.token import JoinToken, new_token
from tests.support.redis_server import RedisServer

NOW = 1_000_000.0
END = NOW + 86_400
TOKEN = new_token(b"i" * 5 + b"s" * 20, b"f" * 32)


OpenLedger = Callable[[], Ledger]


@pytest.fixture(params=["sqlite", "redis"])
def open_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenLedger]:
    """Opens the test's one ledger, as often as it likes."""
    opened: list[Ledger] = []

    def open_one() -> Ledger:
        if request.param == "sqlite":
            opened.append(SqliteLedger.open(tmp_path / "ledger.db"))
        else:
            opened.append(RedisLedger(request.getfixturevalue("redis_place")))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


@pytest.fixture
def ledger(open_ledger: OpenLedger) -> Ledger:
    return open_ledger()


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


def test_of_many_that_want_the_last_use_one_gets_it(open_ledger: OpenLedger) -> None:
    ledgers = [open_ledger() for _ in range(8)]
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


def test_another_process_is_noticed(open_ledger: OpenLedger) -> None:
    ledger = open_ledger()
    ledger.add_token(TOKEN, "", None, None, NOW)
    admit(ledger, "b")
    before = ledger.version()
    open_ledger().revoke_host("a", NOW)
    assert ledger.version() != before
    before = ledger.version()
    admit(open_ledger(), "c")
    assert ledger.version() != before
    assert ledger.host_ids() == {"b", "c"}


def test_what_the_scheduler_wrote_into_its_file_is_no_news(tmp_path: Path) -> None:
    ledger = SqliteLedger.open(tmp_path / "ledger.db")
    before = ledger.version()
    ledger.add_token(TOKEN, "", None, None, NOW)
    assert ledger.version() == before
    with pytest.raises(JoinRefusedError, match="no host"):
        ledger.renew("unknown", b"key", "2", END, NOW)
    ledger.close()


def test_redis_holds_no_secret(redis_place: RedisPlace, shared_redis: RedisServer) -> None:
    RedisLedger(redis_place).add_token(TOKEN, "", None, None, NOW)
    fields = shared_redis.client.hgetall(redis_place.key(f"token:{TOKEN.id}"))
    assert TOKEN.secret.hex().encode() not in b"".join(fields.values())
    assert TOKEN.secret not in b"".join(fields.values())


def test_a_wiped_redis_is_given_back_what_must_not_be_forgotten(own_redis: RedisServer) -> None:
    place = RedisPlace(parse_redis_url(own_redis.url))
    ledger, another = RedisLedger(place), RedisLedger(place)
    ledger.add_token(TOKEN, "", None, None, NOW)
    admit(ledger, "good")
    ledger.revoke_host("bad", NOW)
    assert ledger.revoked(NOW) == {"bad"}
    own_redis.client.flushall()
    assert ledger.revoked(NOW) == {"bad"}
    assert another.revoked(NOW) == {"bad"}, "it is in Redis again, for those that had not known it"
    another.renew("good", b"good", "2", END + 1, NOW + 1)
    assert another.host_ids() == {"good"}
    with pytest.raises(JoinRefusedError, match="was revoked"):
        another.renew("bad", b"bad", "2", END + 1, NOW + 1)


def test_a_redis_of_another_cluster_is_refused(redis_place: RedisPlace) -> None:
    ledger = RedisLedger(redis_place)
    ledger.belongs_to("a" * 64)
    ledger.belongs_to("a" * 64)
    with pytest.raises(TrustError, match="another CA"):
        ledger.belongs_to("b" * 64)


def test_rows_that_are_none_hide_no_revocation(own_redis: RedisServer) -> None:
    place = RedisPlace(parse_redis_url(own_redis.url))
    ledger = RedisLedger(place)
    ledger.add_token(TOKEN, "", None, None, NOW)
    admit(ledger, "a")
    for name, row in (("rubbish", b"rubbish"), ("empty", b""), ("latin", b"\xff")):
        own_redis.client.hset(place.key("hosts"), name, row)
        ledger.revoke_host(name, NOW)
    ledger.revoke_host("a", NOW)
    assert ledger.revoked(NOW) == {"a", "rubbish", "empty", "latin"}
    assert [each.id for each in ledger.hosts()] == ["a"]


def test_a_redis_that_is_gone_or_full_is_said(own_redis: RedisServer) -> None:
    ledger = RedisLedger(RedisPlace(parse_redis_url(own_redis.url)), try_again_s=0.0)
    ledger.add_token(TOKEN, "", None, None, NOW)
    own_redis.client.config_set("maxmemory", 1)
    with pytest.raises(TrustError, match="no room left"):
        admit(ledger, "a")
    own_redis.client.config_set("maxmemory", 0)
    own_redis.kill()
    with pytest.raises(TrustError, match=f"redis at {own_redis.url} cannot be used"):
        admit(ledger, "a")
    own_redis.start()
    admit(ledger, "a")


def test_its_files_are_for_nobody_else(tmp_path: Path) -> None:
    ledger = SqliteLedger.open(tmp_path / "ledger.db")
    ledger.add_token(TOKEN, "", None, None, NOW)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert TOKEN.secret not in content
    ledger.close()


def test_a_file_that_is_no_ledger_is_an_error(tmp_path: Path) -> None:
    (path := tmp_path / "ledger.db").write_bytes(b"something else, longer than a header of SQLite's is: 100 bytes" * 3)
    path.chmod(0o600)
    with pytest.raises(TrustError, match="cannot be used"):
        SqliteLedger.open(path)
    newer = sqlite3.connect(tmp_path / "newer.db")
    newer.execute("PRAGMA user_version = 2")
    newer.close()
    (tmp_path / "newer.db").chmod(0o600)
    with pytest.raises(TrustError, match="another version"):
        SqliteLedger.open(tmp_path / "newer.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "target")
    with pytest.raises(UnsafeFileError, match="links"):
        SqliteLedger.open(tmp_path / "link.db")
    assert not (tmp_path / "target").exists()
