"""libtorrent: the torrents that this host shares, and those from which it fetches.

1. One torrent is one blob at one host: whoever fetches knows whom it asks, and asks for the pieces that the daemon
   wants from that host. There are no trackers, and no DHT, LSD, PEX or UPnP.
2. The torrent is made from the blob's digest, its length, its length of pieces, and the root of the host's tickets.
   Both sides know these, so no metadata is exchanged. Its piece hashes are zeros and not compared: the daemon compares
   each piece with the BLAKE3 of the sealed map, which it does in any case.
3. Only whole blobs, which the daemon has verified, are shared. What is fetched is given to nobody from here: the
   session that fetches takes no connections, and unchokes nobody.
4. uTP alone: TCP is off. Its target is a delay of `TARGET_MS`; with libtorrent's own 100 ms it would not give way where
   the queue in front of a line has 100 ms.
"""

from __future__ import annotations

import ctypes
import shutil
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, Final

from peer.background.messages import Content
from peer.background.ticket import Authority, Ticket

libtorrent: Any = import_module("libtorrent")  # an extra, which has types only in some of its versions

TARGET_MS: Final = 10
"""On 50 Mbit/s with a queue of 100 ms, one TCP connection keeps 0.8 of what it has alone with 25 ms, as libtorrent's
window shrinks by so much less in each round trip, and 0.97 and more with 10 ms."""

MAX_SHARED: Final = 256
MAX_FETCHING: Final = 256
"""Torrents at a time; beyond that the one that was used least recently is left."""

CONNECT_WITHIN_S: Final = 4.0
"""A host without a connection for so long does not answer. A neighbour counts as slow after 5 s
(`peer.core.peer_requests`)."""

MAX_CONNECTIONS: Final = 512
"""With a peer. libtorrent takes twice as many, until TLS has shown who comes, and has 90 KiB for each."""

MAX_STRANGERS: Final = MAX_CONNECTIONS // 2
CROWDED_S: Final = 60.0
"""With more connections than that, for so long, of which nobody knows whose they are, there is no room for others:
libtorrent never ends a handshake that stands still. Any packet begins one, whatever sender it names."""

MAX_SERVED: Final = 3
"""Hosts at a time that are sent to; the others ask each other meanwhile. With no bound, a host from which six others
are preheated sends each piece to all of them, in twice the time that HTTP takes."""

BUSY_AFTER_S: Final = 1.0
"""A host that keeps this one choked for so long sends to others."""

KEEP_S: Final = 20.0
"""For how long a piece goes on that nobody waits for just now."""

FORGET_AFTER_S: Final = 120.0
"""A torrent that nothing was wanted of for so long is left, and what was half received is forgotten."""

DH_PARAMETERS: Final = b"""-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
"""ffdhe2048 of RFC 7919. libtorrent wants some; with TLS 1.3 they are not used."""

_SETTINGS: Final = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_ip_notifier": False,
    "enable_incoming_tcp": False,
    "enable_outgoing_tcp": False,
    "disable_hash_checks": True,
    "utp_target_delay": TARGET_MS,
    "close_redundant_connections": False,  # a host that wants nothing now wants the next piece in a moment
    "allow_multiple_connections_per_ip": True,
    "rate_limit_ip_overhead": False,
    "rate_limit_utp": True,
    "connections_limit": MAX_CONNECTIONS,
    "min_reconnect_time": 1,
    "max_failcount": 2**30,
    "peer_timeout": 60,
    "aio_threads": 2,
    "hashing_threads": 1,
    "user_agent": "p2pd",
    "alert_queue_size": 10_000,
}
_FALLOC_KEEP_SIZE_PUNCH_HOLE: Final = 0x01 | 0x02
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def _session(listen: str, alert_fd: int, **settings: object) -> Any:
    session = libtorrent.session({**_SETTINGS, "listen_interfaces": listen, **settings})
    everybody = libtorrent.ip_filter()
    for first, last in (("0.0.0.0", "255.255.255.255"), ("::", ":".join(["ffff"] * 8))):
        everybody.add_rule(first, last, 1 << session.global_peer_class_id)
    session.set_peer_class_filter(everybody)  # else the rates do not hold in local networks
    session.set_alert_fd(alert_fd)
    session.ssl_listen_port()  # is answered once it listens
    _close_tcp_listeners()
    return session


def _close_tcp_listeners() -> None:
    """Rule 4. libtorrent listens at TCP beside each UDP port, whatever its settings are.

    It takes any number of TLS handshakes there, never ends one that stands still, and serves by TCP whoever has a
    ticket.
    """
    for descriptor in Path("/dev/fd").iterdir():
        with suppress(OSError):  # it is no socket
            found = socket.socket(fileno=int(descriptor.name))
            try:
                if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.shutdown(socket.SHUT_RDWR)
            finally:
                found.detach()


def _interfaces(address: str, port: int) -> str:
    """Where to listen, in libtorrent's notation: `s` is for SSL."""
    found = socket.getaddrinfo(address, None, type=socket.SOCK_DGRAM)
    hosts = dict.fromkeys(str(each[4][0]) for each in found)
    if "::" in hosts:
        hosts["0.0.0.0"] = None  # as a socket of both families
    return ",".join(f"[{each}]:{port}s" if ":" in each else f"{each}:{port}s" for each in hosts)


