"""The scrubber: it finds what is wrong on the disk, at its rate, and says what it has done."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from peer.store import Store
from peer.store.scrubber import PASS_EVERY_S, READ_BYTES, START_AFTER_S, Scrubber, ScrubPass
from tests.peer.download_fixtures import PIECE, run
from tests.peer.fakes import content_of
from tests.peer.origin_conformance import digest_of
from tests.peer.store_fixtures import a_store, files_left, files_of, flip, hold, hold_part

CONTENTS = [content_of(size, size) for size in (2 * READ_BYTES + 5, PIECE, 10)]
SIZE = sum(map(len, CONTENTS))
RATE = 1000


class Rests:
    """The sleeps of a scrubber, which take no time. `after_pass` is done when it rests; at the end it is stopped."""

    def __init__(self, *after_pass: Callable[[], object]) -> None:
        self.seconds: list[float] = []
        self._after_pass = list(after_pass)

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if seconds > START_AFTER_S and seconds > PASS_EVERY_S / 2:
            if not self._after_pass:
                raise asyncio.CancelledError
            self._after_pass.pop(0)()


def scrub(store: Store, rests: Rests, rate: int = RATE) -> Scrubber:
    scrubber = Scrubber(store, rate, sleep=rests)

    async def scene() -> None:
        with suppress(asyncio.CancelledError):
            await scrubber.run()

    with capture_logs():
        run(scene)
    return scrubber


def passed(scrubber: Scrubber) -> ScrubPass:
    last = scrubber.statistics().last_pass
    assert last is not None
    return last


@pytest.fixture
def filled(store: Store) -> Store:
    for content in CONTENTS:
        hold(store, content)
    hold_part(store, content_of(2 * PIECE), [0])
    return store


def test_all_that_is_whole_is_read_once_a_pass_at_the_rate(filled: Store) -> None:
    rests = Rests(lambda: None)
    scrubber = scrub(filled, rests)
    last = passed(scrubber)
    assert (last.blobs, last.read_bytes, last.bad) == (3, SIZE, 0)
    assert scrubber.statistics().read_bytes == 2 * SIZE
    assert rests.seconds[0] == START_AFTER_S
    reading = [seconds for seconds in rests.seconds[1:] if seconds < PASS_EVERY_S / 2]
    assert sum(reading) == pytest.approx(2 * SIZE / RATE)
    assert len(filled.blobs()) == 4
    assert not any(blob.in_use for blob in filled.blobs())


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: flip(path, 0),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, len(CONTENTS[0]) + 1),
    ],
)
def test_what_is_wrong_is_dropped(filled: Store, harm: Callable[[Path], object]) -> None:
    removed: list[str] = []
    filled.on_removed = removed.append
    harm(files_of(filled, digest_of(CONTENTS[0]))[0])
    scrubber = scrub(filled, Rests())
    assert (passed(scrubber).bad, scrubber.statistics().bad) == (1, 1)
    assert removed == [digest_of(CONTENTS[0])]
    assert filled.statistics().lost == 1


def test_what_it_has_read_is_not_read_again_before_it_is_sent(tmp_path: Path) -> None:
    with a_store(tmp_path) as earlier:
        hold(earlier, CONTENTS[0])
    with a_store(tmp_path) as store:
        scrub(store, Rests())
        blob = store.acquire(digest_of(CONTENTS[0]))
        assert blob is not None
        assert blob.is_checked(0, blob.size_bytes)
        blob.release()


def test_what_was_read_first_comes_first_again_and_what_is_new_before_it(filled: Store) -> None:
    new = content_of(77)

    def add() -> None:
        order.append(list(scrubber._read_at.items()))
        hold(filled, new)

    order: list[list[tuple[str, float]]] = []
    scrubber = Scrubber(filled, RATE, sleep=Rests(add))

    async def scene() -> None:
        with suppress(asyncio.CancelledError):
            await scrubber.run()

    with capture_logs():
        run(scene)
    first = [digest for digest, _ in sorted(order[0], key=lambda item: item[1])]
    second = [digest for digest, _ in sorted(scrubber._read_at.items(), key=lambda item: item[1])]
    assert second == [digest_of(new), *first]


def test_at_a_rate_of_none_it_reads_nothing(filled: Store) -> None:
    rests = Rests()
    scrubber = scrub(filled, rests, rate=0)
    assert (rests.seconds, scrubber.statistics().last_pass) == ([], None)


def test_our_own_limit_of_files_makes_no_blob_bad(filled: Store) -> None:
    async def scene() -> None:
        scrubber = Scrubber(filled, RATE, sleep=Rests())
        with files_left(0), suppress(asyncio.CancelledError):
            await scrubber.run()
        assert passed(scrubber).bad == 0

    with capture_logs():
        run(scene)
    assert len(filled.blobs()) == 4
