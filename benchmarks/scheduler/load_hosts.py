"""Load for the scheduler: any number of hosts, in this process, each with a connection of its own.

The end of a connection, for any reason, ends the measure, unless the hosts are tolerant: then those that are lost are
counted, and the others go on.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from benchmarks.command import UnmeasurableError
from benchmarks.scheduler.load_host import LoadHost, framed, nothing
from scheduler.protocol.codec import FromHost
from scheduler.protocol.from_host import Announce, Holding, Join, Leave, Progress, Sealed
from scheduler.protocol.geometry import piece_count, piece_length
from scheduler.shell.server import MAX_REFUSED, SPARE_FILES

SIZE_BYTES: Final = 2**30
PIECES: Final = piece_count(SIZE_BYTES, piece_length(SIZE_BYTES))
FIRST_HOSTS: Final = 20
"""The hosts that join first and publish the blob's pieces. Every later host then gets the digests of all pieces."""

REPORTS: Final = 4

AT_ONCE: Final = 64
"""Connections under way at a time, or joins without answer. With that many the scheduler always has work."""

ANSWER_BOUND_S: Final = 120.0
"""How long no host at all may have an answer."""


class LoadHosts:
    """All hosts. Each method returns when the last host has its answer; it raises UnmeasurableError if one has none."""

    def __init__(
        self,
        address: str,
        count: int,
        name: str = "host",
        protocol: Callable[[LoadHost, int], asyncio.BaseProtocol] = lambda host, _: host,
        *,
        sources: Callable[[int], str] | None = None,
        features: tuple[str, ...] = (),
        tolerant: bool = False,
    ) -> None:
        """`protocol` gives what stands between the socket and a host, which it gets with its number. `sources` gives
        the address that each host, by its number, connects from. `tolerant` ones go on when some of them are lost.
        """
        self.address = address
        self._address, _, port = address.rpartition(":")
        self._port = int(port)
        self._protocol = protocol
        self._sources = sources
        self._tolerant = tolerant
        self.hosts = [LoadHost(f"{name}-{number}", features) for number in range(count)]

    @property
    def pings(self) -> int:
        """The heartbeats that all hosts have answered."""
        return sum(host.pings for host in self.hosts)

    async def connect(self) -> None:
        """Connect all hosts, and send Hello."""
        loop = asyncio.get_running_loop()
        for first in range(0, len(self.hosts), AT_ONCE):
            some = self.hosts[first : first + AT_ONCE]
            welcomed = self._answers_of(some)
            for number, host in enumerate(some, first):
                source = None if self._sources is None else (self._sources(number), 0)
                await loop.create_connection(
                    partial(self._protocol, host, number), self._address, self._port, local_addr=source
                )
            await self._all(welcomed)

    async def first_join(self, blob: bytes) -> Sequence[LoadHost]:
        """Let a few hosts join a blob's swarm and publish its pieces; returns the other hosts."""
        first, rest = self.hosts[:FIRST_HOSTS], self.hosts[FIRST_HOSTS:]
        before = sum(host.published for host in first)
        await self.join(first, blob)
        await self._published(first, before + PIECES)
        await self.settle(first)
        await self.settle(first)  # the answers to the spot checks of what the first round has published
        return rest

    async def _published(self, hosts: Sequence[LoadHost], pieces: int) -> None:
        """Wait until these hosts have published so many pieces since they connected."""
        before, changed_at = 0, time.monotonic()
        while (published := sum(host.published for host in hosts)) < pieces:
            if published != before:
                before, changed_at = published, time.monotonic()
            if time.monotonic() - changed_at > ANSWER_BOUND_S:
                raise UnmeasurableError("the scheduler did not lease all pieces")
            await asyncio.sleep(0.01)

    async def join(self, hosts: Sequence[LoadHost], blob: bytes) -> None:
        """Join as fast as the scheduler answers, `AT_ONCE` hosts at a time."""
        message = _join(blob, SIZE_BYTES)
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
        message = _join(blob, SIZE_BYTES)
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
        return [host.joined_at - host.asked_at for host in hosts if host.joined_at > host.asked_at]

    async def progress(self, blob: bytes, reports: Sequence[bytes]) -> None:
        """Let every host report these bitfields, one after the other."""
        await self.say([Progress(blob, 1, have) for have in reports])

    async def announce(self, blobs: Sequence[bytes]) -> None:
        """Let every host say that it holds these blobs."""
        await self.say([Announce(tuple(Holding(blob, SIZE_BYTES, complete=True) for blob in blobs))])

    async def seal(self, blob: bytes) -> None:
        """Let every host say that it has the whole blob."""
        await self.say([Sealed(blob, 1)])

    async def give_up(self, blob: bytes) -> None:
        """Let every host leave a blob's swarm."""
        await self.say([Leave(blob)])

    async def say(self, messages: Sequence[FromHost]) -> None:
        """Let every host send these messages, `AT_ONCE` hosts at a time."""
        frames = [framed(message) for message in messages]
        waiting = iter(self.hosts)

        def says_next() -> None:
            if (following := next(waiting, None)) is not None:
                following.sends(frames)
                following.ping()

        done = self._answers_of(self.hosts, lambda _: says_next())
        for _ in range(min(AT_ONCE, len(self.hosts))):
            says_next()
        await self._all(done)

    async def join_own(self, blobs: Sequence[bytes], size_bytes: int) -> None:
        """Let the first hosts join one of these blobs each, alone, and publish all its pieces."""
        pieces = piece_count(size_bytes, piece_length(size_bytes))
        for first in range(0, len(blobs), AT_ONCE):
            some = self.hosts[first : first + AT_ONCE][: len(blobs) - first]
            before = [host.published for host in some]
            joined = self._answers_of(some)
            for host, blob in zip(some, blobs[first:], strict=False):
                host.joins(_join(blob, size_bytes))
            await self._all(joined)
            await self._published(some, sum(before) + pieces * len(some))

    async def settle(self, hosts: Sequence[LoadHost]) -> None:
        """Wait until the scheduler has handled all messages of these hosts."""
        done = self._answers_of(hosts)
        for host in hosts:
            host.sends(())
            host.ping()
        await self._all(done)

    def leave(self) -> None:
        """Close all connections."""
        for host in self.hosts:
            host.leave()

    def _answers_of(self, hosts: Sequence[LoadHost], then: Callable[[LoadHost], None] = nothing) -> _Answers:
        """What is done when each of these hosts has got one answer."""
        answers = _Answers(len(hosts), then)
        for host in hosts:
            host.on_answer = answers.came
        return answers

    async def _all(self, answers: _Answers) -> None:
        while not answers.done.done():
            missing = answers.missing
            await asyncio.wait([answers.done], timeout=ANSWER_BOUND_S)
            if answers.missing == missing and missing:
                why = _first_lost(self.hosts) or "all are still connected"
                raise UnmeasurableError(f"no host had an answer in {ANSWER_BOUND_S:g} s, and {missing} wait; {why}")
        if not self._tolerant and (lost := _first_lost(self.hosts)):
            raise UnmeasurableError(lost)


