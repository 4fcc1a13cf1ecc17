"""When this host looks at its uploads, in virtual time over a kernel that acknowledges at given rates.

A test that would wait for ever fails at once.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import struct
from dataclasses import dataclass
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from peer.core.choker import FREE_SOON_S, UploadRequest
from peer.core.uplink import SHARED_LOOK_S
from peer.net.upload_sender import (
    EARLY_DONE_BYTES,
    EARLY_DONE_S,
    POLL_INTERVAL_S,
    TELL_WITHIN_S,
    Upload,
    Uploading,
)
from tests.support.virtual_loop import run_in_virtual_time

MIB = 1 << 20
SLACK_S = 1e-6


@dataclass
class Connection:
    """A connection as the kernel knows it, and its transport. It ends `ends_s` after its piece has begun."""

    bytes_per_s: float
    ends_s: float = math.inf
    began: float = math.inf
    aborted: bool = False
    looks: int = 0

    def begin(self) -> None:
        self.began = asyncio.get_running_loop().time()

    def get_extra_info(self, _name: str) -> Connection:
        return self

    def is_closing(self) -> bool:
        return self.aborted or asyncio.get_running_loop().time() >= self.began + self.ends_s

    def abort(self) -> None:
        self.aborted = True

    def getsockopt(self, _level: int, _option: int, _size: int) -> bytes:
        self.looks += 1
        acked = max(0.0, asyncio.get_running_loop().time() - self.began) * self.bytes_per_s
        return struct.pack("=24xI92xQ16xII", 1, int(acked), 1, 100)

    def out_at(self, size_bytes: int) -> float:
        """When a piece is out, or the connection has ended."""
        return self.began + min(self.ends_s, max(0, size_bytes - EARLY_DONE_BYTES) / self.bytes_per_s)


def piece(connection: Connection, size_bytes: int, host: str = "") -> Upload:
    receiver = UploadRequest(host, bytes(32)) if host else None
    return Upload(receiver, connection, size_bytes)  # type: ignore[arg-type] # as much of a transport as is used


def test_whoever_gives_the_last_of_a_piece_just_before_it_is_out_does_not_wait_for_the_common_look() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        uploading = Uploading(1, lambda _: None)
        connection = Connection(bytes_per_s=4 * MIB)
        upload = piece(connection, MIB)
        async with uploading.turn(upload):
            connection.begin()
            out_at = connection.out_at(MIB)
            await asyncio.sleep(out_at - 2 * EARLY_DONE_S - loop.time())
            await uploading.drained(upload)
            assert loop.time() <= out_at + SLACK_S

    run_in_virtual_time(main())


def test_a_piece_is_looked_at_while_it_is_given_to_the_kernel() -> None:
    async def main() -> None:
        uploading = Uploading(1, lambda _: None)
        connection = Connection(bytes_per_s=MIB)
        async with uploading.turn(piece(connection, MIB)):
            connection.begin()
            await asyncio.sleep(3 * POLL_INTERVAL_S)
            assert uploading._throughput.best > 0

    run_in_virtual_time(main())


def test_a_piece_that_may_be_nearly_out_is_not_looked_at_all_the_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        uploading = Uploading(1, lambda _: None)
        connection = Connection(bytes_per_s=4 * MIB)
        async with uploading.turn(piece(connection, MIB)):
            connection.begin()
            await asyncio.sleep(connection.out_at(MIB) - FREE_SOON_S - 0.001 - loop.time())
            async with uploading.turn(piece(Connection(bytes_per_s=4 * MIB), MIB, "other")) as may_send:
                assert not may_send
            assert uploading._looks_s(loop.time()) == TELL_WITHIN_S

    run_in_virtual_time(main())


def test_a_line_that_several_pieces_share_is_looked_at_more_often_while_others_wait() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        uploading = Uploading(3, lambda _: None)
        connections = [Connection(bytes_per_s=4 * MIB) for _ in range(3)]
        async with uploading.turn(piece(connections[0], 8 * MIB, "a")):
            connections[0].begin()
            assert uploading._looks_s(loop.time()) == POLL_INTERVAL_S
            await asyncio.sleep(0.3)
            connections[0].bytes_per_s = MIB
            await asyncio.sleep(0.5)
            async with uploading.turn(piece(connections[1], 8 * MIB, "b")) as may_send:
                assert may_send
                assert uploading._looks_s(loop.time()) == POLL_INTERVAL_S, "nobody waits"
                async with uploading.turn(piece(connections[2], MIB, "c")) as may_send:
                    assert not may_send
                assert uploading._looks_s(loop.time()) == SHARED_LOOK_S

    run_in_virtual_time(main())


def test_a_piece_on_a_line_of_its_own_is_looked_at_a_few_times_while_nobody_is_to_be_told() -> None:
    async def main() -> None:
        uploading = Uploading(1, lambda _: None)
        connection = Connection(bytes_per_s=4 * MIB)
        upload = piece(connection, MIB)
        async with uploading.turn(upload):
            connection.begin()
            await uploading.drained(upload)
        took_s = connection.out_at(MIB) - connection.began
        assert connection.looks <= 4 + took_s / POLL_INTERVAL_S

    run_in_virtual_time(main())


def test_who_is_refused_shortly_before_a_piece_is_nearly_out_is_told_in_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        told: list[float] = []
        uploading = Uploading(1, lambda _: told.append(loop.time()))
        connection = Connection(bytes_per_s=4 * MIB)
        async with uploading.turn(piece(connection, MIB)):
            connection.begin()
            nearly_out_at = connection.out_at(MIB) - FREE_SOON_S
            await asyncio.sleep(nearly_out_at - TELL_WITHIN_S - loop.time())
            async with uploading.turn(piece(Connection(bytes_per_s=4 * MIB), MIB, "other")) as may_send:
                assert not may_send
            await asyncio.sleep(FREE_SOON_S)
        assert len(told) == 1
        assert abs(told[0] - nearly_out_at) < SLACK_S

    run_in_virtual_time(main())


def test_who_is_refused_while_another_waits_is_told_once_that_one_has_gone() -> None:
    """Nobody has been told of this piece, though it was looked at when it was nearly out."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        told: list[str] = []
        uploading = Uploading(1, lambda receiver: told.append(receiver.host))

        async def asks(host: str) -> bool:
            async with uploading.turn(piece(Connection(bytes_per_s=4 * MIB), MIB, host)) as may_send:
                return may_send

        connection = Connection(bytes_per_s=4 * MIB)
        upload = piece(connection, MIB)
        async with asyncio.TaskGroup() as group, uploading.turn(upload):
            connection.begin()
            await asyncio.sleep(connection.out_at(MIB) - FREE_SOON_S + 0.001 - loop.time())
            waits = group.create_task(asks("waits"))
            await asyncio.sleep(0)
            assert not await asks("refused")
            uploading._watch()
            waits.cancel()
            assert told == []
            await uploading.drained(upload)
            assert told == ["refused"]

    run_in_virtual_time(main())


