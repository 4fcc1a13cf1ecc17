"""The download's decisions: rule by rule."""

from __future__ import annotations

import pytest

from peer.core.download import MAX_STRIKES, Download, IllegalTransitionError
from peer.core.origin_events import (
    BlobVerified,
    Ended,
    Event,
    Outcome,
    Phase,
    PieceLanded,
    ReaderLeft,
    ReaderMoved,
    ReturnSlot,
    SlotGranted,
    SourceAdded,
    StartTransfer,
    Stopped,
    StopTransfer,
    Tick,
    TransferEnded,
    TransferOpened,
    WantSlot,
)

LENGTH = 100
"""Bytes of a piece, in these tests."""

LINGER_S = 30.0


def _download(*events: Event, max_transfers: int = 4) -> Download:
    """A download that has taken these events in, all at time 0."""
    download = Download(max_transfers, LINGER_S)
    for event in events:
        download.handle(event, 0.0)
        download.validate()
    return download


def _known(*held: int, count: int = 20, max_transfers: int = 4) -> Download:
    """A download with source 0 and reader 1, of a blob of `count` pieces of which some are held."""
    download = Download(max_transfers, LINGER_S)
    download.learn_geometry(count * LENGTH, LENGTH)
    events: list[Event] = [PieceLanded(None, index) for index in held]
    for event in (*events, ReaderMoved(1, 0, None), SourceAdded(0)):
        download.handle(event, 0.0)
    return download


def _granted(download: Download, source: int = 0) -> tuple[int, int | None]:
    """The pieces of the transfer that a granted slot is used for."""
    for instruction in download.handle(SlotGranted(source), 0.0):
        if isinstance(instruction, StartTransfer):
            return instruction.first, instruction.stop
    pytest.fail("the slot was not used")


class TestWhatIsAskedFor:
    def test_nothing_before_there_is_a_source(self) -> None:
        assert Download(4, LINGER_S).handle(ReaderMoved(1, 0, None), 0.0) == []

    def test_one_transfer_until_the_geometry_is_known(self) -> None:
        download = Download(4, LINGER_S)
        assert download.handle(SourceAdded(0), 0.0) == [WantSlot(0)]
        assert download.handle(ReaderMoved(1, 0, None), 0.0) == []
        assert download.handle(SlotGranted(0), 0.0) == [StartTransfer(0, 0, 0, None)]
        assert download.handle(ReaderMoved(1, 5000, None), 0.0) == []
        opened = TransferOpened(0, size_bytes=2000, piece_length=LENGTH, first=0, stop=4)
        assert download.handle(opened, 0.0) == [WantSlot(0)] * 3

    def test_only_what_is_missing(self) -> None:
        download = _known(0, 1, 3, 8, 9, 10, 11)
        assert [_granted(download) for _ in range(3)] == [(2, 3), (4, 8), (12, 16)]

    def test_no_more_slots_than_the_missing_pieces_need(self) -> None:
        download = Download(4, LINGER_S)
        download.learn_geometry(5 * LENGTH, LENGTH)
        assert download.handle(SourceAdded(0), 0.0) == [WantSlot(0)] * 2

    def test_no_slot_for_a_blob_that_is_all_there(self) -> None:
        download = _known(*range(5), count=5)
        assert download.handle(SourceAdded(1), 0.0) == []

    def test_an_origin_that_ignores_range_is_asked_once(self) -> None:
        download = _download(ReaderMoved(1, 0, None), SourceAdded(0), SlotGranted(0))
        assert download.handle(TransferOpened(0, 2000, LENGTH, first=0, stop=20), 0.0) == []

    def test_an_origin_that_ignores_the_range_of_a_later_request_is_asked_for_nothing_more(self) -> None:
        download = _known(0, max_transfers=2)
        assert [_granted(download), _granted(download)] == [(1, 5), (5, 9)]
        download.handle(TransferOpened(0, 2000, LENGTH, first=0, stop=20), 0.0)
        download.validate()
        assert download.handle(TransferEnded(1, Outcome.BROKEN), 0.0) == []

    def test_a_slot_that_is_not_needed_any_more_goes_back(self) -> None:
        download = _known(*range(16))
        for index in range(16, 20):
            download.handle(PieceLanded(None, index), 0.0)
        assert download.handle(SlotGranted(0), 0.0) == [ReturnSlot()]

    def test_what_a_broken_transfer_did_not_bring_is_asked_for_again(self) -> None:
        download = _known(*range(16))
        assert _granted(download) == (16, 20)
        download.handle(TransferOpened(0, 2000, LENGTH, 16, 20), 0.0)
        download.handle(PieceLanded(0, 16), 0.0)
        assert download.handle(TransferEnded(0, Outcome.BROKEN), 0.0) == [WantSlot(0)]
        assert _granted(download) == (17, 20)

    def test_the_blobs_length_does_not_change(self) -> None:
        download = _known()
        _granted(download)
        with pytest.raises(IllegalTransitionError, match="changed from 2000 to 1999"):
            download.handle(TransferOpened(0, 1999, LENGTH, 0, 4), 0.0)


