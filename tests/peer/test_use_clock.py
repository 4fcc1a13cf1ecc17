"""The clock of uses: what it shows at the start, and that no jump of the machine's clock moves it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from peer.store.use_clock import SAVE_EVERY_S, SLACK_S, UseClock, start_of
from tests.peer.fakes import content_of
from tests.peer.origin_conformance import digest_of
from tests.peer.store_fixtures import files_of, hold, open_store

YEAR_S = 365 * 24 * 3600.0
CONTENTS = [content_of(10, seed) for seed in range(3)]


@pytest.mark.parametrize(
    ("saved", "uses", "unix", "starts"),
    [
        (None, [], 5000.0, 5000.0),
        (None, [1000.0, 3000.0], 5000.0, 3000.0),
        (None, [1000.0, 9e9], 5000.0, 1000.0),
        (None, [1000.0, 3000.0], 0.0, 3000.0),
        (3000.0, [1000.0], 9e9, 3000.0),
        (3000.0, [1000.0], 0.0, 3000.0),
        (3000.0, [3000.0 + SLACK_S], 9e9, 3000.0 + SLACK_S),
        (3000.0, [3001.0 + SLACK_S], 9e9, 3000.0),
    ],
)
def test_where_it_starts(saved: float | None, uses: list[float], unix: float, starts: float) -> None:
    assert start_of(saved, uses, unix) == starts


def test_it_goes_on_by_the_time_that_passes(tmp_path: Path) -> None:
    elapsed = 7.0
    clock = UseClock(1000.0, lambda: elapsed)
    clock.save(tmp_path / "clock")
    elapsed += SAVE_EVERY_S - 1
    assert clock.now() == 1000 + SAVE_EVERY_S - 1
    clock.save(tmp_path / "clock")
    assert (tmp_path / "clock").read_text() == "1000\n"
    elapsed += 1
    clock.save(tmp_path / "clock")
    assert UseClock.of(tmp_path / "clock", [], lambda: 0.0).now() == 1000 + SAVE_EVERY_S
    assert clock.to_unix(clock.now() - 60) == pytest.approx(time.time() - 60, abs=5)


@pytest.mark.parametrize("content", [b"", b"\0" * 9, b"nan", b"inf", b"-1", b"1e300", b"soon"])
def test_a_reading_that_is_none_is_as_a_file_that_is_not_there(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clock").write_bytes(content)
    assert UseClock.of(tmp_path / "clock", [1000.0], lambda: 0.0).now() == 1000.0


def test_no_date_of_a_record_expires_another_blob(tmp_path: Path) -> None:
    """By the machine's clock it may be any year, at the start and while it runs."""
    store = open_store(tmp_path, ttl_s=1000)
    for content in CONTENTS:
        hold(store, content)
    store.close()
    for index, moved_s in enumerate((70 * YEAR_S, -50 * YEAR_S)):
        record = files_of(store, digest_of(CONTENTS[index]))[1]
        os.utime(record, (time.time() + moved_s, time.time() + moved_s))
    store = open_store(tmp_path, ttl_s=1000)
    assert [blob.digest for blob in store.collect()] == [digest_of(CONTENTS[1])]
    assert {blob.digest for blob in store.blobs()} == {digest_of(CONTENTS[0]), digest_of(CONTENTS[2])}
    assert all(blob.last_used <= time.time() for blob in store.blobs())
    store.close()


def test_only_the_time_that_it_runs_counts(tmp_path: Path) -> None:
    elapsed = 0.0
    removed = []
    for begun in range(4):
        store = open_store(tmp_path, ttl_s=1000, elapsed=lambda: elapsed)  # noqa: B023 - it is to go on
        if not begun:
            hold(store, CONTENTS[0])
        elapsed += 300
        removed.append(len(store.collect()))
        store.close()
    assert removed == [0, 0, 0, 1], "1200 s in four runs"


def test_a_pipe_in_place_of_the_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "clock")
    assert UseClock.of(tmp_path / "clock", [1000.0], lambda: 0.0).now() == 1000.0
