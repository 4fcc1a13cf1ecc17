"""The bytes of small blobs that are kept in memory: whom they are given, and what ends that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peer.errors import StoreBrokenError
from peer.store import Store
from peer.store.check import AGAIN_S, FRESH_S, Check, Signature
from peer.store.remembered import MAX_REMEMBERED_BYTES
from tests.peer.download_fixtures import CONTENT, DIGEST
from tests.peer.origin_conformance import digest_of
from tests.peer.store_fixtures import files_of, flip, hold


def remembered(store: Store, content: bytes = CONTENT) -> None:
    """Hold `content`, and remember it."""
    hold(store, content)
    blob = store.acquire(digest_of(content))
    assert blob is not None
    try:
        store.remember(blob, blob.read(0, len(content)))
    finally:
        blob.release()


def put_another(path: Path) -> None:
    """Put another file with the same bytes in its place."""
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    new.replace(path)


def test_who_asks_gets_the_bytes_that_were_read_and_the_file_is_not_opened(store: Store) -> None:
    hold(store, CONTENT)
    assert store.recall(DIGEST, 0, 10) is None, "nobody has read it"
    remembered(store)
    assert store.recall(DIGEST, 3, 10) == CONTENT[3:10]
    assert store.recall(DIGEST, 0, len(CONTENT)) == CONTENT
    blob = store.own(DIGEST)
    assert blob is not None
    assert blob.fileno() == -1


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: flip(path, 0),
        lambda path: path.write_bytes(CONTENT),
        lambda path: path.rename(path.with_name("elsewhere")),
        put_another,
    ],
)
def test_whatever_is_done_to_the_file_ends_it(store: Store, harm: Callable[[Path], object]) -> None:
    remembered(store)
    harm(files_of(store, DIGEST)[0])
    assert store.recall(DIGEST, 0, 10) is None


def test_who_asks_again_has_the_disk_read_again(store: Store) -> None:
    remembered(store)
    assert store.recall(DIGEST, 0, len(CONTENT)) == CONTENT
    assert store.recall(DIGEST, 0, len(CONTENT)) is None, "it was stored, and never read back"


def test_nothing_is_kept_beyond_the_check_that_it_was_read_under() -> None:
    check, signature = Check(1), Signature(3, 1, 100, 5, 5)
    check.read(signature, 0, 100.0)
    check.content = b"bytes"
    check.sent_whole(100.0)
    check.asked(100.0 + FRESH_S)
    assert check.content == b"bytes"
    check.asked(100.0 + AGAIN_S - 1.0)
    check.read(signature, 0, 101.0 + AGAIN_S)
    assert check.content is None


def test_a_blob_that_is_removed_is_not_remembered(store: Store) -> None:
    remembered(store)
    assert store.remove(DIGEST)
    assert store.recall(DIGEST, 0, 10) is None
    hold(store, CONTENT)
    assert store.recall(DIGEST, 0, 10) is None


def test_other_bytes_than_its_name_says_lose_the_blob(store: Store) -> None:
    hold(store, CONTENT)
    blob = store.acquire(DIGEST)
    assert blob is not None
    with pytest.raises(StoreBrokenError, match="another SHA-256"):
        store.remember(blob, b"x" + CONTENT[1:])
    blob.release()
    assert store.peek(DIGEST) is None
    store.remember(blob, CONTENT)
    assert blob.recall(0, 10) is None, "it is held no more"


def test_beyond_the_bound_the_oldest_are_forgotten(store: Store) -> None:
    size_bytes = MAX_REMEMBERED_BYTES // 4
    contents = [bytes([index]) * size_bytes for index in range(5)]
    for content in contents[:4]:
        remembered(store, content)
    remembered(store, contents[0])  # again: it is the youngest now, and counts once
    assert store.recall(digest_of(contents[1]), 0, 1) == contents[1][:1]
    remembered(store, contents[4])
    kept = [store.recall(digest_of(content), 0, 1) is not None for content in contents]
    assert kept == [True, False, True, True, True]


def test_it_counts_as_a_use(store: Store) -> None:
    remembered(store)
    remembered(store, b"other")
    store.preheated(DIGEST, used=False)
    assert [each.digest for each in store.blobs()] == [digest_of(b"other"), DIGEST]
    assert store.recall(DIGEST, 0, 10) is not None
    assert [each.digest for each in store.blobs()] == [DIGEST, digest_of(b"other")]
    assert store.statistics().preheated_used_bytes == len(CONTENT)
