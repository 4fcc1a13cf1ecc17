"""Which pieces come by the background transport, and what happens when they do not.

1. A piece that no client waits for: of a preheat from any neighbour, and of what is fetched ahead from a neighbour in
   another site. Within a site a client is about to ask for what is fetched ahead, and HTTP is quicker there.
2. The neighbour gives a ticket for the blob, over the same connection as pieces. Then the process gets the piece.
3. Whatever is in the way, the piece comes by HTTP at once, and the transport is left alone for a while: a neighbour
   that has none, a blob that the neighbour has not whole, a port that is closed, a process that has ended, a piece that
   is wrong.
4. When a client comes for the blob, each piece that has not arrived is asked for by HTTP within `LOOK_EVERY_S`.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import structlog

from peer.background.client import BackgroundError, BackgroundProcess, BusyError, WrongPieceError, fill, read_header
from peer.background.messages import KEEP, MAX_RATE, MAX_TICKET_BYTES, Content, Fetch
from peer.errors import FetchStoppedError, PeerGoneError
from peer.neighbour_http import NeighbourClient
from peer.oci.digest import Digest
from peer.pacing import LOOK_EVERY_S
from peer.store import Blob

log = structlog.get_logger("peer.background")

REPOSITORY: Final = "swarm/background"
"""Under this name the peer port gives tickets (`peer.net.peer_server`)."""

PATIENCE_S: Final = 4.5
"""A neighbour that takes longer for a piece may be slow (`SLOW_LEAST_S` of `peer.core.peer_requests`). That this
transport takes longer is no fault of the neighbour."""

NOT_WHOLE_S: Final = 30.0
NOT_THERE_S: Final = 300.0
COUNT_EVERY_S: Final = 5.0
MAX_TICKETS: Final = 1024
MAX_LEFT_ALONE: Final = 4096


@dataclass(slots=True)
class Ticketed:
    """A neighbour's ticket for a blob."""

    data: bytes
    proven: bool = False
    """A piece has come with it."""


class TakenOverError(BackgroundError):
    """A client waits for the blob now."""


