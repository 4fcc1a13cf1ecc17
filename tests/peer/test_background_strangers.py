"""The port of the background transport, and who comes there without a ticket, or with one and bad intentions."""

from __future__ import annotations

import os
import random
import re
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from peer.background.client import read_answer
from peer.background.messages import Content, Share, encode
from peer.background.process import MAX_MEMORY_BYTES
from peer.background.ticket import Authority, Ticket, parse_ticket
from peer.background.torrents import MAX_CONNECTIONS, MAX_STRANGERS, _torrent
from tests.peer.test_background_process import LOOPBACK, PIECE, Pair, pair, sockets_of
from tests.support.ports import free_port
from tests.support.registry_server import PATIENCE_S
from tests.support.utp import Tls, Utp

__all__ = ["pair"]

MIB = 1 << 20
INTERESTED, REQUEST, PIECE_MESSAGE, EXTENDED = 2, 6, 7, 20
SOON_CROWDED = "from peer.background import process, torrents; torrents.CROWDED_S = 2.0; process.main()"


class Shared:
    """A host that shares a blob, and what somebody does at its port who has seen the ticket."""

    def __init__(self, pair: Pair, directory: Path) -> None:
        self.pair = pair
        self._directory = directory
        self.content, self.data, path = pair.blob(4 * PIECE)
        self._ticket = pair.here.share(self.content, path)
        self.ticket = parse_ticket(self._ticket)
        self.pid = pair.here.pid
        self.info_hash = str(_torrent(self.content, self.ticket.root, directory).ti.info_hash())
        self.opened: list[Utp] = []

    def utp(self, within_s: float = PATIENCE_S) -> Utp:
        self.opened.append(Utp(self.ticket.port, 2 * len(self.opened), within_s))
        return self.opened[-1]

    def tls(self, shown: Ticket | None, info_hash: str = "") -> Tls:
        return Tls(self.utp(), info_hash or self.info_hash, shown, self._directory)

    def greeting(self) -> bytes:
        return b"\x13BitTorrent protocol" + bytes(8) + bytes.fromhex(self.info_hash) + os.urandom(20)

    def greeted(self, shown: Ticket | None, info_hash: str = "") -> bytes:
        """What whoever shows this ticket gets for a greeting. Raises ssl.SSLError."""
        tls = self.tls(shown, info_hash)
        tls.send(self.greeting())
        return tls.receive()

    def is_alive(self) -> bool:
        """The same process gives a host with a ticket what it asks for."""
        piece = self.pair.fetch(self.content, 1, self._ticket)
        return piece == self.data[PIECE : 2 * PIECE] and self.pair.here.pid == self.pid

    def close(self) -> None:
        for each in self.opened:
            each.close()

    def memory_bytes(self) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@pytest.fixture
def shared(pair: Pair, tmp_path: Path) -> Iterator[Shared]:
    with closing(Shared(pair, tmp_path)) as made:
        yield made


def message(kind: int, *fields: int, length: int | None = None) -> bytes:
    body = struct.pack(f"!B{len(fields)}I", kind, *fields)
    return struct.pack("!I", len(body) if length is None else length) + body


def end_of(tls: Tls) -> bytes:
    """All that comes until the other side ends the connection."""
    came = b""
    try:
        while data := tls.receive():
            came += data
    except ssl.SSLError:
        pass
    return came


def test_it_listens_at_no_tcp_port(shared: Shared) -> None:
    """There, libtorrent would take any number of handshakes, and serve whoever has a ticket."""
    assert shared.is_alive()
    for process in (shared.pair.here, shared.pair.there):
        assert not [row for table in ("tcp", "tcp6") for row in sockets_of(process, table)]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, shared.ticket.port), PATIENCE_S)


