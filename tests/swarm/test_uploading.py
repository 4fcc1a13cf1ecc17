"""What goes out to others, over real sockets: when a piece is out, who waits for its turn, and who is told of room."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from peer.core.choker import MAX_WAITING, TOLD
from peer.core.uplink import settle_s
from peer.net.upload_sender import EARLY_DONE_BYTES, EARLY_DONE_S, POLL_INTERVAL_S, Upload
from tests.support.node import asynchronous
from tests.support.registry_server import PATIENCE_S
from tests.swarm.lines import FIRST_BYTES, PIECE_BYTES, SHORT_BYTES, lines, nearly_out, until

# -- when a piece is out -------------------------------------------------------------------------------------------


@asynchronous
async def test_a_piece_is_out_when_it_is_acknowledged_and_not_when_the_kernel_has_taken_it() -> None:
    async with lines() as it:
        line = await it.connect()
        piece = line.piece()
        async with it.uploading.turn(piece) as may_send:
            assert may_send
            line.transport.write(bytes(PIECE_BYTES))
            drained = it.start(it.uploading.drained(piece))
            await line.reads(PIECE_BYTES // 4)
            assert not drained.done(), "three quarters of it are in a buffer"
            await line.reads(PIECE_BYTES - PIECE_BYTES // 4 - EARLY_DONE_BYTES)
            await asyncio.wait_for(drained, PATIENCE_S)


@asynchronous
async def test_of_a_connection_that_was_used_before_only_what_is_new_counts() -> None:
    async with lines() as it:
        line = await it.connect()
        for count in (1, 2):
            piece = line.piece()
            async with it.uploading.turn(piece):
                assert piece.acked_bytes == 0
                line.transport.write(bytes(PIECE_BYTES))
                await line.reads(PIECE_BYTES)
                await asyncio.wait_for(it.uploading.drained(piece), PATIENCE_S)
                await until(lambda: piece.acked_bytes == PIECE_BYTES)  # noqa: B023 # it waits for it here
            assert it.uploading._acked_bytes() == count * PIECE_BYTES


@asynchronous
async def test_on_a_fast_line_a_piece_is_out_a_moment_before_it_is_acknowledged() -> None:
    async with lines() as it:
        await it.shows_what_the_line_can()
        line = await it.connect()
        piece = line.piece(size_bytes=SHORT_BYTES)
        async with it.uploading.turn(piece):
            async with asyncio.timeout(PATIENCE_S):
                await it.uploading.drained(piece)
            assert piece.acked_bytes == 0


@asynchronous
async def test_a_piece_whose_receiver_goes_away_is_out() -> None:
    async with lines() as it:
        line = await it.connect()
        piece = line.piece()
        async with it.uploading.turn(piece):
            line.transport.write(bytes(PIECE_BYTES))
            drained = it.start(it.uploading.drained(piece))
            line.other.close()
            await asyncio.wait_for(drained, PATIENCE_S)
        assert not await it.is_refused("next")


@asynchronous
async def test_what_is_still_on_its_way_of_a_piece_counts_as_sent_after_the_next_has_begun() -> None:
    async with lines() as it:
        line = await it.connect()
        async with it.uploading.turn(line.piece()):
            assert it.uploading._acked_bytes() == 0
        assert it.uploading._acked_bytes() == PIECE_BYTES


@asynchronous
async def test_what_a_host_that_goes_away_has_not_got_does_not() -> None:
    async with lines() as it:
        line = await it.connect()
        async with it.uploading.turn(line.piece()):
            line.transport.close()
        assert it.uploading._acked_bytes() == 0


@asynchronous
async def test_when_a_piece_is_out_what_the_others_leave_unused_is_measured_anew() -> None:
    async with lines(slots=2) as it:
        await it.shows_what_the_line_can()
        stuck, other = await it.connect(), await it.connect()
        async with it.uploading.turn(stuck.piece("stuck")):
            await until(it.has_spare)
            async with it.uploading.turn(other.piece("other")) as may_send:
                assert may_send
                await until(it.has_spare)
                before = it.uploading._throughput._changed
            assert it.uploading._throughput._changed > before
            await until(it.has_spare)


@asynchronous
async def test_how_far_a_host_is_says_when_the_line_can_be_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    async with lines() as it:
        piece = (await it.connect()).piece()
        async with it.uploading.turn(piece):
            assert 0 < piece.round_trip_s() < 1, "seconds, on loopback"
        monkeypatch.setattr(Upload, "round_trip_s", lambda _: 0.02)
        piece = (await it.connect()).piece()
        async with it.uploading.turn(piece):
            assert it.uploading._throughput._settles == piece._began_s + settle_s(0.02)


@asynchronous
async def test_a_piece_that_is_still_given_to_the_kernel_is_not_looked_at_all_the_time() -> None:
    async with lines() as it:
        line = await it.connect()
        piece = line.piece(size_bytes=SHORT_BYTES)
        async with it.uploading.turn(piece):
            nearly_out(piece)
            now = asyncio.get_running_loop().time()
            assert it.uploading._looks_s(now) == POLL_INTERVAL_S
            piece.out = asyncio.get_running_loop().create_future()
            assert it.uploading._looks_s(now) == EARLY_DONE_S, "now it is waited for"
            piece.out.set_result(None)
            assert it.uploading._looks_s(now) == POLL_INTERVAL_S


# -- who waits -----------------------------------------------------------------------------------------------------


@asynchronous
async def test_who_comes_while_a_piece_is_not_nearly_out_is_refused_at_once() -> None:
    async with lines() as it:
        line = await it.connect()
        async with it.uploading.turn(line.piece(size_bytes=SHORT_BYTES)):
            assert await it.is_refused("near")
            assert await it.is_refused("far")
            assert it.told == []
        await until(lambda: len(it.told) == 2)
        assert it.told == ["far", "near"], "though nobody that was told has come"


@asynchronous
async def test_one_waits_for_the_last_of_a_piece_and_begins_when_it_is_out() -> None:
    async with lines() as it:
        first, second = await it.connect(), await it.connect()
        begun = asyncio.Event()

        async def comes_second() -> None:
            async with it.uploading.turn(second.piece("second")) as may_send:
                assert may_send
                begun.set()

        piece = first.piece(size_bytes=SHORT_BYTES)
        async with it.uploading.turn(piece):
            nearly_out(piece)
            second_comes = it.start(comes_second())
            await until(lambda: len(it.uploading._choker._waiting) == MAX_WAITING)
            assert await it.is_refused("third"), "one is enough"
            assert not begun.is_set()
        await asyncio.wait_for(second_comes, PATIENCE_S)
        await until(lambda: len(it.told) == 2)
        assert it.told == ["third", "second"], "who was served before the third comes behind it"


@asynchronous
async def test_one_that_goes_away_while_it_waits_leaves_its_place_to_another() -> None:
    async with lines() as it:
        line = await it.connect()
        piece = line.piece(size_bytes=SHORT_BYTES)
        waiting = it.uploading._choker._waiting
        async with it.uploading.turn(piece):
            nearly_out(piece)
            goes = it.start(it.is_refused("goes"))
            await until(lambda: len(waiting) == 1)
            goes.cancel()
            with suppress(asyncio.CancelledError):
                await goes
            assert not waiting
            assert not it.uploading._choker.is_wanted, "it is not remembered"
        assert not await it.is_refused("next")


@asynchronous
async def test_one_that_goes_away_when_its_turn_has_just_come_leaves_it_to_the_next() -> None:
    async with lines() as it:
        line = await it.connect()
        piece = line.piece(size_bytes=SHORT_BYTES)
        async with it.uploading.turn(piece):
            nearly_out(piece)
            goes = it.start(it.is_refused("goes"))
            await until(lambda: len(it.uploading._choker._waiting) == 1)
        assert it.uploading._active, "its turn has come, and it does not know that yet"
        goes.cancel()
        with suppress(asyncio.CancelledError):
            await goes
        assert not await it.is_refused("next")


@asynchronous
async def test_one_whose_connection_has_ended_while_it_waits_does_no_harm_when_its_turn_comes() -> None:
    async with lines() as it:
        first, second = await it.connect(), await it.connect()
        piece = first.piece(size_bytes=SHORT_BYTES)
        async with it.uploading.turn(piece):
            nearly_out(piece)
            second_comes = it.start(it.is_served(second.piece("second")))
            await until(lambda: len(it.uploading._choker._waiting) == 1)
            second.transport.abort()
            await until(lambda: second.transport.get_extra_info("socket").fileno() == -1)
        assert await asyncio.wait_for(second_comes, PATIENCE_S), "it finds out when it sends"
        assert not await it.is_refused("next")


@asynchronous
async def test_one_that_has_waited_for_long_is_refused_and_told_later() -> None:
    async with lines() as it:
        line = await it.connect()
        piece = line.piece(size_bytes=SHORT_BYTES)
        async with it.uploading.turn(piece):
            nearly_out(piece)
            assert await asyncio.wait_for(it.is_refused("waits"), PATIENCE_S)
            assert not it.uploading._choker._waiting
        await until(lambda: it.told == ["waits"])


@asynchronous
async def test_one_waits_where_a_part_of_the_line_is_unused_but_all_slots_are_taken() -> None:
    async with lines() as it:
        await it.shows_what_the_line_can()
        first, second = await it.connect(), await it.connect()
        piece = first.piece(size_bytes=SHORT_BYTES)
        async with it.uploading.turn(piece):
            nearly_out(piece)
            await until(it.has_spare)
            second_comes = it.start(it.is_served(second.piece("second")))
            await until(lambda: second_comes.done() or bool(it.uploading._choker._waiting))
            assert not second_comes.done(), "it is refused, though the piece before it is nearly out"
        assert await asyncio.wait_for(second_comes, PATIENCE_S)


# -- who is told ---------------------------------------------------------------------------------------------------


@asynchronous
async def test_others_are_told_once_while_the_last_of_a_piece_goes_out() -> None:
    async with lines() as it:
        line = await it.connect()
        piece = line.piece(size_bytes=SHORT_BYTES)
        hosts = [f"h{number}" for number in range(4 * TOLD)]
        async with it.uploading.turn(piece):
            for host in hosts:
                assert await it.is_refused(host)
            nearly_out(piece)
            await until(lambda: bool(it.told))
            line.transport.write(bytes(FIRST_BYTES))  # it goes on as before
            await it.looked()
            assert it.told == hosts[:TOLD], "more than two need not come for one piece"
        await until(lambda: it.told == hosts)


@asynchronous
async def test_of_two_pieces_nobody_is_told_until_one_is_out() -> None:
    async with lines(slots=2) as it:
        await it.shows_what_the_line_can()
        pieces = [(await it.connect()).piece(size_bytes=SHORT_BYTES) for _ in range(2)]
        hosts = [f"h{number}" for number in range(2 * TOLD)]
        async with it.uploading.turn(pieces[0]):
            await until(it.has_spare)
            async with it.uploading.turn(pieces[1]) as may_send:
                assert may_send
                await until(lambda: all(map(it.is_far_from_out, pieces)))
                for host in hosts:
                    assert await it.is_refused(host)
                nearly_out(pieces[1])
                await it.looked()
                assert it.told == [], "whoever comes now waits, or has a third of the line"
            await until(lambda: it.told[:TOLD] == hosts[:TOLD])


@asynchronous
async def test_so_they_are_after_a_time_in_which_nothing_went_out() -> None:
    async with lines() as it:
        line = await it.connect()
        async with it.uploading.turn(line.piece(size_bytes=SHORT_BYTES)):
            pass
        await until(lambda: it.uploading._timer is None)
        piece = line.piece(size_bytes=SHORT_BYTES)
        async with it.uploading.turn(piece):
            assert await it.is_refused("other")
            nearly_out(piece)
            await until(lambda: it.told == ["other"])


@asynchronous
async def test_one_that_is_served_while_others_wait_is_told_after_them() -> None:
    async with lines() as it:
        first, second = await it.connect(), await it.connect()
        hosts = [f"h{number}" for number in range(TOLD + 1)]
        async with it.uploading.turn(first.piece(size_bytes=SHORT_BYTES)):
            for host in hosts:
                assert await it.is_refused(host)
        piece = second.piece("served", SHORT_BYTES)
        async with it.uploading.turn(piece) as may_send:
            assert may_send
            assert piece.requeue
        await until(lambda: len(it.told) > len(hosts))
        assert it.told == [*hosts, "served"]


@asynchronous
async def test_one_that_is_served_while_nobody_waits_is_not_told() -> None:
    async with lines() as it:
        line = await it.connect()
        piece = line.piece("served", SHORT_BYTES)
        async with it.uploading.turn(piece):
            assert not piece.requeue
        assert it.told == []
        assert not it.uploading._choker.is_wanted


@asynchronous
async def test_a_slow_receiver_leaves_room_for_another_beside_it() -> None:
    """The first piece shows what the line can; the second goes to a host that does not read."""
    async with lines(slots=2) as it:
        await it.shows_what_the_line_can()
        line = await it.connect()
        async with it.uploading.turn(line.piece()):
            line.transport.write(bytes(PIECE_BYTES))
            async with asyncio.timeout(PATIENCE_S):
                while await it.is_refused("beside"):
                    await it.looked()
