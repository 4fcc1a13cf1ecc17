"""A host checks what a publisher says of a piece: a sample from the origin first, then the piece, then the answer."""

from __future__ import annotations

from msgspec import structs

from peer.core.events import (
    FetchSample,
    Outcome,
    PeerOutcome,
    Sample,
    SampleFetched,
)
from scheduler.protocol.from_host import LeasePieces, SpotChecked, SpotResult
from scheduler.protocol.link import Unchoke
from scheduler.protocol.to_host import Reset, SpotCheck
from tests.peer.host_playbook import (
    PIECE,
    SIZE,
    D,
    Playbook,
    asked,
    asked_origin,
    digest,
    digests,
    failed,
    gained,
    holds,
    lease,
    opened,
    range_ended,
    received,
    with_neighbours,
)

CHECK = SpotCheck(D, 1, 2, digest(2), 64, 128)
FETCH = FetchSample(D, 0, 0, 2, 64, 128, SIZE)
SAMPLE = Sample(64, b"s" * 64)
ASKED = structs.replace(asked(1, "b", 2), sample=SAMPLE)


def answered(result: SpotResult) -> SpotChecked:
    return SpotChecked(D, 1, 2, result)


def checking() -> Playbook:
    """Neighbour b holds the piece, and the sample is under way."""
    return with_neighbours("b") >> ("b", holds(2)) >> CHECK << FETCH


def test_the_piece_is_asked_for_once_the_sample_is_here() -> None:
    play = checking() >> SampleFetched(D, 0, SAMPLE.data) << ASKED
    assert play >> received(1, 2) << answered(SpotResult.RIGHT)


def test_a_busy_neighbour_is_asked_once_all_the_same() -> None:
    """All hosts wait for the answer, and the neighbour serves who checks before all others."""
    play = with_neighbours("b") >> ("b", holds(2, 3)) >> digests(3) << asked(0, "b", 3)
    play = play >> failed(0, PeerOutcome.CHOKED) >> CHECK << structs.replace(FETCH, request=1)
    play = play >> SampleFetched(D, 1, SAMPLE.data) << structs.replace(ASKED, request=2)
    play = play >> failed(2, PeerOutcome.CHOKED)
    assert play >> ("b", Unchoke(D)) << structs.replace(ASKED, request=3) << asked(4, "b", 3)


def test_a_piece_that_differs_is_not_asked_for_again_until_its_digest_is_told_to_all() -> None:
    play = checking() >> SampleFetched(D, 0, SAMPLE.data) << ASKED
    play = play >> failed(1, PeerOutcome.DIFFERS) << answered(SpotResult.WRONG)
    assert play >> ("b", holds(2)) >> digests(2) << asked(2, "b", 2)


def test_a_neighbour_that_does_not_send_the_piece_says_nothing_of_it() -> None:
    play = checking() >> SampleFetched(D, 0, SAMPLE.data) << ASKED
    play = play >> failed(1, PeerOutcome.CANCELLED) << structs.replace(asked(2, "b", 2), sample=SAMPLE)
    assert play >> failed(2, PeerOutcome.CHOKED)


def test_without_a_sample_the_host_cannot_tell() -> None:
    assert checking() >> SampleFetched(D, 0, None) << answered(SpotResult.UNKNOWN)


def test_who_has_the_piece_from_the_origin_knows_without_a_sample() -> None:
    play = with_neighbours("b") >> lease(7, 2, 3) << asked_origin(0, 2, 3) >> opened(0, 2, 3)
    play = play >> received(0, 2) << [LeasePieces(7, D, 2, digest(2)), gained(("b",), 2, 3)]
    play = play >> range_ended(0, Outcome.DONE) >> CHECK << answered(SpotResult.RIGHT)
    assert play >> structs.replace(CHECK, piece_digest=digest(3)) << answered(SpotResult.WRONG)


def test_until_a_digest_is_told_to_all_only_hosts_that_check_the_piece_ask_for_it() -> None:
    play = with_neighbours("b") >> lease(7, 2, 3) << asked_origin(0, 2, 3) >> opened(0, 2, 3)
    play = play >> received(0, 2) << [LeasePieces(7, D, 2, digest(2)), gained(("b",), 2, 3)]
    assert [play.machine.is_checked(D, index * PIECE) for index in range(4)] == [False, False, True, False]
    assert play >> range_ended(0, Outcome.DONE) >> digests(2)
    assert not play.machine.is_checked(D, 2 * PIECE)


def test_a_digest_that_is_told_to_all_is_not_checked_any_more() -> None:
    play = checking() >> digests(2) << asked(1, "b", 2)
    assert play >> SampleFetched(D, 0, SAMPLE.data) << answered(SpotResult.UNKNOWN)


def test_a_sample_of_an_earlier_map_is_dropped() -> None:
    assert checking() >> Reset(D, 2) >> SampleFetched(D, 0, SAMPLE.data)


def test_a_check_of_a_piece_that_the_blob_does_not_have_is_ignored() -> None:
    assert with_neighbours("b") >> structs.replace(CHECK, piece=4)