class _Answers:
    """One answer for each of some hosts."""

    def __init__(self, hosts: int, then: Callable[[LoadHost], None]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.missing = hosts
        self._then = then
        if not hosts:
            self.done.set_result(None)

    def came(self, host: LoadHost) -> None:
        host.on_answer = nothing
        self.missing -= 1
        self._then(host)
        if self.missing == 0:
            self.done.set_result(None)


def _first_lost(hosts: Iterable[LoadHost]) -> str:
    return next((str(host.lost) for host in hosts if host.lost is not None), "")


def reports() -> list[bytes]:
    """The bitfields that a host reports while it pulls: more and more pieces, in random places."""
    return [
        sum(1 << piece for piece in range(PIECES) if piece % REPORTS <= number).to_bytes((PIECES + 7) // 8, "little")
        for number in range(REPORTS)
    ]


def _join(blob: bytes, size_bytes: int) -> bytes:
    return framed(Join(blob, "docker.io", "library/app", size_bytes))


def allow_connections(count: int) -> None:
    """Raise the limit of this process and its children to this many connections. Raises UnmeasurableError."""
    wanted = count + SPARE_FILES + MAX_REFUSED  # those that a scheduler keeps
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UnmeasurableError(f"{wanted} open files are needed and {hard} are allowed: raise `ulimit -Hn`")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