class Sent(NamedTuple):
    """One request: when it comes, after how long the kernel has all of the piece, and how its connection goes."""

    at_s: float
    size_bytes: int
    given_s: float
    bytes_per_s: float
    ends_s: float
    host: str


def seconds(most: float) -> st.SearchStrategy[float]:
    return st.integers(0, round(most * 1000)).map(lambda milliseconds: milliseconds / 1000)


REQUESTS = st.builds(
    Sent,
    at_s=seconds(2),
    size_bytes=st.integers(1, 4 * MIB),
    given_s=seconds(0.5),
    bytes_per_s=st.sampled_from([1e3, 1e5, 3e6, 1e7, 1e9]),
    ends_s=st.one_of(seconds(5), st.just(5.0)),
    host=st.sampled_from(["a", "b", "c", "d", "e", "f"]),
)


@given(st.lists(REQUESTS, max_size=12), st.integers(1, 3))
def test_in_any_order_each_piece_is_seen_to_be_out_all_are_told_and_then_nobody_looks(
    requests: list[Sent], slots: int
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        told: list[UploadRequest] = []
        uploading = Uploading(slots, told.append)
        refused = 0

        async def send(sent: Sent) -> None:
            nonlocal refused
            await asyncio.sleep(sent.at_s)
            connection = Connection(sent.bytes_per_s, sent.ends_s)
            upload = piece(connection, sent.size_bytes, sent.host)
            async with uploading.turn(upload) as may_send:
                if not may_send:
                    refused += 1
                    return
                connection.begin()
                await asyncio.sleep(sent.given_s)
                given_at = loop.time()
                await uploading.drained(upload)
                assert loop.time() <= max(connection.out_at(sent.size_bytes), given_at) + POLL_INTERVAL_S + SLACK_S

        async with asyncio.TaskGroup() as group:
            for sent in requests:
                group.create_task(send(sent))
        for _ in itertools.takewhile(lambda _: uploading._timer is not None, range(1000)):
            await asyncio.sleep(POLL_INTERVAL_S)
        assert uploading._timer is None
        assert not uploading._choker.is_wanted
        assert bool(refused) <= bool(told)

    run_in_virtual_time(main())
