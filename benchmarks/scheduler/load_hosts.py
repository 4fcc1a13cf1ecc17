"""Load for the scheduler: any number of hosts, in this process, each with a connection of its own.

The hosts must cost less than the scheduler, which does real work for each of their messages. So they make frames by
hand, with a mask of zeros, and read only the type of an incoming message. Only leases and spot checks are decoded,
because they need an answer.

Rules:
1. A host that gets a lease publishes its pieces at once, and one that gets a spot check finds the piece right: the
   scheduler never waits for an origin.
2. A host answers pings. The end of a connection, for any reason, ends the measure.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from benchmarks.command import UnmeasurableError
from scheduler.protocol.codec import FROM_HOST, TO_HOST, FromHost
from scheduler.protocol.connection import PATH
from scheduler.protocol.fields import DIGEST_BYTES
from scheduler.protocol.from_host import Hello, Join, LeasePieces, Progress, SpotChecked, SpotResult
from scheduler.protocol.geometry import piece_count, piece_length
from scheduler.protocol.to_host import Joined, Lease, SpotCheck, Welcome

SIZE_BYTES: Final = 2**30
PIECES: Final = piece_count(SIZE_BYTES, piece_length(SIZE_BYTES))
FIRST_HOSTS: Final = 20
"""The hosts that join first and publish the blob's pieces. Every later host then gets the digests of all pieces."""

AT_ONCE: Final = 64
"""Connections under way at a time, or joins without answer. With that many the scheduler always has work."""

ANSWER_BOUND_S: Final = 120.0

_BINARY, _CLOSE, _PING, _PONG = 0x82, 0x88, 0x89, 0x8A
_ZERO_MASK = bytes(4)
_NUMBERS = {kind: number for number, kind in TO_HOST.types.items()}
_WELCOME, _JOINED, _LEASE, _SPOT_CHECK = (_NUMBERS[kind] for kind in (Welcome, Joined, Lease, SpotCheck))

