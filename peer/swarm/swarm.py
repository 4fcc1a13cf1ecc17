"""The host in its swarms: carries messages between scheduler, links and downloads, and speaks for whole blobs.

A blob that is on its way has a member core (`peer.core.member`), which decides. A blob that is held whole needs no
decisions: here it is announced, told to neighbours, served, and taken back when it is evicted.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from peer.core.choker import UploadRequest
from peer.core.neighbours import FAR
from peer.core.recalling import answers
from peer.core.swarm_events import (
    Event,
    FromNeighbour,
    FromScheduler,
    NeighbourLost,
    OriginOpened,
    SchedulerFound,
)
from peer.errors import StoreError
from peer.origin.client import HttpOrigin
from peer.store import Blob, Store
from peer.swarm.fetching import neighbour_origin
from peer.swarm.links import Links
from peer.swarm.scheduler_client import SchedulerClient
from peer.swarm.tags import TagLookups
from peer.tasks import BackgroundTasks
from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.codec import FromHost, OnLink, ToHost
from scheduler.protocol.fields import MAX_HOLDINGS_PER_MESSAGE, MAX_INLINE_BYTES
from scheduler.protocol.inline_blob import InlineBlob

log = structlog.get_logger("peer.swarm")

MAX_ORIGINS = 256
"""Neighbours whose connections are kept at a time."""


class Active(Protocol):
    """The downloads of this host, as its swarms see them."""

    def feed_swarm(self, digest: bytes, event: Event) -> bool:
        """Give an event to the download of a blob; False if there is none."""
        ...

    def feed_all(self, event: Event) -> None: ...

    def active_holdings(self) -> Iterable[from_host.Holding]:
        """What downloads that are under way hold and may serve."""
        ...

    def active_holds(self, digest: bytes) -> link.Bitfield | None: ...

    def serving(self, digest: bytes, start: int, stop: int) -> Blob | None:
        """The blob of a download if it may serve these bytes; pinned."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this host is to others. `patience_s` is how long it does without a scheduler until the origin is open."""

    host: str
    site: str = ""
    zone: str = ""
    rack: str = ""
    upload_slots: int = 3
    patience_s: float = 3.0
    token: str = ""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Messages since the start: to neighbours, and to and from the scheduler."""

    link_messages: int
    scheduler_messages: int


class Swarm:
    """Everything between the downloads and the other hosts. On the event loop."""

    def __init__(
        self, identity: Identity, schedulers: Sequence[str], store: Store, background: BackgroundTasks
    ) -> None:
        self.identity = identity
        self._store = store
        self._background = background
        self._active: Active | None = None
        self._origins: OrderedDict[str, tuple[str, HttpOrigin]] = OrderedDict()
        self._addresses: dict[str, str] = {}
        self._distances: dict[str, int] = {}
        self._met: dict[bytes, set[str]] = {}
        self._answered: set[tuple[str, bytes]] = set()
        self._address = ""
        self._loop = asyncio.get_running_loop()
        self._alone = False
        self._patience: asyncio.TimerHandle | None = None
        self.links = Links(
            identity.host, background, on_message=self._from_link, on_up=self._link_up, on_lost=self._link_lost
        )
        self._scheduler = SchedulerClient(
            schedulers,
            self._hello,
            self._announcements,
            on_message=self._from_scheduler,
            on_found=self._found,
            on_lost=self._lost,
        )
        self.tags = TagLookups(self.tell, lambda: self.connected, patience_s=identity.patience_s)

    def start(self, active: Active, address: str) -> None:
        """Begin to look for a scheduler, on behalf of the downloads. Other hosts reach the peer port at `address`."""
        self._active = active
        self._address = address
        self._wait_for_scheduler()
        self._background.start(self._scheduler.run())

    async def close(self) -> None:
        """End all links and connections."""
        if self._patience is not None:
            self._patience.cancel()
        await self.links.close()
        for _, origin in self._origins.values():
            origin.close()

    # -- for the downloads -----------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """There is a scheduler to join at."""
        return self._scheduler.connected

    @property
    def alone(self) -> bool:
        """There has been no scheduler for so long that the origin is open."""
        return self._alone

    def statistics(self) -> Statistics:
        return Statistics(self.links.sent_messages, self._scheduler.messages)

    def tell(self, message: FromHost) -> None:
        """Send a message to the scheduler, if there is one."""
        self._scheduler.tell(message)

    def tell_neighbours(self, hosts: Iterable[str], message: link.LinkMessage) -> None:
        for host in hosts:
            self.links.send(host, message)

    def add_neighbour(self, digest: bytes, neighbour: to_host.Neighbour) -> None:
        """Have a link to a neighbour of this blob's swarm, and tell it what is held."""
        self._addresses[neighbour.host] = neighbour.address
        self._distances[neighbour.host] = neighbour.distance
        self._met.setdefault(digest, set()).add(neighbour.host)
        if self.links.want(neighbour.host, neighbour.address, digest):
            self._introduce(neighbour.host, digest)

    def remove_neighbour(self, digest: bytes, host: str) -> None:
        """The blob's swarm has no link to `host` any more."""
        self._met.get(digest, set()).discard(host)
        self._answered.discard((host, digest))
        self.links.unwant(host, digest)

    def forget(self, digest: bytes) -> None:
        """This host neither wants nor holds the blob any more."""
        self.tell(from_host.Leave(digest))
        for host in self._met.pop(digest, set()):
            self.links.send(host, link.DontHave(digest))
            self._answered.discard((host, digest))
            self.links.unwant(host, digest)

    def send_unchoke(self, receiver: UploadRequest) -> None:
        """This host was too busy for a piece that another one wanted, and has room now."""
        self.links.send(receiver.host, link.Unchoke(receiver.digest))

    def is_far(self, host: str) -> bool:
        """Whether a neighbour is in another site, as far as this host knows."""
        return self._distances.get(host) == FAR

    def removed(self, digest: str) -> None:
        """The store has removed a blob: take back what was said of it. From any thread."""
        self._loop.call_soon_threadsafe(self._removed, digest)

    def _removed(self, name: str) -> None:
        assert self._active is not None
        digest = bytes.fromhex(name.removeprefix("sha256:"))
        if self._store.peek(name) is None and self._active.active_holds(digest) is None:
            self.forget(digest)

    def origin(self, host: str) -> HttpOrigin | None:
        """The client for a neighbour's peer port."""
        address = self._addresses.get(host)
        if address is None:
            return None
        known = self._origins.pop(host, None)
        if known is not None and known[0] != address:
            known[1].close()
            known = None
        self._origins[host] = known or (address, neighbour_origin(host, address, self.identity.host))
        while len(self._origins) > MAX_ORIGINS:
            self._origins.popitem(last=False)[1][1].close()
        return self._origins[host][1]

    @contextmanager
    def servable(self, digest: str, start: int, stop: int) -> Iterator[Blob | None]:
        """For the peer port: the blob, pinned, if these bytes of it may be served to other hosts."""
        assert self._active is not None
        blob = self._active.serving(bytes.fromhex(digest.removeprefix("sha256:")), start, stop)
        if blob is None:
            held = self._store.peek(digest)
            whole = held is not None and held.complete and stop <= held.size_bytes
            blob = self._store.acquire(digest) if whole else None
        if blob is None:
            yield None
            return
        try:
            yield blob
        finally:
            blob.release()

    # -- the scheduler ---------------------------------------------------------------------------------------------

    def _hello(self) -> from_host.Hello:
        who = self.identity
        return from_host.Hello(
            host=who.host,
            oldest=from_host.VERSION_OLDEST,
            newest=from_host.VERSION_NEWEST,
            address=self._address,
            site=who.site,
            zone=who.zone,
            rack=who.rack,
            upload_slots=who.upload_slots,
            token=who.token,
        )

    def _announcements(self) -> Iterator[FromHost]:
        """All that this host holds, so that a scheduler that has restarted knows it again."""
        assert self._active is not None
        holdings = list(self._active.active_holdings())
        active = {holding.digest for holding in holdings}
        for blob in self._store.blobs():
            digest = bytes.fromhex(blob.digest.removeprefix("sha256:"))
            if blob.complete and blob.size_bytes and digest not in active:
                holdings.append(from_host.Holding(digest, blob.size_bytes, complete=True))
        for first in range(0, len(holdings), MAX_HOLDINGS_PER_MESSAGE):
            yield from_host.Announce(tuple(holdings[first : first + MAX_HOLDINGS_PER_MESSAGE]))

    def _found(self) -> None:
        log.info("connected to a scheduler")
        self._alone = False
        if self._patience is not None:
            self._patience.cancel()
        assert self._active is not None
        self._active.feed_all(SchedulerFound())

    def _lost(self) -> None:
        self.tags.scheduler_lost()
        self._wait_for_scheduler()

    def _wait_for_scheduler(self) -> None:
        self._patience = asyncio.get_running_loop().call_later(self.identity.patience_s, self._stand_alone)

    def _stand_alone(self) -> None:
        log.warning("no scheduler for too long: the origin is asked without one", patience_s=self.identity.patience_s)
        self._alone = True
        assert self._active is not None
        self._active.feed_all(OriginOpened())

    def _from_scheduler(self, message: ToHost) -> None:
        match message:
            case to_host.Quarantined(reason, for_s):
                log.error("the scheduler has quarantined this host", reason=reason, for_s=for_s)
            case to_host.TagResolve() | to_host.TagResult():
                self.tags.on_message(message)
            case to_host.Welcome():
                pass
            case _:
                assert self._active is not None
                if not self._active.feed_swarm(message.digest, FromScheduler(message)):
                    self._speak_for_whole(message.digest, message)

    def _speak_for_whole(self, digest: bytes, message: ToHost) -> None:
        """What the scheduler says of a blob that is not on its way: it is here, or it was."""
        match message:
            case to_host.Neighbours(_, add, remove):
                for host in remove:
                    self.remove_neighbour(digest, host)
                for neighbour in add:
                    self.add_neighbour(digest, neighbour)
            case to_host.Lease(lease, _):
                held = self._store.peek(f"sha256:{digest.hex()}")
                if held is not None and held.complete:
                    self.tell(from_host.LeaseEnded(lease, digest, from_host.LeaseOutcome.RETURNED))
                else:  # it was wanted here, and is no longer: the lease goes back with the membership
                    self.tell(from_host.Leave(digest))
            case to_host.RequestDigests():
                self._background.start(self._recall(digest))
            case _:
                pass

    async def _recall(self, digest: bytes) -> None:
        """Tell the digests of a whole blob's pieces, or all of a tiny one, as its record has them."""
        for answer in await asyncio.to_thread(self._recalled, digest):
            self.tell(answer)

    def _recalled(self, digest: bytes) -> Sequence[FromHost]:
        nothing = answers(digest, {})
        try:
            blob = self._store.acquire(f"sha256:{digest.hex()}")
            if blob is None:
                return nothing
            try:
                if not blob.whole:
                    return nothing
                if blob.size_bytes <= MAX_INLINE_BYTES:
                    return [InlineBlob(digest, blob.read(0, blob.size_bytes))]
                return answers(digest, blob.recorded_digests())
            finally:
                blob.release()
        except StoreError as error:
            log.warning("a blob could not be read", digest=digest.hex(), error=str(error))
            return nothing

    # -- links -----------------------------------------------------------------------------------------------------

    def _introduce(self, host: str, digest: bytes) -> None:
        """Tell a neighbour what is held of a blob."""
        assert self._active is not None
        holds = self._active.active_holds(digest)
        if holds is None:
            held = self._store.peek(f"sha256:{digest.hex()}")
            if held is None or not held.complete:
                return
            holds = link.Bitfield(digest, 1, complete=True)
        self.links.send(host, holds)

    def _link_up(self, host: str, digests: set[bytes]) -> None:
        self._answered = {each for each in self._answered if each[0] != host}
        for digest in digests:
            self._introduce(host, digest)

    def _from_link(self, host: str, message: OnLink) -> None:
        if isinstance(message, link.LinkHello):
            return
        assert self._active is not None
        self._active.feed_swarm(message.digest, FromNeighbour(host, message))
        # Each of two neighbours is told of the other at its own time: what one said before the other knew it was lost.
        # So the first thing that it says is answered once with what is held here.
        met = host in self._met.get(message.digest, ())
        if met and isinstance(message, link.Bitfield) and (host, message.digest) not in self._answered:
            self._answered.add((host, message.digest))
            self._introduce(host, message.digest)

    def _link_lost(self, host: str, digests: set[bytes]) -> None:
        for digest in digests:
            self._met.get(digest, set()).discard(host)
            assert self._active is not None
            self._active.feed_swarm(digest, NeighbourLost(host))