class TestWhoGoesFirst:
    def test_what_a_client_waits_for(self) -> None:
        download = _known()
        download.handle(ReaderMoved(1, 1250, 1330), 0.0)
        assert [_granted(download), _granted(download)] == [(12, 16), (0, 4)]

    def test_decided_when_the_slot_comes_and_not_when_it_was_asked_for(self) -> None:
        download = _known()
        assert _granted(download) == (0, 4)
        download.handle(ReaderMoved(2, 1900, None), 0.0)
        download.handle(ReaderMoved(1, 1000, None), 0.0)
        assert [_granted(download), _granted(download)] == [(10, 14), (14, 18)]

    def test_a_client_before_what_is_fetched_ahead(self) -> None:
        download = _known()
        seen = list[bool]()
        for event in (ReaderMoved(1, 0, None, background=True), ReaderMoved(2, 800, None)):
            download.handle(event, 0.0)
            seen.append(download.background)
        assert _granted(download) == (8, 12)
        download.handle(ReaderLeft(2), 0.0)
        assert [*seen, download.background] == [True, False, True]
        assert _granted(download) == (0, 4)

    def test_a_range_beyond_the_end_is_nobodys_need(self) -> None:
        download = _known()
        download.handle(ReaderMoved(1, 99_999, None), 0.0)
        assert _granted(download) == (0, 4)


class TestSources:
    def test_the_one_with_the_fewest_strikes_is_asked(self) -> None:
        download = _download(ReaderMoved(1, 0, None), SourceAdded(0), SourceAdded(1), SlotGranted(0))
        assert download.handle(TransferEnded(0, Outcome.BROKEN), 0.0) == [WantSlot(1)]

    def test_one_that_refuses_is_dropped_and_another_goes_on(self) -> None:
        download = _download(ReaderMoved(1, 0, None), SourceAdded(0), SourceAdded(1), SlotGranted(0))
        assert download.handle(TransferEnded(0, Outcome.REFUSED), 0.0) == [WantSlot(1)]

    def test_the_download_fails_when_the_last_one_refuses(self) -> None:
        download = _known()
        _granted(download), _granted(download)
        assert download.handle(TransferEnded(0, Outcome.REFUSED), 0.0) == [StopTransfer(1), Ended(Phase.FAILED)]

    def test_a_slot_of_one_that_was_dropped_is_not_used(self) -> None:
        download = _known()
        download.handle(SourceAdded(1), 0.0)
        _granted(download)
        download.handle(TransferEnded(0, Outcome.REFUSED), 0.0)
        assert download.handle(SlotGranted(0), 0.0) == [ReturnSlot(), WantSlot(1)]

    def test_one_that_was_dropped_stays_dropped_though_its_last_pieces_land(self) -> None:
        download = _known(max_transfers=2)
        download.handle(SourceAdded(1), 0.0)
        _granted(download), _granted(download)
        download.handle(TransferEnded(0, Outcome.REFUSED), 0.0)
        download.handle(TransferOpened(1, 2000, LENGTH, 4, 8), 0.0)
        download.handle(PieceLanded(1, 4), 0.0)
        assert download.handle(TransferEnded(1, Outcome.BROKEN), 0.0) == [WantSlot(1)]

    def test_one_is_given_up_after_so_many_transfers_that_brought_nothing(self) -> None:
        download = _download(ReaderMoved(1, 0, None), SourceAdded(0))
        for number in range(MAX_STRIKES - 1):
            download.handle(SlotGranted(0), 0.0)
            assert download.handle(TransferEnded(number, Outcome.BROKEN), 0.0) == [WantSlot(0)]
        download.handle(SlotGranted(0), 0.0)
        assert download.handle(TransferEnded(MAX_STRIKES - 1, Outcome.BROKEN), 0.0) == [Ended(Phase.FAILED)]

    def test_a_piece_that_lands_wipes_the_strikes_off(self) -> None:
        download = _known(max_transfers=1)
        for number in range(3 * MAX_STRIKES):
            first, stop = _granted(download)
            assert stop is not None
            download.handle(TransferOpened(number, 2000, LENGTH, first, stop), 0.0)
            if number % MAX_STRIKES == MAX_STRIKES - 1:
                download.handle(PieceLanded(number, first), 0.0)
            assert download.handle(TransferEnded(number, Outcome.BROKEN), 0.0) == [WantSlot(0)]

    def test_a_fatal_end_is_the_end_whatever_sources_there_are(self) -> None:
        download = _download(ReaderMoved(1, 0, None), SourceAdded(0), SourceAdded(1), SlotGranted(0))
        assert download.handle(TransferEnded(0, Outcome.FATAL), 0.0) == [Ended(Phase.FAILED)]


