"""Pieces outside of TLS, between hosts with certificates: what a stranger gets, and what can be done on the line."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from blake3 import blake3

from peer.core.choker import UploadRequest
from peer.encrypted_answer import MIN_RECORD_BYTES
from peer.errors import PeerBusyError, PeerGoneError, StoreError
from peer.neighbour_http import NeighbourClient
from peer.net.peer_server import PeerServer
from peer.peer_piece import Pace, PeerPiece, PieceSource
from peer.store import Blob, Store
from peer.store.buffers import BufferPool
from peer.trust.aes128gcm import (
    DATA_BYTES,
    HEADER_BYTES,
    LAST,
    MORE,
    OVERHEAD_BYTES,
    RECORD_BYTES,
    Encoder,
    encoded_bytes,
)
from peer.trust.piece_keys import (
    Certificate,
    HeldKey,
    PieceKeys,
    PieceRequest,
    UnauthenticatedError,
)
from scheduler.protocol.geometry import MAX_PIECE_BYTES
from scheduler.trust.errors import CertificateError
from scheduler.trust.tls import TlsConnection
from tests.support.client import Client, Reply, ask
from tests.support.images import digest_of
from tests.support.node import asynchronous
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import until_true
from tests.swarm.test_upload import CONTENT, PATH, serving

NOWHERE = "127.0.0.1:1"
CERTIFICATE = Certificate(b"good")


class Trust:
    """`peer.trust.host_trust.HostTrust` without certificates: those in `good` are."""

    good = frozenset({b"good"})

    def check(self, connection: TlsConnection | None, host: str | None = None) -> str:
        if connection is None or connection.getpeercert(True) not in self.good:
            raise CertificateError("no certificate that is good")
        return host or "b"

    async def watch(self, _connection: TlsConnection | None, _host: str | None, *, reopens: bool) -> None:  # noqa: ARG002
        await asyncio.get_running_loop().create_future()


class Line:
    """Somebody between two hosts, who sees all and may `change` each answer."""

    def __init__(self, to: str) -> None:
        self._to = to
        self.requests: list[bytes] = []
        self.answers: list[bytes] = []
        self.change: Callable[[bytes], bytes] = lambda answer: answer
        self.address = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Line]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.address = "{}:{}".format(*server.sockets[0].getsockname()[:2])
        try:
            yield self
        finally:
            server.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(request)
            answer = await exchange(self._to, request)
            self.answers.append(answer)
            writer.write(self.change(answer))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def exchange(address: str, request: bytes) -> bytes:
    """The whole answer to the bytes of a request."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-length"))
    body = await reader.readexactly(length)
    writer.close()
    return head + body


class Hosts:
    """Host b asks host a for pieces over a line."""

    def __init__(self, server: PeerServer, address: str, keys: PieceKeys, trust: Trust, line: Line, blob: Blob) -> None:
        self.server, self.address, self.keys, self.trust, self.line, self.blob = (
            server,
            address,
            keys,
            trust,
            line,
            blob,
        )
        self.held = HeldKey(keys.issue("b", CERTIFICATE))

    async def fetch(
        self,
        index: int = 0,
        *,
        plain: bool = False,
        rate: int = 0,
        key: HeldKey | None = None,
        background: bool = False,
    ) -> None:
        """Raises what a piece ends with."""
        tls, outside = NeighbourClient("a", NOWHERE, "b"), NeighbourClient("a", self.line.address, "b")
        start, stop = self.blob.span(index)
        source = PieceSource(tls, outside, key or self.held, plain)
        piece = PeerPiece(source, self.blob, index, blake3(CONTENT[start:stop]).digest(), background=background)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await asyncio.to_thread(has_landed, piece, Pace(rate)):
                    pass
        finally:
            tls.close()
            outside.close()

    @property
    def last_answer(self) -> bytes:
        return self.line.answers[-1][:500]

    def authorized(self, target: str, range_header: str = "") -> dict[str, str]:
        return {"Authorization": self.held.authorize(PieceRequest("GET", target, range_header))[0]}

    def has(self, index: int) -> bool:
        start, stop = self.blob.span(index)
        return self.blob.read(start, stop) == CONTENT[start:stop]