def _torrent(content: Content, root: bytes, directory: Path) -> Any:
    """Rule 2."""
    info = {
        b"name": content.digest.encode(),
        b"length": content.size_bytes,
        b"piece length": content.piece_bytes,
        b"pieces": bytes(20 * content.pieces),
        b"private": 1,
        b"ssl-cert": root,
    }
    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info({b"info": info})
    parameters.save_path = str(directory)
    parameters.storage_mode = libtorrent.storage_mode_t.storage_mode_sparse
    return parameters


class Sharing:
    """The torrents that this host gives, to hosts with a ticket."""

    def __init__(self, address: str, port: int, alert_fd: int) -> None:
        """Listens at UDP `port` of `address`, at one of the ten after it, or at any that is free."""
        self._authority = Authority()
        self._tickets: dict[str, tuple[Content, Any, Ticket]] = {}
        self._before = 0
        self._session = _session(
            _interfaces(address, port),
            alert_fd,
            unchoke_slots_limit=MAX_SERVED,
            unchoke_interval=1,
            alert_mask=libtorrent.alert.category_t.error_notification,
        )
        self._had_room_at = time.monotonic()

    def share(self, content: Content, path: Path) -> Ticket:
        """Raises RuntimeError if libtorrent does not take it."""
        known = self._tickets.pop(content.digest, None)
        if known is not None and known[0] != content:
            self._leave(known[1])
            known = None
        known = self._tickets[content.digest] = known or self._begin(content, path)
        while len(self._tickets) > MAX_SHARED:
            self.unshare(next(iter(self._tickets)))
        return known[2]

    def unshare(self, digest: str) -> None:
        known = self._tickets.pop(digest, None)
        if known is not None:
            self._leave(known[1])

    def limit(self, rate: int) -> None:
        self._session.apply_settings({"upload_rate_limit": rate})

    def sent_bytes(self) -> int:
        now = [int(handle.status().total_payload_upload) for _, handle, _ in self._tickets.values()]
        return self._before + sum(now)

    def is_used(self) -> bool:
        """Whether somebody is connected."""
        return any(handle.status().num_peers for _, handle, _ in self._tickets.values())

    def tend(self) -> bool:
        """Whether strangers have had the room for too long: all is to begin anew. To be called once a second, about."""
        self._session.post_session_stats()
        return time.monotonic() > self._had_room_at + CROWDED_S

    def pop_alerts(self) -> None:
        for alert in self._session.pop_alerts():
            if isinstance(alert, libtorrent.session_stats_alert):
                now = alert.values
                if now["utp.num_utp_connected"] - now["peer.num_peers_connected"] <= MAX_STRANGERS:
                    self._had_room_at = time.monotonic()

    def _begin(self, content: Content, path: Path) -> tuple[Content, Any, Ticket]:
        port = self._session.ssl_listen_port()
        if not port:
            raise RuntimeError("no UDP port could be opened")
        parameters = _torrent(content, self._authority.root, path.parent)
        parameters.verified_pieces = [True] * content.pieces  # else each piece is read, hashed and compared
        flags = libtorrent.torrent_flags
        parameters.flags = flags.seed_mode | flags.upload_mode
        handle = self._session.add_torrent(parameters)
        handle.set_ssl_certificate_buffer(*self._authority.issue(content.digest), DH_PARAMETERS)
        return content, handle, Ticket(port, self._authority.root, *self._authority.issue(content.digest))

    def _leave(self, handle: Any) -> None:
        self._before += handle.status().total_payload_upload
        self._session.remove_torrent(handle)


