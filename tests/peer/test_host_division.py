"""Into which pieces a host divides a blob: it waits for the scheduler's word, and keeps to what it has."""

from __future__ import annotations

from msgspec import structs

from peer.core.events import (
    BlobRemoved,
    BlobStored,
    DigestsRead,
    Ended,
    FetchSample,
    Phase,
    PiecesHeld,
    Prepare,
    Prepared,
    ReadDigests,
    ReaderMoved,
    Recover,
    RequestRange,
    SchedulerFound,
    SchedulerLost,
    StoreFailed,
    Tell,
)
from peer.core.host import HostMachine, HostSettings
from peer.core.membership import ANSWER_FACTOR, MembershipState
from scheduler.protocol.fields import DIGEST_BYTES
from scheduler.protocol.from_host import Announce, DigestReport, Holding, Join, Leave, Need
from scheduler.protocol.to_host import OriginRefused, RequestDigests, Sized, SpotCheck
from tests.peer.host_playbook import SCHEDULER_TIMEOUT_S, D, E, Passes, Playbook, digest, joined, lease, source

F = b"f" * DIGEST_BYTES
MIB = 1024 * 1024
SIZE = 24 * MIB
USUAL, SHORT = MIB, MIB // 2
JOIN = Join(D, "docker.io", "library/app", SIZE)
ANSWER = joined(size_bytes=SIZE)
SHORT_ANSWER = structs.replace(ANSWER, piece_length=SHORT)

SMALL_SIZE = 8 * MIB
SMALL_USUAL, LONG = MIB // 2, MIB
SMALL_JOIN = structs.replace(JOIN, size_bytes=SMALL_SIZE)
LONG_ANSWER = structs.replace(ANSWER, size_bytes=SMALL_SIZE, piece_length=LONG)


def begun(held: PiecesHeld | None = None, *, connected: bool = True, size_bytes: int | None = SIZE) -> Playbook:
    """A download whose store has said what it has."""
    playbook = Playbook(connected=connected) >> source(size_bytes=size_bytes) << Recover(D)
    return playbook >> ReaderMoved(D, 1, 0, None) >> (held or PiecesHeld(D))


def length_of(playbook: Playbook) -> int:
    return playbook.download.pieces.piece_length


def state_of(playbook: Playbook) -> MembershipState:
    return playbook.download.member.membership.state