_UPGRADE = (
    f"GET {PATH} HTTP/1.1\r\nHost: scheduler\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()


def frame(opcode: int, payload: bytes) -> bytes:
    """A WebSocket frame in a client's form (RFC 6455, 5.2). A mask of zeros changes nothing."""
    length = len(payload)
    if length < 126:
        return bytes((opcode, 0x80 | length)) + _ZERO_MASK + payload
    return bytes((opcode, 0x80 | 126)) + length.to_bytes(2, "big") + _ZERO_MASK + payload


class LoadHost(asyncio.Protocol):
    """A host's connection. `on_answer` is called for Welcome, Joined and a pong."""

    def __init__(self, name: str) -> None:
        self.on_answer: Callable[[LoadHost], None] = _nothing
        self.joined_at = 0.0
        self.asked_at = 0.0
        self.published = 0
        self.resumed = False
        """Whether the connection is a resumed session of TLS."""
        self._name = name
        self._received = b""
        self._upgraded = False
        self._transport: asyncio.Transport | None = None
        self.lost: Exception | None = None

    def says(self, *messages: FromHost) -> None:
        assert self._transport is not None
        self._transport.write(b"".join(frame(_BINARY, FROM_HOST.encode(message)) for message in messages))

    def joins(self, message: bytes) -> None:
        """Send a frame that holds Join."""
        assert self._transport is not None
        self.asked_at = time.perf_counter()
        self._transport.write(message)

    def ping(self) -> None:
        """Send a ping. Its pong comes after the scheduler has handled all earlier messages."""
        assert self._transport is not None
        self._transport.write(frame(_PING, b""))

    def leave(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is one in all but inheritance
        self._transport.write(_UPGRADE)  # type: ignore[union-attr]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.lost = exc or ConnectionError(f"the scheduler hung up on {self._name}")

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        at = 0
        if not self._upgraded:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                self._received = received
                return
            at, self._upgraded = end + 4, True
            self.says(Hello(self._name, 1, 1, f"{self._name}:1"))
        while len(received) - at >= 2:
            opcode, length, start = received[at], received[at + 1], at + 2
            if length >= 126:
                extended = 2 if length == 126 else 8
                if len(received) < start + extended:
                    break
                length = int.from_bytes(received[start : start + extended], "big")
                start += extended
            if len(received) < start + length:
                break
            at = start + length
            self._take(opcode, received, start, at)
        self._received = received[at:]

    def _take(self, opcode: int, received: bytes, start: int, stop: int) -> None:
        assert self._transport is not None
        if opcode == _BINARY:
            kind = received[start + 1]  # after the head of a short array; types are below 128
            if kind == _LEASE:
                self._publish(received[start:stop])
            elif kind == _SPOT_CHECK:
                self._check(received[start:stop])
            elif kind in (_WELCOME, _JOINED):
                self.joined_at = time.perf_counter()
                self.on_answer(self)
        elif opcode == _PING:
            self._transport.write(frame(_PONG, received[start:stop]))
        elif opcode == _PONG:
            self.on_answer(self)
        elif opcode == _CLOSE:
            self._transport.abort()

    def _publish(self, message: bytes) -> None:
        lease = TO_HOST.decode(message)
        assert isinstance(lease, Lease)
        pieces = range(lease.first, lease.stop)
        self.published += len(pieces)
        self.says(*(LeasePieces(lease.lease, lease.digest, piece, digest_of(piece)) for piece in pieces))

    def _check(self, message: bytes) -> None:
        check = TO_HOST.decode(message)
        assert isinstance(check, SpotCheck)
        self.says(SpotChecked(check.digest, check.generation, check.piece, SpotResult.RIGHT))


def digest_of(piece: int) -> bytes:
    """A made-up digest of a piece, which all hosts claim."""
    return piece.to_bytes(DIGEST_BYTES, "big")


def _nothing(_: LoadHost) -> None:
    pass


class LoadHosts:
    """All hosts. Each method returns when the last host has its answer; it raises UnmeasurableError if one has none."""

    def __init__(
        self,
        address: str,
        count: int,
        name: str = "host",
        protocol: Callable[[LoadHost, int], asyncio.BaseProtocol] = lambda host, _: host,
    ) -> None:
        """`protocol` gives what stands between the socket and a host, which it gets with its number."""
        self.address = address
        self._address, _, port = address.rpartition(":")
        self._port = int(port)
        self._protocol = protocol
        self.hosts = [LoadHost(f"{name}-{number}") for number in range(count)]

    async def connect(self) -> None:
        """Connect all hosts, and send Hello."""
        loop = asyncio.get_running_loop()
        for first in range(0, len(self.hosts), AT_ONCE):
            some = self.hosts[first : first + AT_ONCE]
            welcomed = self._answers_of(some)
            for number, host in enumerate(some, first):
                await loop.create_connection(partial(self._protocol, host, number), self._address, self._port)
            await self._all(welcomed)

    async def first_join(self, blob: bytes) -> Sequence[LoadHost]:
        """Let a few hosts join a blob's swarm and publish its pieces; returns the other hosts."""
        first, rest = self.hosts[:FIRST_HOSTS], self.hosts[FIRST_HOSTS:]
        before = sum(host.published for host in first)
        await self.join(first, blob)
        deadline = time.monotonic() + ANSWER_BOUND_S
        while sum(host.published for host in first) - before < PIECES:
            if time.monotonic() > deadline:
                raise UnmeasurableError("the scheduler did not lease all pieces")
            await asyncio.sleep(0.01)
        await self.settle(first)
        await self.settle(first)  # the answers to the spot checks of what the first round has published
        return rest

    async def join(self, hosts: Sequence[LoadHost], blob: bytes) -> None:
        """Join as fast as the scheduler answers, `AT_ONCE` hosts at a time."""
        message = frame(_BINARY, FROM_HOST.encode(Join(blob, "docker.io", "library/app", SIZE_BYTES)))
        waiting = iter(hosts)

        def joins_next() -> None:
            if (following := next(waiting, None)) is not None:
                following.joins(message)

        joined = self._answers_of(hosts, lambda _: joins_next())
        for _ in range(min(AT_ONCE, len(hosts))):
            joins_next()
        await self._all(joined)

    async def join_at(self, hosts: Sequence[LoadHost], blob: bytes, per_s: float) -> list[float]:
        """Join at an even rate, also if the scheduler falls behind; returns each host's wait in seconds."""
        message = frame(_BINARY, FROM_HOST.encode(Join(blob, "docker.io", "library/app", SIZE_BYTES)))
        joined = self._answers_of(hosts)
        started = time.perf_counter()
        sent = 0
        while sent < len(hosts):
            due = min(len(hosts), int((time.perf_counter() - started) * per_s) + 1)
            for host in hosts[sent:due]:
                host.joins(message)
            sent = due
            await asyncio.sleep(1 / per_s)
        await self._all(joined)
        return [host.joined_at - host.asked_at for host in hosts]

    async def progress(self, blob: bytes, reports: Sequence[bytes]) -> None:
        """Let every host report these bitfields, one after the other."""
        messages = [Progress(blob, 1, have) for have in reports]
        done = self._answers_of(self.hosts)
        for number, host in enumerate(self.hosts):
            host.says(*messages)
            host.ping()
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        await self._all(done)

    async def settle(self, hosts: Sequence[LoadHost]) -> None:
        """Wait until the scheduler has handled all messages of these hosts."""
        done = self._answers_of(hosts)
        for host in hosts:
            host.ping()
        await self._all(done)

    def leave(self) -> None:
        """Close all connections."""
        for host in self.hosts:
            host.leave()

    def _answers_of(
        self, hosts: Sequence[LoadHost], then: Callable[[LoadHost], None] = _nothing
    ) -> asyncio.Future[None]:
        """A future that is done when each of these hosts has got one answer."""
        done = asyncio.get_running_loop().create_future()
        missing = len(hosts)

        def answered(host: LoadHost) -> None:
            nonlocal missing
            host.on_answer = _nothing
            missing -= 1
            then(host)
            if missing == 0:
                done.set_result(None)

        for host in hosts:
            host.on_answer = answered
        return done

    async def _all(self, answers: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(ANSWER_BOUND_S):
                await answers
        except TimeoutError:
            lost = _first_lost(self.hosts)
            raise UnmeasurableError(f"not all hosts had an answer in {ANSWER_BOUND_S:g} s; {lost}") from None


def _first_lost(hosts: Iterable[LoadHost]) -> str:
    return next((str(host.lost) for host in hosts if host.lost is not None), "all are still connected")


def allow_connections(count: int) -> None:
    """Raise the limit of this process and its children to this many connections. Raises UnmeasurableError."""
    wanted = count + 256  # and a reserve for other files
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UnmeasurableError(f"{wanted} open files are needed and {hard} are allowed: raise `ulimit -Hn`")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
