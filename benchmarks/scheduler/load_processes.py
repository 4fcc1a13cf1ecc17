"""Hosts in several processes: one process has only so many files open, and is one core.

Rules:
1. Hosts are divided into parties. A party is at one scheduler, wants the same blobs, and is in one process.
2. A process does what it is told with all its parties: at all schedulers at once, at each with one party after the
   other. Between two orders its hosts go on answering pings.
3. Each host connects from an address of its own, as hosts do. A scheduler counts hosts without certificates by it.
4. A process ends with the one that started it.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import uvloop

from benchmarks.command import UnmeasurableError
from benchmarks.scheduler.load_hosts import FIRST_HOSTS, LoadHosts, allow_connections
from scheduler.protocol.from_host import FEATURES

STOP_BOUND_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Party:
    """Some hosts, the scheduler that they are at, and their blobs. `first` is the number of the first host."""

    address: str
    first: int
    hosts: int
    held: tuple[bytes, ...]
    """What each of them holds from the start."""
    wanted: tuple[bytes, ...]
    """What each of them wants, one after the other."""
    own: tuple[bytes, ...]
    """Of each of its first hosts, one blob that no other host wants."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What some hosts have sent and received. `lost` connections have ended, `failures` are blobs that have failed."""

    connected: int
    said: int
    heard: int
    lost: int
    failures: int
    why: str
    """Of a connection that has ended."""


def source_of(number: int) -> str:
    """The loopback address of a host by its number, of 127.1.0.1 and beyond."""
    number += 1
    return f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


class _Guests:
    """A party's hosts. Each method is what the process may be told to do."""

    def __init__(self, party: Party) -> None:
        self._party = party
        self._crowd = LoadHosts(
            party.address,
            party.hosts,
            f"host-{party.first}",
            sources=lambda number: source_of(party.first + number),
            features=FEATURES,
            tolerant=True,
        )

    @property
    def address(self) -> str:
        return self._party.address

    async def connect(self) -> None:
        await self._crowd.connect()
        await self._crowd.settle(self._crowd.hosts)

    async def announce(self) -> None:
        await self._crowd.announce(self._party.held)

    async def first_join(self, wanted: int) -> None:
        await self._crowd.first_join(self._party.wanted[wanted])

    async def join(self, wanted: int) -> None:
        await self._crowd.join(self._crowd.hosts[FIRST_HOSTS:], self._party.wanted[wanted])
        await self._crowd.settle(self._crowd.hosts)

    async def join_at(self, wanted: int, hosts: int, per_s: float) -> list[float]:
        some = self._crowd.hosts[FIRST_HOSTS : FIRST_HOSTS + hosts]
        return await self._crowd.join_at(some, self._party.wanted[wanted], per_s)

    async def progress(self, wanted: int, reports: Sequence[bytes]) -> None:
        await self._crowd.progress(self._party.wanted[wanted], reports)

    async def seal(self, wanted: int) -> None:
        await self._crowd.seal(self._party.wanted[wanted])

    async def give_up(self, wanted: int) -> None:
        await self._crowd.give_up(self._party.wanted[wanted])

    async def join_own(self, size_bytes: int) -> None:
        await self._crowd.join_own(self._party.own, size_bytes)

    async def counts(self) -> Counts:
        hosts = self._crowd.hosts
        lost = [host for host in hosts if not host.is_connected]
        return Counts(
            len(hosts) - len(lost),
            sum(host.said for host in hosts),
            sum(host.heard for host in hosts),
            len(lost),
            sum(host.failures for host in hosts),
            str(lost[0].lost) if lost else "",
        )

    async def leave(self) -> None:
        self._crowd.leave()


class LoadProcesses:
    """The processes, as the one sees them that tells them what to do."""

    def __init__(self, pipes: Sequence[Connection], pids: Sequence[int], parallel: int) -> None:
        self._pipes = pipes
        self.pids: Final = pids
        self.parallel: Final = parallel
        """How many parties do at a time what they are told."""

    def do(self, what: Callable[..., Coroutine[Any, Any, Any]], *arguments: object) -> list[Any]:
        """Let every party do this (a method of `_Guests`) and give each party's result. Raises UnmeasurableError."""
        for pipe in self._pipes:
            pipe.send((what.__name__, arguments))
        answers = []
        for pipe in self._pipes:
            try:
                answers.append(pipe.recv())
            except EOFError:
                raise UnmeasurableError("a process of the load has ended; more is above") from None
        for answer in answers:
            if isinstance(answer, Exception):
                raise UnmeasurableError(str(answer)) from answer
        return [result for answer in answers for result in answer]


@contextmanager
def load_processes(parties: Sequence[Party], count: int) -> Iterator[LoadProcesses]:
    """So many processes that have the parties among them, with hosts that are not connected yet."""
    context = multiprocessing.get_context("spawn")
    ours, processes = [], []
    try:
        for number in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_run, args=(there, parties[number::count]), daemon=True)
            process.start()
            there.close()
            ours.append(here)
            processes.append(process)
        parallel = len({(at % count, party.address) for at, party in enumerate(parties)})
        yield LoadProcesses(ours, [process.pid or 0 for process in processes], parallel)
    finally:
        for pipe in ours:
            pipe.close()
        for process in processes:
            process.join(STOP_BOUND_S)
            process.kill()
            process.join()


def _run(pipe: Connection, parties: Sequence[Party]) -> None:
    os.setsid()  # Ctrl-C is the first process's, and Linux gives each session its share of the cores
    allow_connections(sum(party.hosts for party in parties))
    gc.disable()  # there are no cycles to speak of, and a collection of so many objects stops all hosts
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(pipe, [_Guests(party) for party in parties]))


async def _serve(pipe: Connection, guests: Sequence[_Guests]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            name, arguments = await loop.run_in_executor(None, pipe.recv)
        except (EOFError, OSError):
            return
        answer: list[Any] | Exception
        try:
            answer = await _do(guests, name, arguments)
        except (UnmeasurableError, OSError) as error:
            answer = error
        pipe.send(answer)


async def _do(guests: Sequence[_Guests], name: str, arguments: tuple[object, ...]) -> list[Any]:
    async def at(address: str) -> list[Any]:
        return [await getattr(each, name)(*arguments) for each in guests if each.address == address]

    found = await asyncio.gather(*(at(address) for address in dict.fromkeys(each.address for each in guests)))
    return [result for results in found for result in results]


CONNECT: Final = _Guests.connect
ANNOUNCE: Final = _Guests.announce
FIRST_JOIN: Final = _Guests.first_join
JOIN: Final = _Guests.join
JOIN_AT: Final = _Guests.join_at
PROGRESS: Final = _Guests.progress
SEAL: Final = _Guests.seal
GIVE_UP: Final = _Guests.give_up
JOIN_OWN: Final = _Guests.join_own
COUNTS: Final = _Guests.counts
LEAVE: Final = _Guests.leave
