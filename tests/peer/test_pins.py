"""Pins: what was preheated stays, as far as it leaves room for clients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peer.core.eviction import COLD_S
from peer.errors import StoreFullError
from peer.store import Store
from peer.store.pins import SHARE
from tests.peer.download_fixtures import PIECE
from tests.peer.fakes import content_of
from tests.peer.origin_conformance import digest_of
from tests.peer.store_fixtures import hold, open_store

CONTENTS = [content_of(2 * PIECE, seed) for seed in range(6)]
DIGESTS = [digest_of(content) for content in CONTENTS]
ROOM = 8 * PIECE


def held(store: Store) -> set[int]:
    digests = {blob.digest for blob in store.blobs()}
    return {number for number, digest in enumerate(DIGESTS) if digest in digests}


def filled(directory: Path, *pinned: int, **options: object) -> Store:
    """Four blobs, which is all that there is room for, the first of them pinned."""
    store = open_store(directory, max_bytes=ROOM, **options)  # type: ignore[arg-type] # its options
    for number in range(4):
        hold(store, CONTENTS[number])
    assert all(store.keep(DIGESTS[number], 60.0) for number in pinned)
    return store


def test_a_pinned_blob_goes_last_and_only_for_a_client(tmp_path: Path) -> None:
    elapsed = 0.0
    store = filled(tmp_path, 0, elapsed=lambda: elapsed)
    store.keep(DIGESTS[0], 10 * COLD_S)
    elapsed = COLD_S
    for number in (1, 2, 3):
        store.acquire(DIGESTS[number]).release()  # type: ignore[union-attr] # it is held
    with pytest.raises(StoreFullError):
        store.create(DIGESTS[4], 2 * PIECE, "", background=True)
    store.create(DIGESTS[4], 2 * PIECE, "").release()
    assert held(store) == {0, 2, 3, 4}, "the least recently used goes, and not the pinned one, which was used before"
    store.create(DIGESTS[5], 8 * PIECE, "").release()
    assert held(store) == {5}
    store.close()


def test_pins_have_a_share_of_the_room(tmp_path: Path) -> None:
    assert SHARE == 0.5
    store = filled(tmp_path, 0, 1)
    assert not store.keep(DIGESTS[2], 60.0)
    assert store.keep(DIGESTS[1], 60.0), "one that is pinned already"
    assert store.remove(DIGESTS[0])
    assert store.keep(DIGESTS[2], 60.0)
    assert not store.keep(DIGESTS[5], 60.0), "it is not held"
    store.close()


def test_a_pin_ends(tmp_path: Path) -> None:
    elapsed = 0.0
    store = filled(tmp_path, 0, 1, elapsed=lambda: elapsed)
    assert {blob.digest: blob.pinned_s for blob in store.blobs()}[DIGESTS[0]] == 60.0
    elapsed = 61.0
    assert {blob.pinned_s for blob in store.blobs()} == {0.0}
    assert store.keep(DIGESTS[2], 60.0)
    store.close()


def test_a_pin_is_not_made_shorter(tmp_path: Path) -> None:
    store = filled(tmp_path, 0)
    store.keep(DIGESTS[0], 1.0)
    assert max(blob.pinned_s for blob in store.blobs()) > 50
    store.close()


def test_what_is_pinned_does_not_expire(tmp_path: Path) -> None:
    elapsed = 0.0
    store = filled(tmp_path, 0, ttl_s=30.0, elapsed=lambda: elapsed)
    elapsed = 40.0
    store.collect()
    assert held(store) == {0}
    elapsed = 61.0
    store.collect()
    assert held(store) == set()
    store.close()


def test_pins_survive_a_restart_that_nothing_was_told_of(tmp_path: Path) -> None:
    filled(tmp_path, 0, 1).close()
    store = open_store(tmp_path, max_bytes=ROOM)
    assert sum(blob.pinned_s > 0 for blob in store.blobs()) == 2
    store.close()


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"x": 1}', b"null", json.dumps({str(DIGESTS[0]): "x"}).encode(), b"[" * 100_000],
)
def test_a_file_that_is_none_of_ours_is_no_pins(tmp_path: Path, content: bytes) -> None:
    filled(tmp_path, 0).close()
    (tmp_path / "pins").write_bytes(content)
    store = open_store(tmp_path, max_bytes=ROOM)
    assert {blob.pinned_s for blob in store.blobs()} == {0.0}
    assert store.keep(DIGESTS[0], 60.0)
    store.close()