def has_landed(piece: PeerPiece, pace: Pace) -> bool:
    """Whether the neighbour had room for it."""
    try:
        piece.run(BufferPool(1 << 24), pace, lambda _index, _digest: None)
    except PeerBusyError:
        return False
    return True


@asynccontextmanager
async def hosts(directory: Path, *, plain: bool = False, **options: object) -> AsyncIterator[Hosts]:
    keys, trust = PieceKeys(asyncio.get_running_loop().time, plain=plain), Trust()
    async with serving(directory / "a", trust=trust, keys=keys, **options) as it:  # type: ignore[arg-type] # as there
        with receiving(directory / "b") as blob:
            async with Line(it.address).running() as line:
                yield Hosts(it.server, it.address, keys, trust, line, blob)


@contextmanager
def receiving(directory: Path) -> Iterator[Blob]:
    store = Store.open(directory, max_bytes=1 << 30, min_free_bytes=0, ttl_s=0)
    blob = store.create(digest_of(CONTENT), len(CONTENT), "")
    try:
        with blob.pin():
            yield blob
    finally:
        blob.release()
        store.close()


def target(first: int = 0, last: int = 99) -> str:
    return PATH.replace("/blobs/", f"/{first}-{last}/blobs/")


# -- what hosts of the cluster get ---------------------------------------------------------------------------------


@asynchronous
async def test_a_piece_goes_encrypted(tmp_path: Path) -> None:
    async with hosts(tmp_path) as it:
        for index in range(it.blob.count):
            await it.fetch(index)
            assert it.has(index)
        seen = b"".join(it.line.answers)
        assert seen.count(b"Content-Encoding: aes128gcm") == it.blob.count
        for at in range(0, len(CONTENT) - 16, 262_147):
            assert CONTENT[at : at + 16] not in seen
        assert it.server.sent_bytes == len(CONTENT)


@asynchronous
async def test_the_same_piece_looks_different_each_time(tmp_path: Path) -> None:
    async with hosts(tmp_path) as it:
        for _ in range(2):
            assert (await ask(it.address, "GET", target(), it.authorized(target()))).status == 200
        first, second = [(await ask(it.address, "GET", target(), it.authorized(target()))).body[45:] for _ in range(2)]
        assert first != second


@asynchronous
async def test_rates_hold_for_encrypted_pieces_on_both_sides(tmp_path: Path) -> None:
    async with hosts(tmp_path, rate_bytes_per_s=1 << 30) as it:
        await it.fetch(rate=1 << 30)
        assert it.has(0)


@asynchronous
async def test_a_piece_goes_plain_where_both_hosts_say_so(tmp_path: Path) -> None:
    async with hosts(tmp_path, plain=True) as it:
        await it.fetch(plain=True)
        assert it.has(0)
        assert b" 206 " in it.last_answer
        await it.fetch(1)
        assert it.has(1)
        assert b"aes128gcm" in it.last_answer, "one that wants it encrypted gets it so"


@pytest.mark.parametrize("plain", [False, True])
@asynchronous
async def test_the_key_covers_that_a_request_is_of_the_background(tmp_path: Path, plain: bool) -> None:
    async with hosts(tmp_path, plain=plain) as it:
        await it.fetch(plain=plain, background=True)
        assert it.has(0)
        assert b"?background HTTP/1.1" in it.line.requests[-1]


@asynchronous
async def test_a_host_that_encrypts_sends_nothing_plain(tmp_path: Path) -> None:
    async with hosts(tmp_path) as it:
        wanted = {"Range": "bytes=0-99", **it.authorized(PATH, "bytes=0-99")}
        assert (await ask(it.address, "GET", PATH, wanted)).status == 403
        with pytest.raises(PeerGoneError):
            await it.fetch(plain=True)


