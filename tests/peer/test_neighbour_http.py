"""Requests to a neighbour: an answer that is not like p2pd's is an error, and good connections are kept."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import FetchStoppedError, PeerGoneError
from peer.neighbour_http import MAX_HEAD_BYTES, Head, NeighbourClient, _Connection, parse_head, shut_down
from peer.peer_piece import Pace, PeerPiece, PieceSource
from peer.store.buffers import BufferPool
from scheduler.trust.errors import CertificateError
from tests.peer.store_fixtures import a_store, create
from tests.support.authority import Authority, make_authority
from tests.support.registry_server import HANG, PATIENCE_S, SILENT_CLOSE, Answering, RegistryServer

PIECE = bytes(range(256)) * 2048
PATH = "/v2/swarm/blobs/x"
OK = b"HTTP/1.1 206 Partial Content\r\n"
RANGE = f"Content-Range: bytes 0-{len(PIECE) - 1}/{len(PIECE)}\r\nContent-Length: {len(PIECE)}\r\n".encode()
GOOD = Answering(206, PIECE, {"Content-Range": f"bytes 0-{len(PIECE) - 1}/{len(PIECE)}"})
SMALL = PIECE[:100_000]
"""A blob of one piece."""
SMALL_RANGE = {"Content-Range": f"bytes 0-{len(SMALL) - 1}/{len(SMALL)}"}
NONE_LEFT = Answering(429, b"busy")


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.rule = lambda _: GOOD
        yield server


@contextmanager
def client_of(server: RegistryServer, trust: Any = None) -> Iterator[NeighbourClient]:
    client = NeighbourClient("b", server.url.rpartition("/")[2], "a", trust)
    try:
        yield client
    finally:
        client.close()


def fetch(client: NeighbourClient) -> bytes:
    piece = bytearray(len(PIECE))
    with client.get(PATH) as answer, memoryview(piece) as view:
        answer.readinto(view)
    return bytes(piece)


def used(server: RegistryServer) -> list[int]:
    """The connection of each request."""
    return [seen.connection for seen in server.seen]


# -- heads ---------------------------------------------------------------------------------------------------------


def test_a_head_of_p2pd() -> None:
    wire = OK + b"Content-Range: bytes 10-29/100\r\ncontent-length:20\r\nP2PD-Choked: 1\r\nDate: now"
    assert parse_head(wire) == Head(206, 20, (10, 30, 100), is_choked=True)
    assert parse_head(b"HTTP/1.1 429\r\nContent-Length: 0\t\r\nConnection: Close") == Head(429, 0, keeps=False)
    assert parse_head(b"HTTP/1.1 200 OK\r\nContent-Encoding: aes128gcm\r\nContent-Length: 5").is_coded
    assert parse_head(b"HTTP/1.1 103 Early Hints\r\nLink: </x>") == Head(103, 0)


MALFORMED = {
    "HTTP/1.0": b"HTTP/1.0 206 So\r\nContent-Length: 1",
    "HTTP/2": b"HTTP/2.0 206 So\r\nContent-Length: 1",
    "two digits": b"HTTP/1.1 20 So\r\nContent-Length: 1",
    "six hundred": b"HTTP/1.1 600 So\r\nContent-Length: 1",
    "web page": b"<html>",
    "nothing": b"",
    "a line end of its own": b"HTTP/1.1 206 So\nContent-Length: 1",
    "no name": OK + b": 1\r\nContent-Length: 1",
    "no colon": OK + b"Content-Length 1",
    "space before the colon": OK + b"Content-Length : 1",
    "folded": OK + b"Content-Length: 1\r\n Date: now",
    "a break within a value": OK + b"X: a\rb\r\nContent-Length: 1",
    "a zero": OK + b"X: a\0b\r\nContent-Length: 1",
    "no length": OK + b"Date: now",
    "an empty length": OK + b"Content-Length:",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2",
    "a length twice": OK + b"Content-Length: 1\r\ncontent-length: 1",
    "lengths in one field": OK + b"Content-Length: 1, 1",
    "a negative length": OK + b"Content-Length: -1",
    "a signed length": OK + b"Content-Length: +1",
    "a hexadecimal length": OK + b"Content-Length: 0x1",
    "a length with an underscore": OK + b"Content-Length: 1_0",
    "a length beyond any blob": OK + b"Content-Length: " + b"9" * 16,
    "chunked": OK + b"Transfer-Encoding: chunked",
    "chunked and a length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 1",
    "two ranges": OK + b"Content-Range: bytes 0-0/1\r\nContent-Range: bytes 0-1/2\r\nContent-Length: 1",
}


@pytest.mark.parametrize("wire", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_head_of_p2pd_is_an_error_and_ends_the_connection(server: RegistryServer, wire: bytes) -> None:
    with pytest.raises(ValueError, match="answer"):
        parse_head(wire)
    server.script(Answering(wire=wire + b"\r\n\r\n" + b"x" * 10))
    with client_of(server) as client:
        with pytest.raises(PeerGoneError):
            client.get(PATH)
        assert fetch(client) == PIECE
    assert used(server) == [0, 1]


@given(st.binary(max_size=99) | st.lists(st.sampled_from(list(MALFORMED.values())), max_size=3).map(b"\r\n".join))
def test_no_bytes_are_another_error(wire: bytes) -> None:
    try:
        head = parse_head(OK + wire)
    except ValueError:
        return
    assert head.status == 206
    assert head.length >= 0


@pytest.mark.parametrize("told", [b"bytes 0-9/*", b"bytes */10", b"items 0-9/10", b"0-9/10", b"bytes 0-9/" + b"9" * 16])
def test_a_range_that_is_none_is_left_out(told: bytes) -> None:
    assert parse_head(OK + b"Content-Length: 10\r\nContent-Range: " + told).span is None


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (OK + b"X: " + b"y" * MAX_HEAD_BYTES, "more than"),
        (b"HTTP/1.1 103 E\r\nX: y\r\n\r\n" * 1000, "more than"),
        (OK + b"Content-Le", "closed"),
    ],
    ids=["long", "endless hints", "cut"],
)
def test_a_head_that_does_not_end(server: RegistryServer, wire: bytes, why: str) -> None:
    server.script(*[Answering(wire=wire, then="close")] * 2)
    with client_of(server) as client, pytest.raises(PeerGoneError, match=why):
        client.get(PATH)


def test_interim_answers_are_skipped(server: RegistryServer) -> None:
    server.script(
        Answering(wire=b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nX: y\r\n\r\n" + OK + RANGE + b"\r\n" + PIECE)
    )
    with client_of(server) as client:
        assert fetch(client) == PIECE
        assert fetch(client) == PIECE
    assert server.connections == 1


class Arrivals:
    """A socket on which these bytes arrive one after the other."""

    def __init__(self, *arrivals: bytes) -> None:
        self._left = list(arrivals)

    def setsockopt(self, *_: object) -> None:
        pass

    def recv_into(self, view: memoryview, _size: int = 0, _flags: int = 0) -> int:
        while self._left and not self._left[0]:
            self._left.pop(0)
        arrived = self._left[0][: len(view)] if self._left else b""
        view[: len(arrived)] = arrived
        if self._left:
            self._left[0] = self._left[0][len(arrived) :]
        return len(arrived)


@given(st.lists(st.integers(0, 9000), max_size=6).map(sorted), st.lists(st.integers(1, 3000), max_size=3))
def test_any_way_to_cut_an_answer_gives_the_same(cuts: list[int], reads: list[int]) -> None:
    body = PIECE[:9000]
    wire = b"HTTP/1.1 100 C\r\n\r\n" + OK + b"Content-Length: 9000\r\n\r\n" + body
    ends = [*cuts, len(wire)]
    connection = _Connection(Arrivals(*(wire[a:b] for a, b in zip([0, *ends], ends, strict=False))), None)  # type: ignore[arg-type]
    assert connection.read_head(float("inf")) == Head(206, 9000)
    got = bytearray()
    for size in [*reads, 9000]:
        view = memoryview(bytearray(min(size, 9000 - len(got))))
        while view:
            received = connection.receive(view)
            got += view[:received]
            view = view[received:]
    assert got == body


# -- connections -----------------------------------------------------------------------------------------------------


def test_the_connection_that_was_used_last_is_used_next(server: RegistryServer) -> None:
    with client_of(server) as client:
        with client.get(PATH) as first, client.get(PATH) as second:
            for answer in (first, second):
                answer.readinto(memoryview(bytearray(len(PIECE))))
        fetch(client)  # `second` was given back before `first`
    assert used(server) == [0, 1, 0]


@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_kept_connection_that_proves_dead_is_replaced_at_once(server: RegistryServer, then: str) -> None:
    server.script(GOOD, Answering(status=0, then=then))
    with client_of(server) as client:
        assert fetch(client) == PIECE
        assert fetch(client) == PIECE
    assert used(server) == [0, 0, 1]


def test_a_fresh_connection_that_proves_dead_is_the_end(server: RegistryServer) -> None:
    server.script(GOOD, SILENT_CLOSE, SILENT_CLOSE)
    with client_of(server) as client:
        fetch(client)
        with pytest.raises(PeerGoneError):
            fetch(client)
    assert used(server) == [0, 0, 1]


def test_a_connection_that_idled_too_long_is_not_used(server: RegistryServer) -> None:
    with client_of(server) as client:
        fetch(client)
        client._idle[0].idle_since = 0.0
        fetch(client)
        assert len(client._idle) == 1
    assert used(server) == [0, 1]


def test_a_refusal_keeps_the_connection_and_its_body_is_not_the_next_answer(server: RegistryServer) -> None:
    server.script(NONE_LEFT)
    with client_of(server) as client:
        with client.get(PATH) as answer:
            assert answer.head.status == 429
        assert fetch(client) == PIECE
    assert used(server) == [0, 0]


@pytest.mark.parametrize("more", [b"Connection: close\r\n\r\nx", b"\r\nxHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
def test_a_connection_is_not_kept_if_the_neighbour_says_so_or_sends_more(server: RegistryServer, more: bytes) -> None:
    server.script(Answering(wire=OK + b"Content-Length: 1\r\n" + more))
    with client_of(server) as client:
        with client.get(PATH) as answer:
            answer.readinto(memoryview(bytearray(1)))
        assert fetch(client) == PIECE
    assert used(server) == [0, 1]


def test_a_body_that_was_not_read_ends_its_connection(server: RegistryServer) -> None:
    with client_of(server) as client:
        client.get(PATH).close()
        assert fetch(client) == PIECE
    assert used(server) == [0, 1]


@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_body_that_breaks_off(server: RegistryServer, then: str) -> None:
    server.script(Answering(206, PIECE, GOOD.headers, sent_bytes=100_000, then=then))
    with client_of(server) as client, pytest.raises(PeerGoneError):
        fetch(client)
    assert len(server.seen) == 1, "nothing is tried twice"


@pytest.mark.parametrize("address", ["[::::]:1", "[:.:]:1", "a..b:1", f"{'a' * 70}:1", "..:1", "127.0.0.1:99999"])
def test_an_address_that_is_none(address: str) -> None:
    """The protocol lets a host advertise each of these."""
    with pytest.raises(PeerGoneError):
        NeighbourClient("b", address, "a").get(PATH)


# -- to end an exchange ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "then", [HANG, Answering(206, SMALL, SMALL_RANGE, sent_bytes=9, then="hang")], ids=["head", "body"]
)
def test_a_piece_that_is_not_wanted_any_more_ends_at_once(
    server: RegistryServer, tmp_path: Path, then: Answering
) -> None:
    server.script(then)
    ended: list[Exception] = []
    with a_store(tmp_path) as store, client_of(server) as client:
        blob = create(store, SMALL)
        piece = PeerPiece(PieceSource(client), blob, 0, blake3(SMALL).digest())

        def run() -> None:
            try:
                piece.run(BufferPool(1 << 24), Pace(0), lambda *_: None)
            except FetchStoppedError as error:
                ended.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert server.hanging.wait(PATIENCE_S)
        piece.stop()
        thread.join(PATIENCE_S)
        assert ended
        assert len(server.seen) == 1, "it is not sent again"
        blob.release()


def test_to_stop_a_piece_shuts_its_socket_down(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with a_store(tmp_path) as store, ours, theirs:
        blob = create(store, SMALL)
        piece = PeerPiece(PieceSource(NeighbourClient("b", "127.0.0.1:1", "a")), blob, 0, blake3(SMALL).digest())
        piece._hold(ours)
        piece.stop()
        theirs.settimeout(PATIENCE_S)
        assert theirs.recv(1) == b""
        blob.release()


def test_a_client_that_is_closed_ends_what_is_under_way_and_begins_nothing(server: RegistryServer) -> None:
    server.script(Answering(206, PIECE, GOOD.headers, sent_bytes=9, then="hang"))
    with client_of(server) as client:
        answer = client.get(PATH)
        client.close()
        with pytest.raises(PeerGoneError):
            answer.readinto(memoryview(bytearray(len(PIECE))))
        answer.close()
        with pytest.raises(PeerGoneError):
            client.get(PATH)
        assert not client._idle
        assert not client._busy


def test_a_socket_is_held_as_long_as_its_exchange(server: RegistryServer) -> None:
    held: list[socket.socket | None] = []
    with client_of(server) as client, client.get(PATH, hold=held.append):
        assert len(held) == 1
    assert held[-1] is None


# -- TLS -----------------------------------------------------------------------------------------------------------


class Trust:
    """`peer.trust.host_trust.HostTrust` of a cluster whose certificates are over at some time."""

    def __init__(self, authority: Authority) -> None:
        self.client = ssl.create_default_context(cafile=str(authority.ca_file))
        self.over = False

    def check(self, _connection: object, host: str | None = None) -> str:
        if self.over:
            self.over = False  # the next connection shows another
            raise CertificateError("the certificate is over")
        assert host == "b"
        return host


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secure(authority: Authority) -> Iterator[RegistryServer]:
    with RegistryServer(tls=authority.server) as server:
        server.rule = lambda _: GOOD
        yield server


def test_a_connection_is_not_used_again_when_a_certificate_is_over(
    secure: RegistryServer, authority: Authority
) -> None:
    trust = Trust(authority)
    with client_of(secure, trust) as client:
        for over, connections in ((False, 1), (False, 1), (True, 2), (False, 2)):
            trust.over = over
            assert fetch(client) == PIECE
            assert secure.connections == connections
        trust.client = Trust(authority).client
        assert fetch(client) == PIECE, "ours is another now"
        assert secure.connections == 3


def test_who_is_somebody_else_is_not_asked(secure: RegistryServer, authority: Authority) -> None:
    trust = Trust(authority)
    trust.over = True
    with client_of(secure, trust) as client, pytest.raises(PeerGoneError, match="the certificate is over"):
        client.get(PATH)
    assert not secure.seen


def test_to_end_it_gives_no_ciphertext(secure: RegistryServer, authority: Authority) -> None:
    held: list[socket.socket | None] = []
    view = memoryview(bytearray(len(PIECE)))
    with client_of(secure, Trust(authority)) as client, client.get(PATH, hold=held.append) as answer:
        assert held[0] is not None
        shut_down(held[0])
        with pytest.raises(PeerGoneError):
            answer.readinto(view)
    assert all(byte in (0, PIECE[at]) for at, byte in enumerate(view))