def test_noise(shared: Shared) -> None:
    """Packets that are none, and handshakes of all kinds that stop, or go on with noise."""
    noise = random.Random(0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for number in range(500):
            head = bytes([noise.choice((0x01, 0x11, 0x21, 0x31, 0x41, 0x64)), noise.choice((0, 1, 255))])
            packet = (head if number % 2 else b"") + noise.randbytes(noise.randrange(1400))
            udp.sendto(packet, (LOOPBACK, shared.ticket.port))
    assert shared.is_alive()
    starts = [b"", b"\x16\x03\x01\x40\x00\x01", noise.randbytes(4000), shared.greeting(), b"GET / HTTP/1.1\r\n\r\n"]
    for start in starts:
        shared.utp().send(start)
    assert shared.is_alive()


def test_who_shows_another_certificate_or_none_gets_no_byte(shared: Shared) -> None:
    """None; one of its own; one for another blob of this process; none for a blob that is not there."""
    other, _, path = shared.pair.blob(PIECE, seed=1)
    for_other = parse_ticket(shared.pair.here.share(other, path))
    stranger = Ticket(0, b"", *Authority().issue(shared.content.digest))
    tries: list[tuple[Ticket | None, str]] = [(None, ""), (stranger, ""), (for_other, ""), (shared.ticket, "0" * 40)]
    for shown, name in tries:
        with pytest.raises(ssl.SSLError):
            shared.greeted(shown, name)
    assert shared.greeted(shared.ticket).startswith(b"\x13BitTorrent protocol"), "who has the ticket is greeted"


def test_with_a_ticket_and_bad_intentions(shared: Shared) -> None:
    """Whoever says that a message has more than a message may have is cut off before it comes."""
    before = shared.memory_bytes()
    is_cut_off = [
        b"x" * 100,
        shared.greeting() + message(PIECE_MESSAGE, length=2**32 - 1),
        shared.greeting() + message(PIECE_MESSAGE, length=2**21) + bytes(10_000),
    ]
    goes_on = [
        shared.greeting() + message(INTERESTED) + message(REQUEST, 2**31, 0, 16_384),
        shared.greeting() + message(INTERESTED) + message(REQUEST, 0, 0, 2**31),
        shared.greeting() + message(INTERESTED) + 10_000 * message(REQUEST, 0, 0, 16_384),
        shared.greeting() + struct.pack("!IBB", 6, EXTENDED, 0) + b"dddd",
    ]
    for said in is_cut_off:
        tls = shared.tls(shared.ticket)
        tls.send(said)
        end_of(tls)
    for said in goes_on:
        shared.tls(shared.ticket).send(said)
    assert shared.is_alive()
    assert shared.memory_bytes() < before + 32 * MIB


def test_connections_are_bounded(shared: Shared) -> None:
    """Any packet makes one, whoever it says it is from; TLS never begins in it."""
    before = shared.memory_bytes()
    with suppress(TimeoutError):
        while len(shared.opened) < 3 * MAX_CONNECTIONS:
            shared.utp(within_s=5.0)
    assert len(shared.opened) < 3 * MAX_CONNECTIONS, "libtorrent takes twice as many, and one"
    assert shared.memory_bytes() < before + 200 * MIB
    assert shared.pair.here.pid == shared.pid


def test_its_memory_has_a_bound(shared: Shared) -> None:
    limits = Path(f"/proc/{shared.pid}/limits").read_text()
    assert re.search(rf"^Max data size +{MAX_MEMORY_BYTES} +{MAX_MEMORY_BYTES} ", limits, re.MULTILINE)


def test_it_begins_anew_once_strangers_have_had_the_room_for_long(tmp_path: Path) -> None:
    """Their connections stand still, and would for ever. Long is two seconds here."""
    content, path = Content("0" * 64, PIECE, PIECE), tmp_path / "blob"
    path.write_bytes(bytes(PIECE))
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = [sys.executable, "-c", SOON_CROWDED, str(theirs.fileno()), str(tmp_path), LOOPBACK, str(free_port())]
    with control, theirs, subprocess.Popen(words, pass_fds=[theirs.fileno()]) as process, ExitStack() as stack:
        ours, answer = socket.socketpair()
        with ours, answer:
            socket.send_fds(control, [encode(Share(content, str(path)))], [answer.fileno()])
            ticket = parse_ticket(read_answer(ours))
        with suppress(OSError):  # it may end before the last has come
            for number in range(MAX_STRANGERS + 1):
                stack.callback(Utp(ticket.port, 2 * number).close)
        assert process.wait(PATIENCE_S) == 0, "the daemon starts it anew when it is needed"