@dataclass
class _Fetched:
    """A torrent from which pieces are fetched. `wanted`: each piece with the questions that it answers.

    `kept`: until when each piece goes on that nobody waits for. `given`: those that the daemon has had.
    """

    content: Content
    handle: Any
    file: Path
    address: tuple[str, int]
    wanted: dict[int, list[int]] = field(default_factory=dict)
    kept: dict[int, float] = field(default_factory=dict)
    given: set[int] = field(default_factory=set)
    connected_at: float = field(default_factory=time.monotonic)
    served_at: float = field(default_factory=time.monotonic)
    used_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The end of a question: the piece, or why there is none."""

    question: int
    piece: bytes | None = None
    error: str = ""
    busy: bool = False


class Fetching:
    """The torrents from which this host fetches. Questions have numbers of the caller's."""

    def __init__(self, directory: Path, address: str, alert_fd: int) -> None:
        self._directory = directory
        self._session = _session(
            _interfaces(address, 0),
            alert_fd,
            enable_incoming_utp=False,
            unchoke_slots_limit=0,
            alert_mask=libtorrent.alert.category_t.error_notification
            | libtorrent.alert.category_t.status_notification
            | libtorrent.alert.category_t.piece_progress_notification,
        )
        self._torrents: dict[tuple[Content, str, Ticket], _Fetched] = {}
        self._numbers = count()

    def limit(self, rate: int) -> None:
        self._session.apply_settings({"download_rate_limit": rate})

    def fetch(self, question: int, content: Content, index: int, address: str, ticket: Ticket) -> None:
        """Begin. Raises RuntimeError if libtorrent does not take it."""
        key = (content, address, ticket)
        torrent = self._torrents.get(key)
        if torrent is not None and index in torrent.given:  # the daemon could not use it
            self._end(key)
            torrent = None
        if torrent is None:
            torrent = self._torrents[key] = self._begin(content, (address, ticket.port), ticket)
        torrent.used_at = time.monotonic()
        if not torrent.wanted and not torrent.kept:
            torrent.connected_at = torrent.served_at = torrent.used_at
        torrent.kept.pop(index, None)
        torrent.wanted.setdefault(index, []).append(question)
        if torrent.handle.have_piece(index):
            torrent.handle.read_piece(index)
        else:
            torrent.handle.piece_priority(index, 7)
            self._connect(torrent)

    def cancel(self, question: int, *, keep: bool) -> None:
        """Nobody waits for this any more; `keep`: but will again. The blocks that have come are kept for a while."""
        for torrent in self._torrents.values():
            for index, questions in list(torrent.wanted.items()):
                if question in questions:
                    questions.remove(question)
                    if not questions:
                        del torrent.wanted[index]
                        torrent.kept[index] = time.monotonic() + (KEEP_S if keep else 0.0)
        self._drop_kept()

    def _drop_kept(self) -> None:
        now = time.monotonic()
        for torrent in self._torrents.values():
            for index in [index for index, until in torrent.kept.items() if now >= until]:
                del torrent.kept[index]
                torrent.handle.piece_priority(index, 0)

    def ended(self) -> Iterable[Fetched]:
        """What has come since the last call, and what will not come."""
        torrents = {torrent.handle: torrent for torrent in self._torrents.values()}
        for alert in self._session.pop_alerts():
            torrent = torrents.get(getattr(alert, "handle", None))
            if torrent is None:
                continue
            if isinstance(alert, libtorrent.piece_finished_alert):
                if alert.piece_index in torrent.wanted:
                    torrent.handle.read_piece(alert.piece_index)
            elif isinstance(alert, libtorrent.read_piece_alert):
                yield from self._read(torrent, alert)
            elif isinstance(alert, (libtorrent.torrent_error_alert, libtorrent.file_error_alert)):
                yield from _failed(torrent, alert.message())

    def tend(self) -> Iterable[Fetched]:
        """What will not come, because its host does not answer. To be called once a second, about."""
        now = time.monotonic()
        self._drop_kept()
        for key, torrent in list(self._torrents.items()):
            if not torrent.wanted:
                if now > torrent.used_at + FORGET_AFTER_S or len(self._torrents) > MAX_FETCHING:
                    self._end(key)
            elif peers := self._connect(torrent):
                torrent.connected_at = now
                if any(not peer.flags & peer.remote_choked for peer in peers):
                    torrent.served_at = now
                elif now > torrent.served_at + BUSY_AFTER_S:
                    yield from _failed(torrent, "the host sends to others", busy=True)
            elif now > torrent.connected_at + CONNECT_WITHIN_S:
                yield from _failed(torrent, "the host does not answer, or does not take the ticket")

    @property
    def is_used(self) -> bool:
        return bool(self._torrents)

    def close(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def _begin(self, content: Content, address: tuple[str, int], ticket: Ticket) -> _Fetched:
        directory = self._directory / f"{next(self._numbers)}"  # of the same blob there may be one for each host
        directory.mkdir(mode=0o700, parents=True)
        parameters = _torrent(content, ticket.root, directory)
        parameters.flags = libtorrent.torrent_flags.duplicate_is_error
        parameters.piece_priorities = [0] * content.pieces
        handle = self._session.add_torrent(parameters)  # an error if another ticket is used with the same root
        handle.set_ssl_certificate_buffer(ticket.certificate, ticket.key, DH_PARAMETERS)
        return _Fetched(content, handle, directory / content.digest, address)

    def _connect(self, torrent: _Fetched) -> list[Any]:
        """The connection to the host, once it has said that it has the blob; if there is none, one is begun."""
        peers = torrent.handle.get_peer_info()
        if not peers:
            torrent.handle.connect_peer(torrent.address)
        return [peer for peer in peers if peer.flags & peer.seed]

    def _read(self, torrent: _Fetched, alert: Any) -> Iterable[Fetched]:
        index = alert.piece
        questions = torrent.wanted.pop(index, [])
        piece = bytes(alert.buffer or b"")
        if len(piece) != torrent.content.piece_size(index):
            yield from (Fetched(question, error="the piece could not be read") for question in questions)
            return
        if not questions:
            return
        torrent.given.add(index)
        yield from (Fetched(question, piece) for question in questions)
        _punch(torrent.file, index * torrent.content.piece_bytes, len(piece))

    def _end(self, key: tuple[Content, str, Ticket]) -> None:
        torrent = self._torrents.pop(key)
        self._session.remove_torrent(torrent.handle, libtorrent.session.delete_files)


def _failed(torrent: _Fetched, why: str, *, busy: bool = False) -> Iterable[Fetched]:
    wanted, torrent.wanted = torrent.wanted, {}
    for index, questions in wanted.items():
        torrent.handle.piece_priority(index, 0)
        yield from (Fetched(question, error=why, busy=busy) for question in questions)


def _punch(file: Path, start: int, length: int) -> None:
    """Give the room of a piece back: the daemon's store has it."""
    try:
        with file.open("r+b") as opened:
            _LIBC.fallocate(
                opened.fileno(), _FALLOC_KEEP_SIZE_PUNCH_HOLE, ctypes.c_longlong(start), ctypes.c_longlong(length)
            )
    except OSError:
        pass
