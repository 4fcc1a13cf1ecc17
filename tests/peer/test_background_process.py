"""The process of the background transport: what it gives to whom, and when it lives."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest

from peer.background import client
from peer.background.client import BackgroundError, BackgroundProcess, BusyError, is_installed, read_answer
from peer.background.messages import MAX_QUESTION_BYTES, Content, Count, Fetch, Question, encode
from peer.background.process import Process
from peer.background.ticket import Authority, Ticket, parse_ticket
from peer.background.torrents import MAX_SERVED
from tests.support.ports import free_port
from tests.support.registry_server import PATIENCE_S

PIECE = 256 * 1024
LOOPBACK = "127.0.0.1"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Pair:
    """Two hosts: `here` shares, `there` fetches."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock()
        self.here = BackgroundProcess(directory / "here", LOOPBACK, free_port(), self.clock)
        self.there = BackgroundProcess(directory / "there", LOOPBACK, free_port(), self.clock)

    def blob(self, size_bytes: int, seed: int = 0) -> tuple[Content, bytes, Path]:
        data = random.Random(seed).randbytes(size_bytes)
        path = self.directory / hashlib.sha256(data).hexdigest()
        path.write_bytes(data)
        return Content(path.name, size_bytes, PIECE), data, path

    def fetch(self, content: Content, index: int, ticket: bytes) -> bytes:
        return asked(self.there, Fetch(content, index, "127.0.0.1", ticket))

    def fetch_soon(self, content: Content, index: int, ticket: bytes) -> bytes:
        """As above, once `here` knows that what it sent before is over."""
        ends = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.fetch(content, index, ticket)
            except BusyError:
                assert time.monotonic() < ends, "what is over takes no place"


def asked(process: BackgroundProcess, question: Question) -> bytes:
    with process.ask(question) as stream:
        stream.settimeout(PATIENCE_S)
        return read_answer(stream)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.here.close()
    made.there.close()


def test_pieces_come_over_utp_in_any_order(pair: Pair) -> None:
    content, data, path = pair.blob(3 * PIECE + 77)
    ticket = pair.here.share(content, path)
    assert pair.here.share(content, path) == ticket, "it is shared already"
    for index in (3, 0, 2, 0):  # one is asked for again: the daemon had no use for it the first time
        assert pair.fetch(content, index, ticket) == data[index * PIECE : (index + 1) * PIECE]
    pair.here.count()
    assert pair.here.sent_bytes >= 2 * PIECE
    assert path.read_bytes() == data


def test_it_sends_to_few_at_a_time(pair: Pair) -> None:
    """The others hear that soon, and ask elsewhere."""
    shared = [pair.blob(2 * PIECE, seed) for seed in range(MAX_SERVED + 1)]
    tickets = [pair.here.share(content, path) for content, _, path in shared]
    for (content, data, _), ticket in zip(shared, tickets, strict=True):
        assert pair.fetch_soon(content, 1, ticket) == data[PIECE:]
    pair.here.limit(PIECE, 0)
    with ThreadPoolExecutor() as threads:
        waiting = [
            threads.submit(pair.fetch, content, 0, ticket)
            for (content, _, _), ticket in zip(shared, tickets, strict=True)
        ]
        assert any(isinstance(each.exception(), BusyError) for each in as_completed(waiting, PATIENCE_S))
        pair.there.close()  # the others wait no longer


def test_what_was_given_to_the_daemon_takes_no_room(pair: Pair) -> None:
    content, _, path = pair.blob(4 * PIECE)
    ticket = pair.here.share(content, path)
    for index in range(3):
        pair.fetch(content, index, ticket)
    files = [each for each in (pair.directory / "there").rglob("*") if each.is_file()]
    ends = time.monotonic() + PATIENCE_S
    while sum(each.stat().st_blocks for each in files) * 512 >= PIECE:
        assert time.monotonic() < ends, "each piece is punched out once it was handed over"
        time.sleep(0.01)
    pair.there.close()
    assert not (pair.directory / "there").exists()


def test_who_has_no_ticket_gets_nothing(pair: Pair) -> None:
    """Neither with a certificate of its own, nor with a ticket for another blob, nor once the blob is not shared."""
    shared = [pair.blob(PIECE, seed) for seed in range(6)]
    tickets = [parse_ticket(pair.here.share(content, path)) for content, _, path in shared]
    port, root, _, good_key = tickets[0].port, tickets[0].root, tickets[0].certificate, tickets[0].key
    stranger = Authority()
    forged = [
        Ticket(port, root, *stranger.issue(shared[0][0].digest)),
        Ticket(port, stranger.root, *stranger.issue(shared[1][0].digest)),
        Ticket(port, root, tickets[0].certificate, good_key),
        Ticket(port, root, tickets[3].certificate, good_key),
        tickets[4],
    ]
    pair.here.unshare(shared[4][0].digest)

    def is_refused(number: int) -> bool:
        try:
            pair.fetch(shared[number][0], 0, forged[number].encode())
        except BackgroundError:
            return True
        return False

    with ThreadPoolExecutor() as threads:  # one waits as long as all
        assert list(threads.map(is_refused, range(5))) == [True] * 5
    assert pair.fetch(shared[5][0], 0, tickets[5].encode()) == shared[5][1], "who has one gets it"


