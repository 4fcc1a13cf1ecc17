"""A WebSocket from any way of cutting its bytes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage

from scheduler.protocol.connection import PATH, Closing
from scheduler.protocol.fields import MAX_FRAME_BYTES
from scheduler.shell.connection import MAX_HELLO_BYTES, HostConnection, framed


class FakeTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return len(self.written)


class FakeOwner:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.answers: list[tuple[int, list[bytes]]] = []
        self.failures: list[tuple[Closing, str]] = []
        self.allowed = 1000
        self.begun_bytes = 0

    def may_send(self, connection: HostConnection, cost: int) -> bool:  # noqa: ARG002  there is one connection
        self.allowed -= cost
        return self.allowed >= 0

    def partly_received(self, connection: HostConnection, grown_bytes: int) -> None:
        assert connection.begun_bytes or grown_bytes <= 0
        self.begun_bytes += grown_bytes

    def now(self) -> float:
        return 1.0

    def opened(self, connection: HostConnection) -> None:
        pass

    def lost(self, connection: HostConnection) -> None:
        pass

    def received(self, connection: HostConnection, frame: bytes) -> None:
        assert connection.ended_at is None
        self.frames.append(frame)

    def answered(self, connection: HostConnection, number: int) -> None:
        assert connection.ended_at is None
        self.answers.append((number, list(self.frames)))

    def failed(self, connection: HostConnection, closing: Closing, reason: str) -> None:
        self.failures.append((closing, reason))
        connection.close(closing, reason)


class Client:
    """The other end, by wsproto."""

    def __init__(self, path: str = PATH) -> None:
        self.owner, self.transport, self.socket = FakeOwner(), FakeTransport(), WSConnection(ConnectionType.CLIENT)
        self.connection = HostConnection(self.owner, 1, 10)
        self.connection.connection_made(self.transport)
        self.request = self.socket.send(Request(host="scheduler", target=path))

    def opens(self) -> None:
        self.connection.data_received(self.request)
        assert isinstance(self.hears()[0], AcceptConnection)

    def says(self, event: Any) -> None:
        self.connection.data_received(self.socket.send(event))

    def hears(self) -> list[Any]:
        data, self.transport.written = self.transport.written, b""
        self.socket.receive_data(data)
        return list(self.socket.events())


@given(st.lists(st.binary(max_size=300), max_size=5), st.data())
def test_any_way_of_cutting_the_bytes_gives_the_same_messages(messages: list[bytes], data: st.DataObject) -> None:
    client = Client()
    client.opens()
    stream = b"".join(client.socket.send(BytesMessage(message)) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        client.connection.data_received(stream[start:stop])
    assert client.owner.frames == messages
    assert not client.owner.failures


def test_a_handshake_in_single_bytes() -> None:
    client = Client()
    for byte in client.request:
        client.connection.data_received(bytes([byte]))
    assert isinstance(client.hears()[0], AcceptConnection)


def test_a_message_in_several_frames() -> None:
    client = Client()
    client.opens()
    client.says(BytesMessage(b"in ", message_finished=False))
    client.says(Ping(b"now"))
    client.says(BytesMessage(b"parts"))
    assert client.owner.frames == [b"in parts"]
    assert client.hears() == [Pong(b"now")]


@pytest.mark.parametrize("payload", [b"", b"now", bytes(125)])
def test_a_ping_is_answered(payload: bytes) -> None:
    client = Client()
    client.opens()
    client.says(Ping(payload))
    assert client.hears() == [Pong(payload)]
    client.connection.close(Closing.SILENT, "")
    client.hears()
    client.connection.data_received(b"\x89\x80\x00\x00\x00\x00")
    assert client.transport.written == b"", "a connection that has ended answers nothing"


def test_the_answer_to_a_question_comes_after_what_was_said_before() -> None:
    client = Client()
    client.opens()
    client.connection.ask(7)
    (question,) = client.hears()
    client.says(BytesMessage(b"said before"))
    client.says(Pong(b"unasked"))
    client.says(question.response())
    assert client.owner.answers == [(7, [b"said before"])]


@pytest.mark.parametrize(
    ("event", "closing"),
    [
        (TextMessage("hello"), Closing.MALFORMED),
        (BytesMessage(bytes(MAX_FRAME_BYTES + 1)), Closing.OVERSIZED),
    ],
)
def test_what_is_refused_is_told_in_the_close_frame(event: Any, closing: Closing) -> None:
    client = Client()
    client.opens()
    client.says(event)
    (told,) = client.hears()
    assert isinstance(told, CloseConnection)
    assert told.code == closing
    assert told.reason
    client.says(told.response())
    assert client.transport.closed


@pytest.mark.parametrize("event", [BytesMessage(b"", message_finished=False), Ping(b"x"), Pong()])
def test_frames_that_end_no_message_count_and_no_frame_is_read_after_too_many(event: Any) -> None:
    client = Client()
    client.opens()
    client.owner.allowed = 100
    for _ in range(100):
        client.says(event)
    assert not client.owner.failures
    client.hears()
    client.says(event)
    (told,) = client.hears()
    assert isinstance(told, CloseConnection)
    assert told.code == Closing.FLOODING
    client.connection.data_received(b"\x89\x80\x00\x00\x00\x00" * 1000)
    assert client.owner.allowed == -1, "what comes now is not looked at"
    assert client.connection.begun_bytes == client.owner.begun_bytes == 0


def test_what_comes_after_an_end_of_ours_counts_too() -> None:
    client = Client()
    client.opens()
    client.connection.close(Closing.SILENT, "")
    client.owner.allowed = 10
    for _ in range(20):
        client.connection.data_received(client.socket.send(Ping()))
    assert client.owner.allowed == -1
    assert client.connection.deaf


def test_the_beginning_of_a_message_is_told_of_until_it_ends() -> None:
    client = Client()
    client.opens()
    client.says(BytesMessage(b"12345", message_finished=False))
    client.says(BytesMessage(b"678", message_finished=False))
    assert client.owner.begun_bytes == client.connection.begun_bytes == 8
    assert client.connection.begun_at == 1.0
    client.says(BytesMessage(b"9"))
    assert client.owner.frames == [b"123456789"]
    assert client.owner.begun_bytes == client.connection.begun_bytes == 0
    client.says(BytesMessage(b"12", message_finished=False))
    client.connection.connection_lost(None)
    assert client.owner.begun_bytes == 0


def test_a_first_message_in_parts_is_no_longer_than_a_hello() -> None:
    client = Client()
    client.opens()
    client.says(BytesMessage(bytes(MAX_HELLO_BYTES + 1), message_finished=False))
    assert client.owner.failures[0][0] is Closing.OVERSIZED


def test_a_long_reason_is_cut_between_characters() -> None:
    client = Client()
    client.opens()
    client.connection.close(Closing.FLOODING, "ü" * 100)
    (told,) = client.hears()
    assert told.reason == "ü" * 61


@pytest.mark.parametrize(
    "garbage", [b"\x00" * 50, b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 300 + b"\r\n\r\n", b"x" * 70_000]
)
def test_garbage_instead_of_a_handshake(garbage: bytes) -> None:
    client = Client()
    client.connection.data_received(garbage)
    assert client.owner.failures
    assert client.transport.closed


@pytest.mark.parametrize(
    "frame", [b"\x83\x80\x00\x00\x00\x00", b"\xf2\x80\x00\x00\x00\x00", b"\x89\xfe\x00\xff\x00\x00\x00\x00"]
)
def test_frames_that_the_rfc_does_not_allow_are_refused(frame: bytes) -> None:
    client = Client()
    client.opens()
    client.connection.data_received(frame)
    assert client.owner.failures[0][0] is Closing.MALFORMED
    assert not client.owner.frames


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (Client("/other").request, b"404 Not Found"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"426 Upgrade Required"),
        (f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b"426 Upgrade Required"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", b"426 Upgrade Required"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: \xff\r\n\r\n", b"426 Upgrade Required"),
    ],
)
def test_who_asks_for_anything_else_is_told_what_the_port_is(request_: bytes, status: bytes) -> None:
    client = Client()
    client.connection.data_received(request_)
    client.connection.data_received(client.request)  # comes too late
    head, _, body = client.transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    assert b"p2pd scheduler" in body
    assert client.transport.closed


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, MAX_FRAME_BYTES])
def test_a_message_is_framed_once_for_all(length: int) -> None:
    client = Client()
    client.opens()
    client.connection.send(framed(bytes(length)))
    client.connection.send(framed(b"next"))
    digests_sent = [event.data for event in client.hears()]
    assert b"".join(digests_sent) == bytes(length) + b"next"
    assert digests_sent[-1] == b"next"


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_raise_nothing(garbage: bytes, is_open: bool) -> None:
    client = Client()
    if is_open:
        client.opens()
    client.connection.data_received(garbage)
    client.connection.data_received(garbage)
