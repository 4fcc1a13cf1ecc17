"""Reads that wsproto is spared, against wsproto."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Ping, Pong, TextMessage

from scheduler.shell.whole_frames import MAX_FRAMES, MESSAGE, PING, PONG, owed_after, whole_frames

EVENTS = st.one_of(
    st.binary(max_size=300).map(BytesMessage),
    st.integers(124, 130).map(lambda size: BytesMessage(bytes(size))),
    st.binary(max_size=125).map(Pong),
    st.binary(max_size=125).map(Ping),
    st.text(max_size=9).map(TextMessage),
    st.binary(max_size=9).map(lambda data: BytesMessage(data, message_finished=False)),
)


def sent(*events: Any) -> list[bytes]:
    """What clients send for these events, each by a client of its own."""
    return [bytes(Connection(ConnectionType.CLIENT).send(event)) for event in events]


def by_wsproto(data: bytes) -> list[tuple[int, bytes]]:
    """The frames of a read, which are messages, pings and pongs."""
    server = Connection(ConnectionType.SERVER)
    server.receive_data(data)
    frames = []
    for event in server.events():
        assert isinstance(event, BytesMessage | Ping | Pong)
        if isinstance(event, BytesMessage):
            assert event.message_finished
            frames.append((MESSAGE, bytes(event.data)))
        else:
            frames.append((PING if isinstance(event, Ping) else PONG, bytes(event.payload)))
    return frames


def is_between_frames(data: bytes) -> bool:
    """Whether wsproto reads the next byte as the first one of a frame: a pong follows, and nothing else."""
    server = Connection(ConnectionType.SERVER)
    server.receive_data(data)
    for _ in server.events():
        pass
    server.receive_data(sent(Pong(b"next"))[0])
    return list(server.events()) == [Pong(b"next")]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 1000, 65_535])
def test_whole_messages_pings_and_pongs_are_taken(size: int) -> None:
    data = b"".join(sent(BytesMessage(b"x" * size), Ping(), Pong(b"12")))
    assert whole_frames(data) == [(MESSAGE, b"x" * size), (PING, b""), (PONG, b"12")]


@pytest.mark.parametrize(
    "data",
    [
        *sent(TextMessage("hello"), BytesMessage(bytes(65_536))),
        sent(BytesMessage(b"", message_finished=False))[0],
        sent(BytesMessage(b"cut"))[0][:-1],
        b"\x82\x03abc",
        b"\xc2\x80\x00\x00\x00\x00",
        b"\x82\xfe\x00\x05\x00\x00\x00\x00hello",
        b"\x8a\xfe\x00\x7e\x00\x00\x00\x00" + bytes(126),
    ],
    ids=["text", "64-kib", "of-several", "cut", "no-mask", "reserved-bit", "length-too-wide", "long-pong"],
)
def test_all_else_is_for_wsproto(data: bytes) -> None:
    assert whole_frames(data) is None
    assert whole_frames(sent(BytesMessage(b"before"))[0] + data) is None


def test_a_read_of_many_frames_is_for_wsproto_so_that_each_is_counted_before_the_next_is_read() -> None:
    [pong] = sent(Pong())
    assert len(whole_frames(pong * MAX_FRAMES) or ()) == MAX_FRAMES
    assert whole_frames(pong * (MAX_FRAMES + 1)) is None


@given(
    st.one_of(st.binary(max_size=40), st.lists(EVENTS, max_size=4).map(lambda each: b"".join(sent(*each)))), st.data()
)
def test_what_is_taken_is_what_wsproto_reads(stream: bytes, data: st.DataObject) -> None:
    read = stream[: data.draw(st.integers(0, len(stream)))]
    frames = whole_frames(read)
    if frames is not None:
        assert frames == by_wsproto(read)
        assert is_between_frames(read)


@given(
    st.lists(st.one_of(st.binary(max_size=300).map(BytesMessage), st.binary(max_size=9).map(Ping)), max_size=5),
    st.data(),
)
def test_what_is_owed_is_followed_through_any_cuts(events: list[Any], data: st.DataObject) -> None:
    stream = b"".join(sent(*events))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    owed: int | None = 0
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        owed = owed_after(owed, stream[start:stop])
        if owed == 0:
            assert is_between_frames(stream[:stop])
    assert owed in (0, None)


def test_after_a_message_in_several_reads_the_next_one_is_taken_again() -> None:
    long = sent(BytesMessage(bytes(100_000)))[0]
    owed = owed_after(0, long[:50_000])
    assert owed == len(long) - 50_000
    assert owed_after(owed, long[50_000:]) == 0


def test_it_is_unknown_in_a_head_and_in_a_message_of_several_frames() -> None:
    long = sent(BytesMessage(bytes(1000)))[0]
    for size in range(1, 8):
        assert owed_after(0, long[:size]) is None
    assert owed_after(0, sent(BytesMessage(b"in ", message_finished=False))[0]) is None
    assert owed_after(None, long) is None
