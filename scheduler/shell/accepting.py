"""Accepts the connections of every port of p2pd: the scheduler's, and the three of a node.

The event loops' own servers fail when the process is out of open files or memory. aiofastnet 1.2 raises in its accept
callback and is called again at once: thousands of tracebacks a second, and a busy core. uvloop 0.23 closes the
listening socket. So the accept loop is here:

1. Out of files or memory, nothing is accepted for `PAUSE_S`. The log says so now and then.
2. A port has at most `most` connections, so that the connections to one port leave files for all others. Further
   connections wait in the kernel's queue.
3. What was accepted stays open when the block ends. Its owner closes it.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import structlog

log = structlog.get_logger(__name__)

BACKLOG: Final = 1024
PAUSE_S: Final = 1.0
FULL_S: Final = 0.1
"""How long a port that has its maximum of connections waits before it looks again."""

TOLD_EVERY_S: Final = 10.0
EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ACCEPTED_AT_ONCE: Final = 64
"""Connections that are accepted before other events get their turn."""

SHARE: Final = 4
"""One in four of the process's files may be the connections of one port."""

UNBOUNDED: Final = 1 << 20

Factory = Callable[[], asyncio.BaseProtocol]

Connect = Callable[[Factory, socket.socket], Awaitable[object]]
"""Gives a connected socket to a new protocol: `connect_accepted_socket` of a loop."""


@asynccontextmanager
async def accepting(
    host: str,
    port: int,
    factory: Factory,
    *,
    open_count: Callable[[], int],
    most: int | None = None,
    connect: Connect | None = None,
) -> AsyncIterator[tuple[str, int]]:
    """Accept connections while the block lasts; yields the host and the port, which the system chooses if it is 0.

    `open_count` gives the connections that `factory`'s protocols have now, `most` the most that there may be (by
    default, a share of the process's files). `connect` replaces the running loop's. Raises OSError if the address
    cannot be listened at.
    """
    sockets = await _listening(host, port)
    begin = partial(connect or asyncio.get_running_loop().connect_accepted_socket, factory)
    acceptor = _Acceptor(sockets, begin, open_count, share_of_files() if most is None else most)
    acceptor.go_on()
    try:
        yield sockets[0].getsockname()[:2]
    finally:
        acceptor.close()


def share_of_files() -> int:
    """The most connections of one port."""
    return max(1, open_files() // SHARE)


def open_files() -> int:
    """The files that this process may have open."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return UNBOUNDED if files == resource.RLIM_INFINITY else files


class _Acceptor:
    def __init__(
        self,
        sockets: list[socket.socket],
        begin: Callable[[socket.socket], Awaitable[object]],
        open_count: Callable[[], int],
        most: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = sockets
        self._begin_with = begin
        self._open_count = open_count
        self._most = most
        self._beginning: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._told_at = -TOLD_EVERY_S

    def go_on(self) -> None:
        """Accept from now on."""
        self._pause = None
        for each in self._sockets:
            self._loop.add_reader(each.fileno(), self._accept, each)

    def close(self) -> None:
        """Accept nothing more."""
        if self._pause is None:
            self._stop()
        else:
            self._pause.cancel()
        for each in self._sockets:
            each.close()

    def _stop(self) -> None:
        for each in self._sockets:
            self._loop.remove_reader(each.fileno())

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if self._open_count() + len(self._beginning) >= self._most:
                self._rest(listening, f"it has {self._most} connections", FULL_S)
                return
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._rest(listening, error.strerror or str(error), PAUSE_S)
                    return
                continue  # the error of a connection that has ended already (accept(2), "Error handling")
            connection.setblocking(False)
            task = self._loop.create_task(self._begin(connection))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    def _rest(self, listening: socket.socket, reason: str, for_s: float) -> None:
        """Leave new connections in the kernel's queue for a moment."""
        now = self._loop.time()
        if now - self._told_at >= TOLD_EVERY_S:
            self._told_at = now
            log.warning("a port takes no connections for now", port=listening.getsockname()[1], reason=reason)
        self._stop()
        self._pause = self._loop.call_later(for_s, self.go_on)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._begin_with(connection)
        except OSError as error:
            connection.close()
            log.debug("a connection ended as it began", reason=str(error))


async def _listening(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of `host`. With port 0, all sockets have the port that the first one is given."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                listening = socket.socket(family, kind, protocol)
            except OSError:
                continue  # the system has no IPv6
            sockets.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken = sockets[0].getsockname()[1] if len(sockets) > 1 else port
            listening.bind((address[0], taken, *address[2:]))
            listening.listen(BACKLOG)
            listening.setblocking(False)
        if not sockets:
            raise OSError(errno.EADDRNOTAVAIL, f"{host} has no address to listen at")
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return sockets