# -- what a stranger gets ------------------------------------------------------------------------------------------


async def as_a_stranger(it: Hosts, path: str, **headers: str) -> Reply:
    return await ask(it.address, "GET", path, headers)


@pytest.mark.parametrize("plain", [False, True])
@asynchronous
async def test_a_stranger_gets_401_and_no_slot_and_nothing_is_read(tmp_path: Path, plain: bool) -> None:
    async with hosts(tmp_path, plain=plain, fails=StoreError("something was read")) as it:
        forged = HeldKey(it.keys.issue("c", CERTIFICATE)).authorize(PieceRequest("GET", "/", ""))[0]
        for headers in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": forged}, {"P2PD-Host": "b"}):
            for path in (PATH, target()):
                reply = await as_a_stranger(it, path, Range="bytes=0-99", **headers)
                assert reply.status == 401
                assert reply.headers["www-authenticate"] == "P2PD-Piece"
        assert (await as_a_stranger(it, "/v2/swarm/blobs/nothing")).status == 401, "not even what is wrong with it"
        assert it.server.busy_answers == it.server.sent_bytes == 0


@pytest.mark.parametrize("path", ["/", "/v2/", "/v1/other", "/v2/swarm/blobs/a/b"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@asynchronous
async def test_a_stranger_keeps_no_connection(tmp_path: Path, method: str, path: str) -> None:
    async with hosts(tmp_path) as it, Client(it.address) as client:
        await client.request(method, path)
        reply = await client.rest(await client.head())
        assert (reply.status, reply.headers["connection"]) == (401, "close")


@asynchronous
async def test_a_neighbour_or_somebody_before_it_sends_this_host_nowhere(tmp_path: Path) -> None:
    async with hosts(tmp_path) as it, Line(it.address).running() as inside:
        location = f"Location: http://{inside.address}/\r\nContent-Length: 0\r\n\r\n"
        it.line.change = lambda _answer: f"HTTP/1.1 307 x\r\n{location}".encode()
        with pytest.raises(PeerGoneError):
            await it.fetch()
        assert not inside.requests


@asynchronous
async def test_a_stranger_is_not_told_that_the_line_is_full(tmp_path: Path) -> None:
    async with hosts(tmp_path, plain=True) as it:
        start = {"Range": f"bytes=0-{len(CONTENT) - 1}"}
        turn = it.server._uploading
        assert (await as_a_stranger(it, PATH, **start)).status == 401
        assert not turn._active


@asynchronous
async def test_a_link_is_made_over_tls_alone(tmp_path: Path) -> None:
    async with hosts(tmp_path) as it:
        assert (await as_a_stranger(it, "/v1/link", Upgrade="websocket", Connection="Upgrade")).status == 403


@asynchronous
async def test_a_host_whose_certificate_is_over_is_a_stranger(tmp_path: Path) -> None:
    async with hosts(tmp_path) as it:
        await it.fetch()
        it.trust.good = frozenset()
        with pytest.raises(PeerGoneError):
            await it.fetch(1)
        assert b" 401 " in it.last_answer, "over TLS it may show a newer one"


# -- what somebody on the line can do ------------------------------------------------------------------------------


@asynchronous
async def test_a_request_that_comes_again_is_refused(tmp_path: Path) -> None:
    async with hosts(tmp_path) as it:
        await it.fetch()
        assert b" 401 " in (await exchange(it.address, it.line.requests[0]))[:20]
        other = it.line.requests[0].replace(b"/swarm/0-", b"/swarm/1-")
        assert b" 401 " in (await exchange(it.address, other))[:20]


ALTERED: dict[str, Callable[[str, str], str]] = {
    "absolute form": lambda path, key: f"GET http://h{path} HTTP/1.1\r\nHost: h\r\nAuthorization: {key}",
    "another spelling": lambda path, key: (
        f"GET {path.replace('/0-', '/%30-')} HTTP/1.1\r\nHost: h\r\nAuthorization: {key}"
    ),
    "a longer number": lambda path, key: (
        f"GET {path.replace('/0-', '/00-')} HTTP/1.1\r\nHost: h\r\nAuthorization: {key}"
    ),
    "a query": lambda path, key: f"GET {path}?a HTTP/1.1\r\nHost: h\r\nAuthorization: {key}",
    "a Range": lambda path, key: f"GET {path} HTTP/1.1\r\nHost: h\r\nRange: bytes=0-9\r\nAuthorization: {key}",
    "another method": lambda path, key: f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nAuthorization: {key}",
    "a longer sequence number": lambda path, key: (
        f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: {key.replace('.', '.0', 1)}"
    ),
    "a forgery before it": lambda path, key: (
        f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: {key[:-1]}x\r\nAuthorization: {key}"
    ),
}


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED)
@asynchronous
async def test_a_request_counts_as_it_was_written(tmp_path: Path, alter: Callable[[str, str], str]) -> None:
    """What is altered is refused, and the request itself is good afterwards."""
    async with hosts(tmp_path) as it:
        key = it.authorized(target())["Authorization"]
        assert b" 401 " in (await exchange(it.address, f"{alter(target(), key)}\r\n\r\n".encode()))[:20]
        assert it.server.sent_bytes == 0
        request = f"GET {target()} HTTP/1.1\r\nHost: h\r\nAuthorization: {key}\r\n\r\n"
        assert b" 200 " in (await exchange(it.address, request.encode()))[:20]


@asynchronous
async def test_what_a_host_asks_for_is_no_request_to_itself(tmp_path: Path) -> None:
    """Somebody on the line sends host b's request back to host b, whose own keys are others."""
    async with hosts(tmp_path) as it:
        request = PieceRequest("GET", target(), "")
        reflected = it.held.authorize(request)[0]
        own = PieceKeys(lambda: 0.0, plain=False)
        own.issue("a", CERTIFICATE)
        with pytest.raises(UnauthenticatedError):
            own.authenticate(request, reflected)


def flipped(at: int) -> Callable[[bytes], bytes]:
    """A bit of the body is another."""

    def change(answer: bytes) -> bytes:
        body = answer.index(b"\r\n\r\n") + 4
        where = body + at if at >= 0 else len(answer) + at
        return answer[:where] + bytes([answer[where] ^ 1]) + answer[where + 1 :]

    return change


def reordered(answer: bytes) -> bytes:
    at, length = answer.index(b"\r\n\r\n") + 4 + 45, DATA_BYTES + 17
    first, second = answer[at : at + length], answer[at + length : at + 2 * length]
    return answer[:at] + second + first + answer[at + 2 * length :]


def cut(answer: bytes) -> bytes:
    """Whole records are missing, and the length says so."""
    head, _, body = answer.partition(b"\r\n\r\n")
    left = body[: 45 + DATA_BYTES + 17]
    return head.replace(str(len(body)).encode(), str(len(left)).encode()) + b"\r\n\r\n" + left


def longer(answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.replace(str(len(body)).encode(), str(len(body) + 100).encode()) + b"\r\n\r\n" + body + bytes(100)


def in_the_clear(_answer: bytes) -> bytes:
    """What it has learned elsewhere."""
    head = f"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-99/{len(CONTENT)}\r\nContent-Length: 100\r\n\r\n"
    return head.encode() + CONTENT[:100]


CHANGES = {
    "salt": flipped(0),
    "record size": flipped(17),
    "key id length": flipped(20),
    "key id": flipped(22),
    "number": flipped(44),
    "record": flipped(5000),
    "last tag": flipped(-1),
    "reordered": reordered,
    "cut": cut,
    "longer": longer,
    "in the clear": in_the_clear,
    "nothing": lambda _answer: b"",
    "401": lambda _answer: b"HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n",
    "chunked": lambda _answer: b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "endless": lambda answer: answer.replace(b"Content-Length: 5", b"Content-Length: 5000000000", 1),
    "redirect": lambda _answer: b"HTTP/1.1 307 x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@asynchronous
async def test_what_is_changed_on_the_way_is_thrown_away_and_not_the_neighbours_fault(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    """PeerCorruptError would be held against the neighbour: it is told to the scheduler."""
    async with hosts(tmp_path) as it:
        it.line.change = change
        with pytest.raises(PeerGoneError):
            await it.fetch()
        assert not it.has(0)
        it.line.change = lambda answer: answer
        await it.fetch()
        assert it.has(0)


@pytest.mark.parametrize("record_bytes", [MIN_RECORD_BYTES, 65_537, RECORD_BYTES])
@asynchronous
async def test_records_may_have_any_length_between_the_bounds(tmp_path: Path, record_bytes: int) -> None:
    """Those of another version may be shorter."""
    async with hosts(tmp_path) as it:
        for index in range(it.blob.count):
            start, stop = it.blob.span(index)
            it.line.change = partial(encoded_anew, it.held, target(start, stop - 1), CONTENT[start:stop], record_bytes)
            await it.fetch(index)
            assert it.has(index)


@pytest.mark.parametrize("record_bytes", [MIN_RECORD_BYTES - 1, RECORD_BYTES + 1])
@asynchronous
async def test_records_of_no_other_length_are_read(tmp_path: Path, record_bytes: int) -> None:
    async with hosts(tmp_path) as it:
        start, stop = it.blob.span(0)
        it.line.change = partial(encoded_anew, it.held, target(start, stop - 1), CONTENT[start:stop], record_bytes)
        with pytest.raises(PeerGoneError):
            await it.fetch()


def encoded_anew(held: HeldKey, path: str, content: bytes, record_bytes: int, answer: bytes) -> bytes:
    """An answer under the same key, in records of another length."""
    encoder = anew(held, path, record_bytes, answer)
    records = bytearray(encoded_bytes(len(content), 0, record_bytes) - HEADER_BYTES)
    with memoryview(records) as view:
        encoder.encrypt(memoryview(bytearray(content + b"x")), view, last=True)
    return answer_of(encoder.header + records)


def anew(held: HeldKey, path: str, record_bytes: int, answer: bytes) -> Encoder:
    """For another answer to the request of this one."""
    body = answer[answer.index(b"\r\n\r\n") + 4 :]
    number = int.from_bytes(body[HEADER_BYTES + 16 : HEADER_BYTES + 24])
    key = held._secrets.answer_key(PieceRequest("GET", path, ""), number)
    return Encoder(key.input_key, key.key_id, bytes(16), record_bytes)


def answer_of(message: bytes | bytearray) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: aes128gcm\r\nContent-Length: {len(message)}\r\n\r\n"
    return head.encode() + message


@pytest.mark.parametrize("data_bytes", [1000, 2100])
@asynchronous
async def test_a_message_of_padded_records_is_read_in_turns(tmp_path: Path, data_bytes: int) -> None:
    """It is longer than the room for it. One of more than twice the piece's length is refused."""
    async with hosts(tmp_path) as it:
        start, stop = it.blob.span(0)
        piece = CONTENT[start:stop]
        it.line.change = partial(padded_anew, it.held, target(start, stop - 1), piece, data_bytes)
        if data_bytes * 2 < MIN_RECORD_BYTES:
            with pytest.raises(PeerGoneError):
                await it.fetch()
        else:
            await it.fetch()
            assert it.has(0)


def padded_anew(held: HeldKey, path: str, content: bytes, data_bytes: int, answer: bytes) -> bytes:
    """An answer under the same key, in the shortest records, of which each but the last has much padding."""
    most = MIN_RECORD_BYTES - OVERHEAD_BYTES
    encoder = anew(held, path, MIN_RECORD_BYTES, answer)
    records, at = bytearray(encoder.header), 0
    while at < len(content):
        is_last = len(content) - at <= most
        part = content[at : at + (most if is_last else data_bytes)]
        plain = (part + bytes([LAST])) if is_last else (part + bytes([MORE])).ljust(most + 1, b"\0")
        records += encoder._cipher.encrypt(encoder._nonce(), plain, None)
        at += len(part)
    return answer_of(records)


@asynchronous
async def test_the_answer_to_one_request_is_none_to_another(tmp_path: Path) -> None:
    """Both are right, and under the same key: of another piece, and of the same piece at another time."""
    async with hosts(tmp_path) as it:
        await it.fetch(0)
        recorded = it.line.answers[0]
        it.line.change = lambda _answer: recorded
        for index in (1, 2):
            with pytest.raises(PeerGoneError):
                await it.fetch(index)
            assert not it.has(index)
        it.line.change = lambda answer: spliced(recorded, answer)
        with pytest.raises(PeerGoneError):
            await it.fetch(1)


def spliced(recorded: bytes, answer: bytes) -> bytes:
    """The recorded salt and records, under the header and the key id of the right answer."""
    old, new = recorded.index(b"\r\n\r\n") + 4, answer.index(b"\r\n\r\n") + 4
    return answer[:new] + recorded[old : old + 21] + answer[new + 21 : new + 45] + recorded[old + 45 :]


@asynchronous
async def test_a_key_is_of_no_use_to_another_host(tmp_path: Path) -> None:
    """Host c has a key of its own, and sees what goes between a and b."""
    async with hosts(tmp_path) as it:
        await it.fetch()
        own = HeldKey(it.keys.issue("c", CERTIFICATE))
        it.line.change = lambda _answer: it.line.answers[0]
        with pytest.raises(PeerGoneError):
            await it.fetch(key=own)


@asynchronous
async def test_a_neighbour_that_takes_nothing_is_let_go_of(tmp_path: Path) -> None:
    await taking_nothing(tmp_path, stall_s=0.3)


@asynchronous
async def test_and_sooner_if_others_wait(tmp_path: Path) -> None:
    """A thread sends on a descriptor of its own, which has to be told too."""
    await taking_nothing(tmp_path, others=True, stalled_s=0.1)


async def taking_nothing(directory: Path, *, others: bool = False, **options: float) -> None:
    async with hosts(directory, **options) as it:  # type: ignore[arg-type] # as there
        last = MAX_PIECE_BYTES - 1
        host, _, port = it.address.rpartition(":")
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.connect((host, int(port)))
        _, writer = await asyncio.open_connection(sock=small, limit=1)
        request = f"GET {target(0, last)} HTTP/1.1\r\nHost: x\r\n"
        request += f"Authorization: {it.authorized(target(0, last))['Authorization']}\r\n\r\n"
        writer.write(request.encode())
        async with asyncio.timeout(PATIENCE_S):
            await until_true(lambda: bool(it.server._uploading._active))
            if others:
                it.server._uploading._choker._remember(UploadRequest("other", bytes(32)))
            await until_true(lambda: not it.server._uploading._active)
        writer.close()


@asynchronous
async def test_a_host_that_is_revoked_while_its_ticket_is_made_gets_none(tmp_path: Path) -> None:
    """The process that shares is begun anew for each host that is revoked: a ticket of the new one would be good."""

    trust, revoked = Trust(), False

    async def ticket(_digest: object) -> bytes:
        if revoked:
            trust.good = frozenset()
        return b"ticket"

    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: object = None) -> object:
            return CERTIFICATE if name == "ssl_object" else default

    async with serving(tmp_path, trust=trust) as it:
        it.server.ticket = ticket
        for revoked, status in ((False, 200), (True, 403)):
            path = f"/v2/swarm/background/blobs/{digest_of(CONTENT)}"
            answer = await it.server.handle(make_mocked_request("GET", path, transport=Transport()))
            assert isinstance(answer, web.Response)
            assert (answer.status, answer.body == b"ticket") == (status, not revoked)
