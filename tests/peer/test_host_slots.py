"""The requests that an origin may have at a time, and which download is next once one has ended."""

from __future__ import annotations

from msgspec.structs import replace

from peer.core.events import (
    CancelRange,
    Ended,
    Outcome,
    Phase,
    PiecesHeld,
    Prepare,
    Prepared,
    ReaderMoved,
    Recover,
    TrimRange,
)
from peer.core.host import HostSettings
from tests.peer.host_playbook import (
    PIECE,
    SIZE,
    D,
    E,
    Passes,
    Playbook,
    asked_origin,
    left,
    opened,
    range_ended,
    received,
    source,
)

F = b"f" * 32
ALONE = HostSettings(has_scheduler=False, max_ranges_per_origin=1)


def of_blobs(*blobs: bytes, settings: HostSettings = ALONE) -> Playbook:
    """Downloads that know their blobs' lengths; the first has the only slot of the origin."""
    playbook = Playbook(settings)
    for number, blob in enumerate(blobs):
        playbook = playbook >> source(blob=blob) << Recover(blob) >> PiecesHeld(blob) << Prepare(blob, SIZE)
        playbook = playbook >> Prepared(blob)
        if not number:
            playbook = playbook << asked_origin(0, 0, 4, blob=blob)
    return playbook


def test_a_slot_that_is_free_is_the_next_downloads() -> None:
    playbook = of_blobs(D, E, F) >> range_ended(0, Outcome.BROKEN) << asked_origin(1, 0, 4, blob=E)
    playbook = playbook >> range_ended(1, Outcome.BROKEN, blob=E) << asked_origin(2, 0, 4, blob=F)
    assert playbook >> range_ended(2, Outcome.BROKEN, blob=F) << asked_origin(3, 0, 4)


def test_what_a_client_waits_for_comes_before_what_is_fetched_ahead() -> None:
    playbook = of_blobs(D, E, F) >> ReaderMoved(E, 1, 0, None, background=True) >> ReaderMoved(F, 2, 0, None)
    assert playbook << TrimRange(D, 0, 1) >> range_ended(0, Outcome.BROKEN) << asked_origin(1, 0, 4, blob=F)


def test_what_is_fetched_ahead_gives_its_slot_to_a_client_with_the_piece_that_is_coming() -> None:
    playbook = of_blobs(D, E, F) >> opened(0, 0, 4) >> received(0, 0) >> ReaderMoved(D, 1, 0, None, background=True)
    playbook = playbook >> ReaderMoved(E, 2, 0, None) << TrimRange(D, 0, 2)
    playbook = playbook >> ReaderMoved(F, 3, 0, None)  # one request is enough
    playbook = playbook >> received(0, 1) >> range_ended(0, Outcome.DONE) << asked_origin(1, 0, 4, blob=E)
    playbook = playbook >> range_ended(1, Outcome.BROKEN, blob=E) << asked_origin(2, 0, 4, blob=F)
    assert playbook >> range_ended(2, Outcome.BROKEN, blob=F) << asked_origin(3, 0, 4, blob=E)


def test_a_client_ends_no_request_of_another_client() -> None:
    playbook = of_blobs(D, E) >> opened(0, 0, 4) >> received(0, 0) >> ReaderMoved(D, 1, 0, None)
    assert playbook >> ReaderMoved(E, 2, 0, None)


def test_what_is_asked_for_is_decided_once_there_is_a_slot() -> None:
    playbook = of_blobs(D, E) >> ReaderMoved(E, 1, 3 * PIECE, 4 * PIECE - 1) << TrimRange(D, 0, 1)
    assert playbook >> range_ended(0, Outcome.BROKEN) << asked_origin(1, 3, 4, blob=E)


def test_a_download_that_has_no_need_any_more_is_passed_over() -> None:
    pieces = PiecesHeld(E, SIZE, PIECE, dict.fromkeys(range(4), b""))
    playbook = of_blobs(D, E, F) >> pieces >> range_ended(0, Outcome.BROKEN)
    assert playbook << asked_origin(1, 0, 4, blob=F)


def test_each_origin_has_its_own() -> None:
    playbook = of_blobs(D) >> source(blob=E, upstream="elsewhere") << Recover(E) >> PiecesHeld(E) << Prepare(E, SIZE)
    assert playbook >> Prepared(E) << asked_origin(1, 0, 4, blob=E)


def test_a_download_has_no_more_than_its_own_bound() -> None:
    settings = HostSettings(has_scheduler=False, max_ranges_per_origin=9, max_ranges_per_blob=2)
    playbook = Playbook(settings)
    playbook = playbook >> source(size_bytes=16 * PIECE) << Recover(D) >> PiecesHeld(D)
    playbook = playbook << Prepare(D, 16 * PIECE) >> Prepared(D) << asked_origin(0, 0, 4)
    playbook = playbook >> opened(0, 0, 4, size_bytes=16 * PIECE) << asked_origin(1, 4, 8)
    assert playbook >> opened(1, 4, 8, size_bytes=16 * PIECE) >> received(0, 0)


def test_the_slot_of_a_download_that_ends_is_free_when_its_request_has_ended() -> None:
    playbook = of_blobs(D, E, settings=replace(ALONE, linger_s=1.0)) >> ReaderMoved(E, 1, 0, None)
    playbook = (
        playbook
        << TrimRange(D, 0, 1)
        >> Passes(1.0)
        << CancelRange(D, 0)
        << left()
        << Ended(D, Phase.ABANDONED, discard=True)
    )
    assert playbook >> Passes(1.0) >> range_ended(0, Outcome.BROKEN) << asked_origin(1, 0, 4, blob=E)