def test_hostile_tickets_and_messages(pair: Pair) -> None:
    content, data, path = pair.blob(PIECE)
    ticket = pair.here.share(content, path)
    pem = parse_ticket(ticket)
    for bad in (b"\xc1", b"x" * 100, Ticket(pem.port, b"no root", b"no certificate", b"no key").encode()):
        with pytest.raises(BackgroundError):
            asked(pair.there, Fetch(content, 0, "127.0.0.1", bad))
    with pytest.raises(BackgroundError):
        asked(pair.there, Fetch(content, 0, "nowhere", ticket))
    control = pair.there._control
    assert control is not None
    pid = pair.there.pid
    ours, theirs = socket.socketpair()
    with ours, theirs:
        control.send(b"no descriptor")
        socket.send_fds(control, [encode(Count())], [theirs.fileno(), theirs.fileno()])
        socket.send_fds(control, [b"y" * (MAX_QUESTION_BYTES + 1)], [theirs.fileno()])
    assert pair.fetch(content, 0, ticket) == data
    assert pair.there.pid == pid, "it has lived through all of that"


def test_a_file_that_is_shorter_than_it_was_said(pair: Pair) -> None:
    content, _, path = pair.blob(2 * PIECE)
    ticket = pair.here.share(content, path)
    path.write_bytes(b"")
    with pytest.raises(BackgroundError):
        pair.fetch(content, 1, ticket)
    assert path.read_bytes() == b"", "what is shared is never written to"


def test_it_listens_where_the_peer_port_does(pair: Pair) -> None:
    """Nobody said that other machines may come."""
    content, data, path = pair.blob(PIECE)
    assert pair.fetch(content, 0, pair.here.share(content, path)) == data
    for process in (pair.here, pair.there):
        listening = [row for table in ("udp", "udp6", "tcp", "tcp6") for row in sockets_of(process, table)]
        assert listening
        assert {row.partition(":")[0] for row in listening} == {"0100007F"}


def sockets_of(process: BackgroundProcess, table: str) -> list[str]:
    """The local addresses of its sockets, as in /proc/net: in hexadecimal, the last byte first."""
    links = [each.readlink().name for each in Path(f"/proc/{process.pid}/fd").iterdir()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [line.split() for line in Path(f"/proc/{process.pid}/net/{table}").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[9] in inodes]


def test_killed_it_is_started_anew(pair: Pair) -> None:
    content, data, path = pair.blob(PIECE)
    ticket = pair.here.share(content, path)
    assert pair.fetch(content, 0, ticket) == data
    pair.clock.now += client.AT_ONCE_S
    kill(pair.there)
    assert pair.fetch(content, 0, ticket) == data


def test_one_that_ends_at_once_is_left_alone_for_a_while(pair: Pair) -> None:
    content, data, path = pair.blob(PIECE)
    ticket = pair.here.share(content, path)
    assert pair.fetch(content, 0, ticket) == data
    kill(pair.there)
    with pytest.raises(BackgroundError, match="does not run"):
        pair.fetch(content, 0, ticket)
    pair.clock.now += client.AGAIN_AFTER_S
    assert pair.fetch(content, 0, ticket) == data


def test_whoever_waits_hears_that_it_was_killed(pair: Pair) -> None:
    """The other host does not answer, so nothing comes."""
    content, _, path = pair.blob(PIECE)
    ticket = parse_ticket(pair.here.share(content, path))
    silent = Ticket(free_port(), ticket.root, ticket.certificate, ticket.key)
    assert asked(pair.there, Count()) == b"0"
    with ThreadPoolExecutor() as threads, pair.there.ask(Fetch(content, 0, "127.0.0.1", silent.encode())) as stream:
        waiting = threads.submit(read_answer, stream)
        kill(pair.there)
        with pytest.raises(BackgroundError):
            waiting.result(PATIENCE_S)


def test_it_ends_with_the_daemon(tmp_path: Path) -> None:
    """The daemon is killed, and closes nothing in order."""
    daemon = (
        "import sys, time\nfrom pathlib import Path\n"
        "from peer.background.client import BackgroundProcess, read_answer\n"
        "from peer.background.messages import Count\n"
        "process = BackgroundProcess(Path(sys.argv[1]), '127.0.0.1', 1)\n"
        "with process.ask(Count()) as stream: read_answer(stream)\nprint('pid', process.pid); time.sleep(1000)"
    )
    words = [sys.executable, "-u", "-c", daemon, str(tmp_path / "x")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        pid = next(int(line.split()[1]) for line in killed.stdout if line.startswith(b"pid "))
        killed.kill()
    ends = time.monotonic() + PATIENCE_S
    while is_alive(pid):
        assert time.monotonic() < ends, "it lives on"
        time.sleep(0.01)


@pytest.mark.parametrize("bound", ["idle_s", "max_age_s"])
def test_it_ends_when_idle_and_with_its_tickets(tmp_path: Path, bound: str) -> None:
    control, daemon = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with control, daemon:
        process = Process(control, tmp_path, LOOPBACK, free_port(), **{bound: 0.0})
        process.run()
        process.close()


def test_without_libtorrent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_installed()
    monkeypatch.setitem(sys.modules, "libtorrent", None)
    assert not is_installed()


def is_alive(pid: int) -> bool:
    """Nobody may reap it in a container, and then it stays as a zombie."""
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def kill(process: BackgroundProcess) -> None:
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while process.pid is not None:
        time.sleep(0.001)
