"""The history of pulls, on a disk and in Redis: what a row is, what is removed, and what a restart leaves."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.core.history import MAX_ROWS, SLOT_S, HistoryStore, HistoryStoreError, Ordered, PullRecord, PushRecord
from scheduler.shared.redis_clients import RedisPlace
from scheduler.shared.redis_history import RedisHistory
from scheduler.shell.history_store import SqliteHistory

NOW = 1_900_000_200.0
DAY_S = 86_400.0


def pull(at: float, image: str = "a.test/b:1", site: str = "x", size_bytes: int = 10) -> PullRecord:
    return PullRecord(at, image, "sha256:1", site, 1, size_bytes, size_bytes, 4)


Open = Callable[..., HistoryStore]


@pytest.fixture(params=["sqlite", "redis"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the test's one history, as often as it likes."""
    opened: list[HistoryStore] = []

    def open_one(keep_s: float, max_rows: int = MAX_ROWS) -> HistoryStore:
        if request.param == "sqlite":
            opened.append(SqliteHistory.open(tmp_path, keep_s, max_rows))
        else:
            opened.append(RedisHistory(request.getfixturevalue("redis_place"), keep_s, max_rows))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def test_the_pulls_of_a_site_within_a_slot_are_one_row(open_store: Open) -> None:
    store = open_store(DAY_S)
    begins = NOW // SLOT_S * SLOT_S
    store.add(
        [pull(begins), pull(begins + 1, size_bytes=30), pull(begins + 2, site="y"), PushRecord(begins, "p:1")], NOW
    )
    store.add([pull(begins + SLOT_S)], NOW)
    assert open_store(DAY_S).records() == [
        PushRecord(begins, "p:1"),
        PullRecord(begins, "a.test/b:1", "sha256:1", "x", 2, 30, 40, 8),
        pull(begins + 2, site="y"),
        pull(begins + SLOT_S),
    ]


def test_news_are_told_once(open_store: Open) -> None:
    store = open_store(DAY_S)
    store.add([pull(NOW)], NOW)
    assert len(store.records()) == 1
    assert store.news() == []
    store.add([pull(NOW + 1), PushRecord(NOW + 2, "p:1")], NOW)
    assert store.news() == [pull(NOW + 1), PushRecord(NOW + 2, "p:1")]
    assert store.news() == []


def test_each_scheduler_hears_what_the_others_keep(redis_place: RedisPlace) -> None:
    one, other = RedisHistory(redis_place, DAY_S), RedisHistory(redis_place, DAY_S)
    assert other.records() == []
    one.add([pull(NOW)], NOW)
    other.add([pull(NOW + 1)], NOW)
    assert one.news() == other.news() == [pull(NOW), pull(NOW + 1)]
    one.order(Ordered("j", NOW, "a.test/b:1", "x", 7, 100))
    assert other.spent(7) == {"x": 100}
    one.close()
    other.close()


def test_what_is_too_old_or_too_much_is_removed(open_store: Open) -> None:
    store = open_store(DAY_S, max_rows=3)
    store.add([pull(NOW - 2 * DAY_S), PushRecord(NOW - 2 * DAY_S, "old:1")], NOW - 2 * DAY_S)
    store.add([pull(NOW + number, site=str(number)) for number in range(5)], NOW)
    assert [each.at for each in store.records()] == [NOW + 2, NOW + 3, NOW + 4]


def test_a_budget_survives_a_restart_and_a_short_memory(open_store: Open) -> None:
    store = open_store(60.0)
    for number in range(3):
        store.order(Ordered(f"j{number}", NOW, "a.test/b:1", "x", 7 + number // 2, 100))
    store.settle("j0", 30)
    store = open_store(60.0)
    store.add([], NOW + 3600.0)
    assert (store.spent(7), store.spent(8), store.spent(9)) == ({"x": 130}, {"x": 100}, {})
    assert [each.settled for each in store.orders()] == [True, False, False]


def test_a_history_of_another_version_is_an_error_that_says_so(tmp_path: Path) -> None:
    SqliteHistory.open(tmp_path, DAY_S).close()
    assert (tmp_path / "history.db").stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(tmp_path / "history.db") as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(HistoryStoreError, match="another version of p2pd"):
        SqliteHistory.open(tmp_path, DAY_S)