class TestEnds:
    def test_complete_only_when_the_digest_is_right(self) -> None:
        for ok, phase in ((True, Phase.COMPLETE), (False, Phase.FAILED)):
            download = _known(*range(20))
            assert download.handle(BlobVerified(ok), 0.0) == [Ended(phase)]
            assert download.phase is phase

    def test_abandoned_only_after_nobody_wanted_it_for_long_enough(self) -> None:
        download = _known()
        _granted(download)
        download.handle(ReaderLeft(1), 10.0)
        assert download.next_deadline() == 10.0 + LINGER_S
        assert Ended(Phase.ABANDONED) not in download.handle(Tick(), 9.9 + LINGER_S)
        assert download.handle(Tick(), 10.0 + LINGER_S) == [StopTransfer(0), Ended(Phase.ABANDONED)]

    def test_a_reader_that_comes_in_time_stops_the_clock(self) -> None:
        download = _known()
        download.handle(ReaderLeft(1), 10.0)
        download.handle(ReaderMoved(2, 0, None), 11.0)
        assert download.next_deadline() is None
        assert Ended(Phase.ABANDONED) not in download.handle(Tick(), 1000.0)
        download.handle(ReaderLeft(2), 1001.0)
        assert download.next_deadline() == 1001.0 + LINGER_S

    def test_a_stop_ends_it_at_once(self) -> None:
        download = _known()
        _granted(download)
        assert download.handle(Stopped(), 0.0) == [StopTransfer(0), Ended(Phase.ABANDONED)]

    def test_what_comes_after_the_end_is_put_away(self) -> None:
        download = _known()
        _granted(download)
        download.handle(Stopped(), 0.0)
        late: list[Event] = [
            TransferOpened(0, 2000, LENGTH, 0, 4),
            PieceLanded(0, 0),
            TransferEnded(0, Outcome.BROKEN),
            SourceAdded(1),
            ReaderMoved(2, 0, None),
            ReaderLeft(1),
            BlobVerified(False),
            Tick(),
            Stopped(),
        ]
        assert [download.handle(event, 1.0) for event in late] == [[]] * len(late)
        assert download.handle(SlotGranted(0), 1.0) == [ReturnSlot()]
        assert download.phase is Phase.ABANDONED


class TestDefects:
    @pytest.mark.parametrize(
        ("event", "text"),
        [
            (TransferEnded(7, Outcome.DONE), "transfer 7 is not under way"),
            (TransferOpened(7, 100, LENGTH, 0, 1), "transfer 7 is not under way"),
            (PieceLanded(None, 0), "before the geometry was known"),
            (SlotGranted(0), "nobody asked for"),
        ],
    )
    def test_an_event_that_cannot_be_tells_the_story(self, event: Event, text: str) -> None:
        download = _download(ReaderMoved(1, 0, None))
        with pytest.raises(IllegalTransitionError, match=text) as error:
            download.handle(event, 1.5)
        assert "0.000 ReaderMoved(reader=1" in str(error.value)
        assert f"1.500 {event}" in str(error.value)

    def test_a_piece_that_the_blob_does_not_have(self) -> None:
        with pytest.raises(IndexError):
            _known(count=3).handle(PieceLanded(None, 3), 0.0)

    def test_the_story_is_bounded(self) -> None:
        download = Download(1, LINGER_S)
        for reader in range(1000):
            download.handle(ReaderMoved(reader, 0, None), 0.0)
        assert len(download.story()) == 64