class BackgroundTransport:
    """The transport of one host. `gives_way`: what no client waits for of a blob gives way to all else from a host.

    `rate` is the limit on what no client waits for, in bytes per second; 0 is none.
    """

    def __init__(
        self,
        process: BackgroundProcess,
        gives_way: Callable[[bytes, str], bool],
        rate: Callable[[], int],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.patience_s = patience_s
        self.received_bytes = 0
        self.fallbacks = 0
        """Pieces that came by HTTP because the transport did not bring them."""
        self._process = process
        self._gives_way = gives_way
        self._rate = rate
        self._lock = threading.Lock()
        self._tickets: OrderedDict[tuple[str, str], Ticketed] = OrderedDict()
        self._left_alone: OrderedDict[tuple[str, str], float] = OrderedDict()
        """Until when a host (and blob; "": any) is asked by HTTP."""

    @property
    def sent_bytes(self) -> int:
        """Since the start, some seconds ago."""
        return self._process.sent_bytes

    @property
    def runs(self) -> bool:
        """Whether there is a process now."""
        return self._process.pid is not None

    # -- on the event loop -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the count of what is sent."""
        while True:
            await asyncio.sleep(COUNT_EVERY_S)
            await asyncio.to_thread(self._process.count)

    async def ticket(self, blob: Blob) -> bytes | None:
        """What another host needs to get a blob that is whole; None if it cannot be shared."""
        try:
            return await asyncio.to_thread(self._process.share, content_of(blob), blob.data_path.absolute())
        except BackgroundError as error:
            log.warning("a blob is not shared by the background transport", digest=blob.digest, error=str(error))
            return None

    async def unshare(self, digest: Digest) -> None:
        """The blob is gone."""
        await asyncio.to_thread(self._process.unshare, digest.hex)

    async def limit(self, upload: int, download: int) -> None:
        """From now on these rates hold, in bytes per second; 0 is none."""
        await asyncio.to_thread(self._process.limit, upload, download)

    async def restart(self) -> None:
        """End all connections: a host was revoked, which may have tickets."""
        await asyncio.to_thread(self._process.restart)

    async def close(self) -> None:
        """End the process."""
        await asyncio.to_thread(self._process.close)

    def way(self, digest: Digest, host: str, address: str, is_background: Callable[[], bool]) -> BackgroundWay | None:
        """How a piece of a blob comes from a host whose peer port is at `address`; None: by HTTP."""
        if not address or not self._gives_way(digest.raw, host) or self._is_left_alone(host):
            return None
        return BackgroundWay(self, host, address, is_background)

    # -- in threads ------------------------------------------------------------------------------------------------

    @contextmanager
    def fetching(
        self, way: BackgroundWay, client: NeighbourClient, blob: Blob, index: int
    ) -> Iterator[tuple[socket.socket, Ticketed]]:
        """The stream on which a piece comes, for the block, and the ticket. Raises BackgroundError."""
        if self._is_left_alone(way.host, blob.digest):
            raise _LeftAloneError("left alone")
        ticket = self._ticket_of(way.host, client, blob)
        address = _address_of(way.address)
        try:
            rate = min(self._rate(), MAX_RATE)
            with self._process.ask(Fetch(content_of(blob), index, address, ticket.data, rate)) as stream:
                stream.settimeout(LOOK_EVERY_S)
                yield stream, ticket
        except (TakenOverError, BusyError):
            raise
        except FetchStoppedError:
            if not ticket.proven:
                self._leave_alone(way.host, "", NOT_THERE_S)
            raise
        except BackgroundError as error:
            with self._lock:
                self._tickets.pop((way.host, blob.digest), None)
            if not ticket.proven or isinstance(error, WrongPieceError):  # else the other process may have ended since
                self._leave_alone(way.host, "", NOT_THERE_S)
            raise
        ticket.proven = True

    def failed(self, host: str, error: BackgroundError) -> None:
        """A piece did not come so."""
        if isinstance(error, (TakenOverError, _LeftAloneError)):
            return
        with self._lock:
            self.fallbacks += 1
        log.info("a piece comes by HTTP, not by the background transport", host=host, reason=str(error))

    def received(self, size_bytes: int) -> None:
        """A piece has come, and is right."""
        with self._lock:
            self.received_bytes += size_bytes

    def _ticket_of(self, host: str, client: NeighbourClient, blob: Blob) -> Ticketed:
        key = (host, str(blob.digest))
        with self._lock:
            known = self._tickets.get(key)
        if known is not None:
            return known
        try:
            with client.get(f"/v2/{REPOSITORY}/blobs/{blob.digest}") as answer:
                status = answer.head.status
                if status != 200:
                    for_blob, for_s = (str(blob.digest), NOT_WHOLE_S) if status == 404 else ("", NOT_THERE_S)
                    self._leave_alone(host, for_blob, for_s)
                    raise _LeftAloneError(f"its ticket for {blob.digest} was refused with status {status}")
                if not 0 < answer.head.length <= MAX_TICKET_BYTES:
                    raise BackgroundError("the neighbour's answer is no ticket")
                data = bytearray(answer.head.length)
                with memoryview(data) as view:
                    answer.readinto(view)
        except PeerGoneError as error:
            raise BackgroundError(str(error)) from None
        ticket = Ticketed(bytes(data))
        with self._lock:
            self._tickets[key] = ticket
            while len(self._tickets) > MAX_TICKETS:
                self._tickets.popitem(last=False)
        return ticket

    def _is_left_alone(self, host: str, digest: str = "") -> bool:
        with self._lock:
            return time.monotonic() < self._left_alone.get((host, str(digest)), 0.0)

    def _leave_alone(self, host: str, digest: str, for_s: float) -> None:
        with self._lock:
            self._left_alone[host, digest] = time.monotonic() + for_s
            while len(self._left_alone) > MAX_LEFT_ALONE:
                self._left_alone.popitem(last=False)


class _LeftAloneError(BackgroundError):
    """The neighbour does not have this transport, or not for this blob."""


@dataclass(frozen=True, slots=True)
class Arriving:
    """A piece that the process has, and gives."""

    stream: socket.socket
    size_bytes: int
    look: Callable[[], None]

    def readinto(self, view: memoryview) -> None:
        """Raises BackgroundError, FetchStoppedError."""
        if self.size_bytes != len(view):
            raise BackgroundError(f"a piece of {self.size_bytes} bytes instead of {len(view)}")
        fill(self.stream, view, self.look)


@dataclass(frozen=True, slots=True)
class BackgroundWay:
    """How one piece comes from one host, as long as no client waits for its blob. For a thread."""

    transport: BackgroundTransport
    host: str
    address: str
    is_background: Callable[[], bool]

    @contextmanager
    def fetch(self, client: NeighbourClient, blob: Blob, index: int, stopped: threading.Event) -> Iterator[Arriving]:
        """Wait for a piece, which takes as long as others leave of the line. No buffer is needed until it is there.

        Raises BusyError; any other BackgroundError: it is to come by HTTP; FetchStoppedError, also where others leave
        so little that the neighbour would count as slow: the process goes on with it, and is asked for it again.
        """
        ends_s = time.monotonic() + self.transport.patience_s

        def look() -> None:
            if stopped.is_set():
                raise FetchStoppedError("stopped")
            if not self.is_background():
                raise TakenOverError("a client waits for it")
            if ticket.proven and time.monotonic() > ends_s:
                with suppress(OSError):  # the process has just ended
                    stream.send(KEEP)
                raise FetchStoppedError("others leave too little of the line: it is asked for again")

        with self.transport.fetching(self, client, blob, index) as (stream, ticket):
            yield Arriving(stream, read_header(stream, look), look)

    def received(self, size_bytes: int) -> None:
        """The piece has come, and is right."""
        self.transport.received(size_bytes)

    def failed(self, error: BackgroundError) -> None:
        """The piece has not come so."""
        self.transport.failed(self.host, error)


def content_of(blob: Blob) -> Content:
    """What a torrent of the blob is made from."""
    return Content(blob.digest.hex, blob.size_bytes, blob.header.piece_length)


def _address_of(address: str) -> str:
    """The IP address of a peer port. Raises BackgroundError."""
    try:
        host = urlsplit(f"//{address}").hostname or ""
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, ValueError) as error:  # a host may advertise `[::::]:1`, or a name that is none
        raise BackgroundError(f"{address} is no address: {error}") from None
    return str(found[0][4][0])
