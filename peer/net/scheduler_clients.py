"""The host's connections to schedulers: one client for each URL at which a connection is wanted.

1. What comes, and what happens to a connection, is an event for the host's machine, with the URL. Of a client that is
   not wanted any more nothing is told.
2. A message about a blob goes to the scheduler that the blob is at (`peer.core.scheduler_set`).
3. With certificates, all schedulers are spoken to over TLS, also those that a list names otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from peer.core import events
from peer.core.events import Event
from peer.net.scheduler_client import SchedulerClient
from peer.tasks import BackgroundTasks
from scheduler.protocol.codec import FromHost, ToHost
from scheduler.protocol.from_host import LONG_PIECES, PIECE_LENGTH, Hello
from scheduler.protocol.to_host import Schedulers, Welcome

if TYPE_CHECKING:
    from peer.trust.host_trust import HostTrust


@dataclass(frozen=True, slots=True)
class SchedulerConnection:
    """A scheduler to which a connection is wanted, for the operator.

    `blobs`: how many of this host's blobs are there. `out_s`: for how long there has been none; None while there is
    one, and before the first attempt. `last_error`: the latest failure to reach or to keep it, and
    `last_error_age_s` how long ago that was.
    """

    url: str
    connected: bool
    blobs: int
    out_s: float | None
    last_error: str
    last_error_age_s: float | None


class SchedulerClients:
    """On the event loop. `feed` takes the events; `on_welcome` and `on_lost` are told the same by URL, before that."""

    def __init__(
        self,
        hello: Callable[[], Hello],
        feed: Callable[[Event], None],
        tasks: BackgroundTasks,
        *,
        on_welcome: Callable[[str, Welcome], None],
        on_lost: Callable[[str], None],
        on_cloned: Callable[[], None],
        trust: HostTrust | None = None,
    ) -> None:
        """`on_cloned` is called when another machine uses this host's id: the next Hello needs another one."""
        self._hello = hello
        self._feed = feed
        self._tasks = tasks
        self._on_welcome = on_welcome
        self._on_lost = on_lost
        self._on_cloned = on_cloned
        self._trust = trust
        self._clients: dict[str, SchedulerClient] = {}
        self._closing: dict[str, SchedulerClient] = {}
        """The latest client of each URL that was closed."""
        self._messages = 0
        """Of clients that are closed."""
        self.several = False
        """Whether there are other schedulers, to which blobs move from one that is lost or silent."""

    @property
    def connected(self) -> list[str]:
        """The URLs at which there is a connection."""
        return [url for url, client in self._clients.items() if client.connected]

    @property
    def messages(self) -> int:
        """Sent and received, without those that begin a connection."""
        return self._messages + sum(client.messages for client in self._clients.values())

    def keep(self, urls: Iterable[str]) -> None:
        """Keep a connection to each of these, and to no other."""
        wanted = list(urls)
        for url in [url for url in self._clients if url not in wanted]:
            client = self._closing[url] = self._clients.pop(url)
            self._on_lost(url)
            self._messages += client.messages
            client.close()
        for url in wanted:
            if url not in self._clients:
                client = self._clients[url] = SchedulerClient(url, self._hello, self, self._trust)
                client.several = self.several
                self._tasks.start(self._run(client, self._closing.get(url)))

    async def _run(self, client: SchedulerClient, before: SchedulerClient | None) -> None:
        """A connection of this host that ends must be gone: a scheduler takes one of each host."""
        try:
            if before is not None:
                await before.ended.wait()
            await client.run()
        finally:
            if self._closing.get(client.url) is client:
                del self._closing[client.url]

    def tell(self, url: str, message: FromHost) -> None:
        """Send a message, soon and in order; nothing if there is no connection to that scheduler now."""
        client = self._clients.get(url)
        if client is not None:
            client.tell(message)

    def reopen(self) -> None:
        """Make all connections anew: this host has another id."""
        for client in self._clients.values():
            client.reopen()

    def facts(self, blobs_at: Callable[[str], int]) -> list[SchedulerConnection]:
        """Each scheduler to which a connection is wanted."""
        now = asyncio.get_running_loop().time()
        return [
            SchedulerConnection(
                url=url,
                connected=client.connected,
                blobs=blobs_at(url),
                out_s=None if client.log.out_since is None else now - client.log.out_since,
                last_error="" if client.log.trouble is None else client.log.trouble.cause,
                last_error_age_s=None if client.log.trouble is None else now - client.log.trouble.at,
            )
            for url, client in self._clients.items()
        ]

    # Of a client: `peer.net.scheduler_client.ConnectionOwner`

    def found(self, client: SchedulerClient, welcome: Welcome, listed: Schedulers | None) -> None:
        """The scheduler has let this host in."""
        if self._is_wanted(client):
            self._on_welcome(client.url, welcome)
            listed = None if listed is None else self._of(listed)
            divides, lengthens = PIECE_LENGTH in welcome.features, LONG_PIECES in welcome.features
            found = events.SchedulerFound(welcome.progress_s, welcome.max_blobs, client.url, listed, divides, lengthens)
            self._feed(found)

    def heard(self, client: SchedulerClient, message: ToHost) -> None:
        """The scheduler has sent a message."""
        if self._is_wanted(client):
            told = self._of(message) if isinstance(message, Schedulers) else message
            self._feed(events.FromScheduler(told, client.url))

    def lost(self, client: SchedulerClient, *, stops: bool) -> None:
        """The connection has ended."""
        if self._is_wanted(client):
            self._on_lost(client.url)
            self._feed(events.SchedulerLost(client.url, stops))

    def failed(self, client: SchedulerClient) -> None:
        """The scheduler was not reached, or did not let this host in."""
        if self._is_wanted(client):
            self._feed(events.SchedulerFailed(client.url))

    def cloned(self) -> None:
        """Another machine uses this host's id."""
        self._on_cloned()

    def _is_wanted(self, client: SchedulerClient) -> bool:
        return self._clients.get(client.url) is client

    def _of(self, listed: Schedulers) -> Schedulers:
        self.several = len(listed.schedulers) > 1
        for client in self._clients.values():
            client.several = self.several
        if self._trust is None:
            return listed
        secure = tuple(replace(each, url=f"https://{each.url.partition('://')[2]}") for each in listed.schedulers)
        return replace(listed, schedulers=secure)