class TestADownload:
    def test_has_no_place_before_the_scheduler_has_said_which_pieces_the_swarm_has(self) -> None:
        assert begun() << JOIN >> SHORT_ANSWER << Prepare(D, SIZE, SHORT)

    def test_has_the_usual_pieces_if_the_scheduler_says_no_others(self) -> None:
        assert begun() << JOIN >> ANSWER << Prepare(D, SIZE)

    def test_and_where_no_scheduler_is_there_to_say_so(self) -> None:
        playbook = begun(connected=False)
        assert playbook >> Passes(SCHEDULER_TIMEOUT_S) << Prepare(D, SIZE)
        assert length_of(playbook) == USUAL

    def test_fetches_those_pieces(self) -> None:
        playbook = begun() << JOIN >> SHORT_ANSWER << Prepare(D, SIZE, SHORT) >> Prepared(D)
        assert playbook >> lease(7, 46, 48) << RequestRange(D, 0, 0, 46, 48)

    def test_compares_those_pieces_with_the_origin(self) -> None:
        playbook = begun() << JOIN >> SHORT_ANSWER << Prepare(D, SIZE, SHORT) >> Prepared(D)
        check = SpotCheck(D, 1, 47, digest(47), 0, 16)
        assert playbook >> check << FetchSample(D, 0, 0, 47, 0, 16, SIZE, SHORT)

    def test_hears_of_them_with_the_length_if_nobody_knew_that(self) -> None:
        playbook = begun(size_bytes=None) << structs.replace(JOIN, size_bytes=None) >> joined(size_bytes=None)
        assert playbook >> Sized(D, 1, SIZE, SHORT) << Prepare(D, SIZE, SHORT)

    def test_says_what_its_client_waits_for_in_the_pieces_that_it_knows_of(self) -> None:
        playbook = Playbook() >> source(size_bytes=SIZE) << Recover(D)
        playbook = playbook >> ReaderMoved(D, 1, 5 * USUAL, 6 * USUAL) >> PiecesHeld(D)
        playbook = playbook << Need(D, 5, 6) << JOIN
        prepared = [Prepare(D, SIZE, SHORT), Tell(Need(D, 10, 12, divided=True))]
        assert playbook >> SHORT_ANSWER << prepared

    def test_keeps_to_its_pieces_and_says_so_when_the_scheduler_is_back(self) -> None:
        playbook = begun() << JOIN >> SHORT_ANSWER << Prepare(D, SIZE, SHORT) >> Prepared(D) >> SchedulerLost()
        playbook = playbook >> SchedulerFound() << structs.replace(JOIN, piece_length=SHORT)
        assert playbook >> SHORT_ANSWER
        assert state_of(playbook) is MembershipState.JOINED

    def test_goes_on_alone_where_the_swarm_has_others(self) -> None:
        playbook = begun() << JOIN >> SHORT_ANSWER << Prepare(D, SIZE, SHORT) >> Prepared(D) >> SchedulerLost()
        playbook = playbook >> SchedulerFound() << structs.replace(JOIN, piece_length=SHORT) >> ANSWER
        playbook = playbook << Leave(D)
        for first in range(0, 16, 4):
            playbook = playbook << RequestRange(D, first // 4, 0, first, first + 4)
        assert state_of(playbook) is MembershipState.ORIGIN_ONLY
        assert length_of(playbook) == SHORT

    def test_of_which_a_part_is_held_has_the_pieces_of_the_part(self) -> None:
        part = PiecesHeld(D, SIZE, SHORT, {0: digest(0)})
        held = Announce((Holding(D, SIZE, complete=False, have=b"\x01", piece_length=SHORT),))
        playbook = begun(part) << held << structs.replace(JOIN, piece_length=SHORT)
        playbook = playbook >> OriginRefused(D, 0)
        assert playbook << RequestRange(D, 0, 0, 1, 5) << RequestRange(D, 1, 0, 5, 9)
        assert state_of(playbook) is MembershipState.ORIGIN_ONLY

    def test_tells_a_scheduler_of_the_version_before_nothing_of_other_pieces(self) -> None:
        playbook = begun() << JOIN >> SHORT_ANSWER << Prepare(D, SIZE, SHORT) >> Prepared(D) >> SchedulerLost()
        playbook = playbook >> SchedulerFound(divides=False)
        assert state_of(playbook) is MembershipState.ORIGIN_ONLY


class TestASmallDownload:
    def test_says_how_much_is_wanted_beside_it_and_has_the_pieces_that_the_scheduler_says(self) -> None:
        playbook = Playbook() >> source(size_bytes=SMALL_SIZE) << Recover(D)
        playbook = playbook >> source(size_bytes=3 * SMALL_SIZE, blob=E) << Recover(E)
        playbook = playbook >> source(size_bytes=None, blob=F) << Recover(F)
        playbook = playbook >> ReaderMoved(D, 1, 0, None) >> PiecesHeld(D)
        playbook = playbook << structs.replace(SMALL_JOIN, beside_bytes=3 * SMALL_SIZE)
        assert playbook >> LONG_ANSWER << Prepare(D, SMALL_SIZE, LONG)
        assert length_of(playbook) == LONG

    def test_counts_no_private_blob_and_none_that_has_ended(self) -> None:
        playbook = Playbook() >> source(size_bytes=SMALL_SIZE) << Recover(D)
        private = structs.replace(source(size_bytes=SMALL_SIZE, blob=E), private=True)
        playbook = playbook >> private << Recover(E)
        playbook = playbook >> source(size_bytes=SMALL_SIZE, blob=F) << Recover(F)
        playbook = playbook >> ReaderMoved(F, 2, 0, None) >> StoreFailed(F)
        playbook = playbook << Leave(F) << Ended(F, Phase.FAILED)
        assert playbook >> ReaderMoved(D, 1, 0, None) >> PiecesHeld(D) << SMALL_JOIN

    def test_has_the_usual_pieces_by_itself(self) -> None:
        playbook = begun(size_bytes=SMALL_SIZE) << SMALL_JOIN
        assert playbook >> structs.replace(LONG_ANSWER, piece_length=0) << Prepare(D, SMALL_SIZE)
        assert length_of(playbook) == SMALL_USUAL

    def test_waits_for_no_word_where_no_scheduler_is(self) -> None:
        alone = HostSettings(has_scheduler=False)
        playbook = Playbook(alone) >> source(size_bytes=SMALL_SIZE) << Recover(D)
        assert playbook >> ReaderMoved(D, 1, 0, None) >> PiecesHeld(D) << Prepare(D, SMALL_SIZE)

    def test_waits_for_no_longer_than_for_a_lease_where_a_scheduler_does_not_answer(self) -> None:
        playbook = begun(size_bytes=SMALL_SIZE) << SMALL_JOIN
        assert playbook >> Passes(ANSWER_FACTOR * SCHEDULER_TIMEOUT_S) << Prepare(D, SMALL_SIZE)
        assert length_of(playbook) == SMALL_USUAL

    def test_that_is_very_small_waits_for_nothing(self) -> None:
        playbook = begun(size_bytes=MIB)
        assert playbook << Prepare(D, MIB) << structs.replace(JOIN, size_bytes=MIB)

    def test_of_which_a_part_is_held_has_the_pieces_of_the_part(self) -> None:
        part = PiecesHeld(D, SMALL_SIZE, SMALL_USUAL, {0: digest(0)})
        held = Announce((Holding(D, SMALL_SIZE, complete=False, have=b"\x01"),))
        playbook = begun(part) << held << structs.replace(SMALL_JOIN, piece_length=SMALL_USUAL)
        playbook = playbook >> LONG_ANSWER << Leave(D) << RequestRange(D, 0, 0, 1, 5) << RequestRange(D, 1, 0, 5, 9)
        assert state_of(playbook) is MembershipState.ORIGIN_ONLY

    def test_tells_a_scheduler_of_the_version_before_nothing_of_longer_pieces(self) -> None:
        playbook = begun(size_bytes=SMALL_SIZE) << SMALL_JOIN
        playbook = playbook >> LONG_ANSWER << Prepare(D, SMALL_SIZE, LONG) >> Prepared(D) >> SchedulerLost()
        playbook = playbook >> SchedulerFound(lengthens=False)
        assert state_of(playbook) is MembershipState.ORIGIN_ONLY


class TestASeed:
    def test_tells_the_length_of_its_pieces(self) -> None:
        holding = Holding(D, SIZE, complete=True, piece_length=SHORT)
        playbook = Playbook() >> BlobStored(D, SIZE, SHORT) << Announce((holding,))
        assert playbook >> SchedulerFound() << Announce((holding,))

    def test_tells_digests_only_of_the_pieces_that_the_scheduler_was_told_of(self) -> None:
        holding = Holding(D, SIZE, complete=True, piece_length=SHORT)
        playbook = Playbook() >> BlobStored(D, SIZE, SHORT) << Announce((holding,))
        playbook = playbook >> RequestDigests(D) << ReadDigests(D)
        report = DigestReport(D, 0, digest(0), last=True)
        playbook = playbook >> DigestsRead(D, {0: digest(0)}, piece_length=SHORT) << report
        nothing = DigestReport(D, 0, b"", last=True)
        assert playbook >> DigestsRead(D, {0: digest(0)}) << nothing

    def test_tells_a_scheduler_of_the_version_before_no_digests_of_other_pieces(self) -> None:
        holding = Holding(D, SIZE, complete=True, piece_length=SHORT)
        playbook = Playbook(connected=False) >> BlobStored(D, SIZE, SHORT)
        playbook = playbook >> SchedulerFound(divides=False) << Announce((structs.replace(holding, piece_length=0),))
        nothing = DigestReport(D, 0, b"", last=True)
        assert playbook >> DigestsRead(D, {0: digest(0)}, piece_length=SHORT) << nothing

    def test_tells_a_scheduler_of_the_version_before_nothing_of_longer_pieces(self) -> None:
        holding = Holding(D, SMALL_SIZE, complete=True)
        playbook = Playbook(connected=False) >> BlobStored(D, SMALL_SIZE, LONG)
        playbook = playbook >> SchedulerFound(lengthens=False) << Announce((holding,))
        nothing = DigestReport(D, 0, b"", last=True)
        assert playbook >> DigestsRead(D, {0: digest(0)}, piece_length=LONG) << nothing
        assert playbook >> SchedulerFound() << Announce((structs.replace(holding, piece_length=LONG),))

    def test_that_is_gone_is_forgotten(self) -> None:
        machine = HostMachine()
        machine.handle(BlobStored(D, SIZE, SHORT), 0.0)
        machine.handle(BlobRemoved(D), 0.0)
        assert not machine.divided
