"""Into which pieces a host divides a blob: it waits for the scheduler's word, and keeps to what it has."""

from __future__ import annotations

from dataclasses import replace

from peer.core.events import (
    BlobRemoved,
    BlobStored,
    DigestsRead,
    FetchSample,
    PiecesHeld,
    Prepare,
    Prepared,
    ReadDigests,
    ReaderMoved,
    Recover,
    RequestRange,
    SchedulerFound,
    SchedulerLost,
    Tell,
)
from peer.core.host import HostMachine
from peer.core.membership import MembershipState
from scheduler.protocol.from_host import Announce, DigestReport, Holding, Join, Leave, Need
from scheduler.protocol.to_host import OriginRefused, RequestDigests, Sized, SpotCheck
from tests.peer.host_playbook import SCHEDULER_TIMEOUT_S, D, Passes, Playbook, digest, joined, lease, source

MIB = 1024 * 1024
SIZE = 24 * MIB
USUAL, SHORT = MIB, MIB // 2
JOIN = Join(D, "docker.io", "library/app", SIZE)
ANSWER = joined(size_bytes=SIZE)
SHORT_ANSWER = replace(ANSWER, piece_length=SHORT)


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
        playbook = begun(size_bytes=None) << replace(JOIN, size_bytes=None) >> joined(size_bytes=None)
        assert playbook >> Sized(D, 1, SIZE, SHORT) << Prepare(D, SIZE, SHORT)

    def test_says_what_its_client_waits_for_in_the_pieces_that_it_knows_of(self) -> None:
        playbook = Playbook() >> source(size_bytes=SIZE) << Recover(D)
        playbook = playbook >> ReaderMoved(D, 1, 5 * USUAL, 6 * USUAL) >> PiecesHeld(D)
        playbook = playbook << Need(D, 5, 6) << JOIN
        prepared = [Prepare(D, SIZE, SHORT), Tell(Need(D, 10, 12, divided=True))]
        assert playbook >> SHORT_ANSWER << prepared

    def test_keeps_to_its_pieces_and_says_so_when_the_scheduler_is_back(self) -> None:
        playbook = begun() << JOIN >> SHORT_ANSWER << Prepare(D, SIZE, SHORT) >> Prepared(D) >> SchedulerLost()
        playbook = playbook >> SchedulerFound() << replace(JOIN, piece_length=SHORT)
        assert playbook >> SHORT_ANSWER
        assert state_of(playbook) is MembershipState.JOINED

    def test_goes_on_alone_where_the_swarm_has_others(self) -> None:
        playbook = begun() << JOIN >> SHORT_ANSWER << Prepare(D, SIZE, SHORT) >> Prepared(D) >> SchedulerLost()
        playbook = playbook >> SchedulerFound() << replace(JOIN, piece_length=SHORT) >> ANSWER
        playbook = playbook << Leave(D)
        for first in range(0, 16, 4):
            playbook = playbook << RequestRange(D, first // 4, 0, first, first + 4)
        assert state_of(playbook) is MembershipState.ORIGIN_ONLY
        assert length_of(playbook) == SHORT

    def test_of_which_a_part_is_held_has_the_pieces_of_the_part(self) -> None:
        part = PiecesHeld(D, SIZE, SHORT, {0: digest(0)})
        held = Announce((Holding(D, SIZE, complete=False, have=b"\x01", piece_length=SHORT),))
        playbook = begun(part) << held << replace(JOIN, piece_length=SHORT)
        playbook = playbook >> OriginRefused(D, 0)
        assert playbook << RequestRange(D, 0, 0, 1, 5) << RequestRange(D, 1, 0, 5, 9)
        assert state_of(playbook) is MembershipState.ORIGIN_ONLY

    def test_tells_a_scheduler_of_the_version_before_nothing_of_other_pieces(self) -> None:
        playbook = begun() << JOIN >> SHORT_ANSWER << Prepare(D, SIZE, SHORT) >> Prepared(D) >> SchedulerLost()
        playbook = playbook >> SchedulerFound(divides=False)
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
        playbook = playbook >> SchedulerFound(divides=False) << Announce((holding,))
        nothing = DigestReport(D, 0, b"", last=True)
        assert playbook >> DigestsRead(D, {0: digest(0)}, piece_length=SHORT) << nothing

    def test_that_is_gone_is_forgotten(self) -> None:
        machine = HostMachine()
        machine.handle(BlobStored(D, SIZE, SHORT), 0.0)
        machine.handle(BlobRemoved(D), 0.0)
        assert not machine.divided
