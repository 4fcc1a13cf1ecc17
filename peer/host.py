"""The runner of a host: feeds `peer.core.host` all that happens, and carries out all that it says.

    what happens    readers, threads that received a piece or failed, the scheduler client, the links, the store, time
    what is done    threads that receive, messages, files, ends for readers

Nothing is decided here. Everything runs on the event loop; what a thread has to tell comes by `call_soon_threadsafe`,
and every instruction that takes time ends by exactly one event.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog
from msgspec import Struct

from peer.arrival import Arrival
from peer.core import events
from peer.core.choker import UploadRequest
from peer.core.events import Event, Phase
from peer.core.host import HostMachine, HostSettings
from peer.core.origin_requests import GIVE_UP_S
from peer.core.scheduler_set import canonical
from peer.core.session import SessionState
from peer.errors import (
    OriginBrokenError,
    OriginCorruptError,
    OriginRefusedError,
    OriginUnreachableError,
    P2pdError,
    StoreError,
    StoreFullError,
)
from peer.host_schedulers import HostSchedulers, Identity, SwarmHealth
from peer.net.links import Links
from peer.net.neighbour_clients import NeighbourClients
from peer.oci.digest import Digest
from peer.origin_range import OriginSource
from peer.peer_piece import Pace
from peer.store import Blob, BlobInfo, Store
from peer.store.facts import Came
from peer.store_work import StoreWork
from peer.tasks import BackgroundTasks
from peer.transfers import Transfers
from peer.waits import Wait, wait_of
from peer.workers import Workers
from scheduler.protocol import link
from scheduler.protocol.from_host import InlineBlob
from scheduler.protocol.geometry import told_piece_length

if TYPE_CHECKING:
    from peer.background.transport import BackgroundTransport
    from peer.trust.host_trust import HostTrust
    from peer.trust.piece_keys import PieceKeys

log = structlog.get_logger("peer.host")


MAX_LEFT_OVER = 4096
"""Beyond that the origin is asked for what was left of a download."""

SHOWN_OF_DIGEST = len("sha256:") + 12
"""So much of a digest tells blobs apart, and nobody can ask for one by it."""

SHOWN_NEIGHBOURS = 64


class Limits(Struct, frozen=True):
    """`transfers_per_origin` is for data alone: the origin's own limit of connections has room for metadata too.

    `download_rate_bytes_per_s` is for what neighbours send, all together; 0 is none.
    """

    transfers_per_origin: int = 12
    transfers_per_blob: int = 4
    linger_s: float = 30.0
    give_up_s: float = GIVE_UP_S
    download_rate_bytes_per_s: int = 0


class DownloadStatistics(Struct, frozen=True):
    """Since the start; `active` is now. `corrupt` counts blobs, `unusable_answers` answers of origins."""

    active: int
    origin_bytes: int
    peer_bytes: int
    corrupt: int
    corrupt_pieces: int
    unusable_answers: int
    reread_bytes: int


class DownloadFacts(Struct, frozen=True):
    """A blob on its way, for the operator. `blob` is the beginning of its digest: a whole one is a key to content."""

    blob: str
    size_bytes: int
    held_bytes: int
    background: bool
    upstream: str


class NeighbourFacts(Struct, frozen=True):
    """What a neighbour has given this host and got of it, since the start."""

    host: str
    far: bool
    given_bytes: int
    got_bytes: int


class MessageStatistics(Struct, frozen=True):
    """Messages since the start: to neighbours, and to and from schedulers."""

    link_messages: int
    scheduler_messages: int


class Host:
    """One host. Without an `identity` it is alone: each blob comes from its origin, and nobody is told of it."""

    def __init__(
        self,
        store: Store,
        limits: Limits,
        tasks: BackgroundTasks,
        identity: Identity | None = None,
        schedulers: Sequence[str] = (),
        new_id: Callable[[], str] | None = None,
        trust: HostTrust | None = None,
        keys: PieceKeys | None = None,
    ) -> None:
        """`new_id` makes another id for this host, and keeps it; it is called in a thread.

        With `trust`, hosts and schedulers are known by their certificates. With `keys`, pieces go outside of TLS.
        """
        self._trust = trust
        self._keys = keys
        self.store = store
        who = identity or Identity("", scheduler_timeout_s=0.0)
        self.arrivals: dict[bytes, Arrival] = {}
        """The blobs on their way, by raw digest."""
        self.traced: set[bytes] = set()
        """Those of them that are traced."""
        self.on_client: set[Callable[[], None]] = set()
        """Called when a client begins to wait for a blob."""
        self.closed = False
        self.on_arrived: Callable[[OriginSource], None] = lambda _source: None
        """Called with a source of each blob that has arrived whole because of that source's place alone."""
        self.may_share: Callable[[Digest], bool] = lambda _digest: True
        """Whether other hosts may have a blob that is held, as far as is known."""
        self.left_over: dict[bytes, tuple[str, str]] = {}
        """The place (upstream, repository) because of which alone something of a blob was fetched, by raw digest."""
        self._tasks = tasks
        self._new_id = new_id
        self._loop = asyncio.get_running_loop()
        self.machine = HostMachine(
            HostSettings(
                has_scheduler=identity is not None,
                schedulers=canonical(schedulers),
                max_ranges_per_origin=limits.transfers_per_origin,
                max_ranges_per_blob=limits.transfers_per_blob,
                linger_s=limits.linger_s,
                give_up_s=limits.give_up_s,
                scheduler_timeout_s=who.scheduler_timeout_s,
                host=who.host,
            )
        )
        self.background: BackgroundTransport | None = None
        """How pieces of other sites come that no client waits for; None: as all others do."""
        self._timer: asyncio.Handle | None = None
        self._timer_at = math.inf
        """For when the timer is set: uvloop gives no handle that knows, where that time has come already."""
        self._corrupt = 0
        self._workers = Workers()
        self._neighbours = NeighbourClients(who.host, trust, keys)
        self._transfers = Transfers(
            self.arrivals,
            store,
            self._workers,
            self._neighbours,
            self.feed,
            rate_bytes_per_s=limits.download_rate_bytes_per_s,
        )
        store.on_removed = self._removed
        store.on_found = self._found
        self._store_work = StoreWork(self.arrivals, store, self._workers, self.feed)
        self.links = Links(
            who.host,
            tasks,
            on_message=lambda host, message: self.feed(events.FromNeighbour(host, message)),
            on_up=lambda host: self.feed(events.LinkUp(host)),
            on_lost=lambda host: self.feed(events.LinkLost(host)),
            trust=trust,
            keys=keys,
        )
        self.schedulers = HostSchedulers(
            self.machine,
            who,
            self.feed,
            tasks,
            on_cloned=lambda: self._tasks.start(self._take_new_id()),
            trust=trust,
        )

    def start(self, address: str) -> None:
        """Begin to look for a scheduler. Other hosts reach the peer port at `address`."""
        self.schedulers.address = address
        for blob in reversed(self.store.blobs()):  # the machine takes the least recently used first
            if blob.complete:
                self.share(blob)
        self.feed(events.SchedulerLost(self.machine.schedulers.home.url))
        if self._trust is not None:
            self._trust.on_revoked = self._refuse
            self._tasks.start(self._trust.run())
        self.schedulers.keep(self.machine.schedulers.needed)

    def close(self) -> None:
        """End every download; readers that wait get an error."""
        self.closed = True
        for arrival in self.arrivals.values():
            arrival.last_error = OriginUnreachableError("p2pd is stopping")
        self.feed(events.Stopped())
        self._workers.close()
        if self._timer is not None:
            self._timer.cancel()

    def drain(self) -> None:
        """End each download that no client waits for, now and from now on; their leases go back to the scheduler."""
        self.feed(events.Draining())

    async def disconnect(self) -> None:
        """End all links and connections."""
        await self.links.close()
        self._neighbours.close()

    def use(self, background: BackgroundTransport) -> None:
        """Have pieces come by this transport that give way."""
        self.background = self._transfers.background = background

    # -- for neighbours --------------------------------------------------------------------------------------------

    async def servable(self, digest: Digest, start: int, stop: int) -> Blob | None:
        """For the peer port: the blob, pinned, if these bytes of it may be served to others. The caller releases it.

        Raises StoreError if they cannot be read any more.
        """
        raw = digest.raw
        if not self.machine.may_serve(raw, start, stop):
            return None
        arrival = self.arrivals.get(raw)
        blob = self.store.acquire(digest) if arrival is None else arrival.blob
        if blob is None:
            return None
        if arrival is not None:
            blob.acquire()
        try:
            await self.check(blob, start, stop)
        except BaseException:
            blob.release()
            raise
        return blob

    async def check(self, blob: Blob, start: int, stop: int) -> None:
        """See that bytes `[start, stop)` of a pinned blob are right on the disk, unless that is known.

        Raises StoreError; a blob that is not right has been dropped by then.
        """
        await self._store_work.check(blob, start, stop)

    async def ticket(self, digest: Digest) -> bytes | None:
        """For the peer port: what another host needs to get a blob by the background transport; None: it cannot."""
        held = self.store.peek(digest)
        if self.background is None or held is None or not self.machine.may_serve(digest.raw, 0, held.size_bytes):
            return None
        blob = self.store.acquire(digest) if held.complete else None
        if blob is None:
            return None
        try:
            return await self.background.ticket(blob)
        finally:
            blob.release()

    def send_unchoke(self, request: UploadRequest) -> None:
        """This host was too busy for a piece that another host wanted, and has room now."""
        self.links.send(request.host, link.Unchoke(request.digest))

    def is_far(self, host: str) -> bool:
        """Whether a neighbour is in another site, as far as this host knows."""
        return self.machine.links.is_far(host)

    def is_checked(self, digest: Digest, start: int) -> bool:
        """Whether the piece of a blob at byte `start` is one that only hosts ask for that check it."""
        return self.machine.is_checked(digest.raw, start)

    # -- for the operator ------------------------------------------------------------------------------------------

    @property
    def identity(self) -> Identity:
        """Who this host is to others."""
        return self.schedulers.identity

    @property
    def connected(self) -> bool:
        """There is a connection to a scheduler."""
        return self.schedulers.connected

    @property
    def standalone(self) -> bool:
        """There has been no scheduler for so long that origins are asked without one."""
        return self.machine.schedulers.state is SessionState.MISSING

    @property
    def certificate_expires(self) -> float | None:
        """When this host's certificate is over, in Unix seconds; 0 if it has none yet, None if it is to have none."""
        return None if self._trust is None else self._trust.expires

    @property
    def background_pace(self) -> Pace:
        """The limit on what comes without a client that waits for it."""
        return self._transfers.background_pace

    def is_arriving(self, digest: Digest) -> bool:
        """Whether a blob is on its way here."""
        return digest.raw in self.arrivals

    @property
    def serves_clients(self) -> bool:
        """Whether a client waits for something that is on its way here."""
        return any(not arrival.background for arrival in self.arrivals.values())

    def client_came(self) -> None:
        """A client begins to wait for a blob."""
        for tell in tuple(self.on_client):
            tell()

    def give_way(self, digest: bytes) -> None:
        """End a download now that nobody reads; what has come of it stays."""
        self.feed(events.GiveWay(digest))

    @property
    def pace(self) -> Pace:
        """The limit on what neighbours together send."""
        return self._transfers.pace

    def statistics(self) -> DownloadStatistics:
        """What has come to this host."""
        return DownloadStatistics(
            active=len(self.arrivals),
            origin_bytes=self._transfers.origin_bytes,
            peer_bytes=self._transfers.peer_bytes + self._store_work.inline_bytes,
            corrupt=self._corrupt,
            corrupt_pieces=self._transfers.corrupt_pieces,
            unusable_answers=self._transfers.unusable_answers,
            reread_bytes=self._transfers.reread_bytes,
        )

    def downloads(self) -> list[DownloadFacts]:
        """The blobs on their way."""
        return [
            DownloadFacts(
                blob=str(arrival.digest)[:SHOWN_OF_DIGEST],
                size_bytes=0 if arrival.blob is None else arrival.blob.size_bytes,
                held_bytes=0 if arrival.blob is None else arrival.blob.held_bytes,
                background=arrival.background,
                upstream=next((source.upstream for source in arrival.sources), ""),
            )
            for arrival in self.arrivals.values()
        ]

    def neighbours(self, sent: Mapping[str, int]) -> list[NeighbourFacts]:
        """Who has given this host most, and got most of it. `sent` is what this host has sent, by host."""
        given = self._transfers.from_neighbours.by_host()
        hosts = sorted({*given, *sent}, key=lambda host: -given.get(host, 0) - sent.get(host, 0))
        return [
            NeighbourFacts(host, self.is_far(host), given.get(host, 0), sent.get(host, 0))
            for host in hosts[:SHOWN_NEIGHBOURS]
        ]

    def waits(self) -> list[Wait]:
        """What each download waits for that a client waits for."""
        return [
            wait_of(download.phase, download.pieces, for_room=arrival.waits_for_room)
            for digest, arrival in self.arrivals.items()
            if not arrival.background and (download := self.machine.downloads.get(digest)) is not None
        ]

    def swarm_health(self) -> SwarmHealth:
        """How this host stands with schedulers and its neighbours."""
        return self.schedulers.health(self.links.open_count)

    def messages(self) -> MessageStatistics:
        """What this host has said and heard."""
        return MessageStatistics(self.links.sent_messages, self.schedulers.messages)

    # -- the machine -----------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Have the machine decide what follows from `event`, and carry it out."""
        for instruction in self.machine.handle(event, self._loop.time()):
            self._carry_out(instruction)
        if self.traced:
            self._note_waits()
        if not self.machine.is_settled:
            self._set_timer()

    def _note_waits(self) -> None:
        for digest in self.traced:
            arrival, download = self.arrivals[digest], self.machine.downloads.get(digest)
            if arrival.trace is not None and download is not None:
                arrival.trace.waits_for(wait_of(download.phase, download.pieces, for_room=arrival.waits_for_room))

    def _carry_out(self, instruction: events.Instruction) -> None:
        match instruction:
            case events.TellNeighbours(hosts, message):
                for host in hosts:
                    self.links.send(host, message)
            case events.RequestPiece():
                self._transfers.request_piece(instruction)
            case events.Tell(message, scheduler):
                self.schedulers.tell(message, scheduler)
            case events.RequestRange():
                self._transfers.request_range(instruction)
            case events.FetchSample():
                self._transfers.fetch_sample(instruction)
            case events.CancelPiece(_, request) | events.CancelRange(_, request):
                self._transfers.cancel(request)
            case events.TrimRange(_, request, stop):
                self._transfers.trim(request, stop)
            case _:
                self._carry_out_rare(instruction)

    def _carry_out_rare(self, instruction: events.Instruction) -> None:
        match instruction:
            case events.KeepLink(host, address):
                self._neighbours.learn(host, address)
                self.links.want(host, address)
            case events.ReleaseLink(host):
                self.links.unwant(host)
            case events.AnswerTag(message, scheduler):
                self.schedulers.tags.on_message(message, scheduler)
            case events.TakePreheat(order, scheduler):
                self.schedulers.take_preheat(order, scheduler)
            case events.KeepSchedulers(urls):
                self.schedulers.keep(urls)
            case events.ReportQuarantine() | events.ReportUntold() | events.ReportUnreachable():
                self.schedulers.report(instruction)
            case _:
                self._carry_out_in_store(instruction)

    def _carry_out_in_store(self, instruction: events.Instruction) -> None:
        match instruction:
            case events.Recover(digest):
                self._tasks.start(self._store_work.recover(self.arrivals[digest]))
            case events.Prepare(digest, size_bytes, length):
                self._tasks.start(self._store_work.prepare(self.arrivals[digest], size_bytes, length))
            case events.StoreInlineBlob(digest, data):
                self._tasks.start(self._store_work.store_inline(self.arrivals[digest], data))
            case events.SendInlineBlob(digest):
                blob = self.arrivals[digest].blob
                assert blob is not None
                try:
                    content = InlineBlob(digest, blob.read(0, blob.size_bytes))
                    self.schedulers.tell(content)
                except StoreError as error:
                    log.warning("a blob could not be read", digest=blob.digest, error=str(error))
            case events.ReadDigests(digest):
                self._tasks.start(self._store_work.read_digests(digest))
            case events.Ended():
                self._ended(instruction)
            case events.RefuseHosts(hosts) if self._trust is not None:
                self._trust.revoke(hosts)
            case _:
                pass

    def _set_timer(self) -> None:
        """Have the machine told when its next deadline has come.

        Each event moves that, mostly to later: a timer that is early costs less than to set another each time.
        """
        deadline = self.machine.next_deadline()
        if deadline >= self._timer_at or self.closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(deadline, self._tick), deadline

    def _tick(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if self.machine.next_deadline() > self._loop.time():
            self._set_timer()
            return
        was_standalone = self.standalone
        self.feed(events.Tick())
        if self.standalone and not was_standalone:
            waited_s = self.identity.scheduler_timeout_s
            log.warning("no scheduler for too long: the origin is asked without one", waited_s=waited_s)
        self._set_timer()

    # -- who this host is, and who is no host any more ---------------------------------------------------------------

    async def _take_new_id(self) -> None:
        """Another machine has this host's id: this one goes on under another."""
        if self._new_id is None:
            return
        before = self.identity.host
        host = await asyncio.to_thread(self._new_id)
        log.warning("another host has the id of this one, which takes another", before=before, host=host)
        self.links.rename(host)
        self._neighbours.rename(host)
        self.schedulers.rename(host)

    def _refuse(self, host: str) -> None:
        """End all that there is with a host that was revoked."""
        log.warning("a host was revoked", host=host)
        self.links.shun(host)
        self._neighbours.forget(host)
        if self._keys is not None:
            self._keys.forget(host)
        if self.background is not None:
            self._tasks.start(self.background.restart())

    # -- the store -------------------------------------------------------------------------------------------------

    def _removed(self, digest: Digest) -> None:
        """The store has removed a blob. From any thread."""
        self._loop.call_soon_threadsafe(self._tell_removed, digest)

    def _tell_removed(self, digest: Digest) -> None:
        if self.background is not None:
            self._tasks.start(self.background.unshare(digest))
        arrival = self.arrivals.get(digest.raw)
        if arrival is not None and arrival.blob is not None and arrival.blob.preempted:
            arrival.last_error = StoreFullError(f"the room of {digest} was needed for what a client reads")
            self.feed(events.StoreFailed(digest.raw))
        elif self.store.peek(digest) is None:  # else it is back already
            self.feed(events.BlobRemoved(digest.raw))

    def _found(self, blob: BlobInfo) -> None:
        """The store has a blob again. From any thread."""
        if blob.complete:
            self._loop.call_soon_threadsafe(self.share, blob)

    def share(self, blob: BlobInfo) -> None:
        """Give a blob that is held whole to other hosts, if they may have it."""
        is_known = blob.digest.raw in self.machine.seeds or self.is_arriving(blob.digest)
        if not is_known and self.may_share(blob.digest):
            told = told_piece_length(blob.size_bytes, blob.piece_length)
            self.feed(events.BlobStored(blob.digest.raw, blob.size_bytes, told))

    # -- ends ------------------------------------------------------------------------------------------------------

    def _ended(self, ended: events.Ended) -> None:
        arrival = self.arrivals.pop(ended.digest)
        self._end_trace(arrival, ended)
        self._remember_place(arrival)
        if ended.phase is Phase.COMPLETE:
            assert arrival.blob is not None
            arrival.blob.acquire()
            sealing = self._store_work.seal(arrival.blob)
            self._tasks.start(sealing if arrival.trace is None else arrival.trace.sealing(sealing))
            if arrival.sources and arrival.is_only_for(arrival.sources[0].place):
                self.on_arrived(arrival.sources[0])
            arrival.end(None)
            if self.may_share(arrival.digest):
                self.feed(
                    events.BlobStored(arrival.raw, arrival.blob.size_bytes, arrival.blob.header.told_piece_length)
                )
            return
        if isinstance(arrival.last_error, OriginCorruptError) and ended.phase is not Phase.DISPROVED:
            self._corrupt += 1
            error = str(arrival.last_error)
            log.error("wrong bytes from an origin", digest=arrival.digest, error=error, story=ended.story)
        if ended.discard and not (ended.phase is Phase.ABANDONED and arrival.holds_something):
            self.store.discard(arrival.digest)
        if ended.phase is Phase.DISPROVED:
            self._corrupt += 1
            arrival.disproved = True
            successor = self.arrivals[ended.digest] = Arrival(arrival.digest, arrival.media_type, is_new=arrival.is_new)
            successor.sources = arrival.sources
        arrival.end(_error_of(arrival, ended))

    def _end_trace(self, arrival: Arrival, ended: events.Ended) -> None:
        if arrival.trace is None:
            return
        self.traced.discard(arrival.raw)
        came = Came() if arrival.blob is None else arrival.blob.came
        error = "" if ended.phase is Phase.COMPLETE else f"{ended.phase.value}: {arrival.last_error or ended.reason}"
        arrival.trace.end(None if arrival.blob is None else arrival.blob.size_bytes, came, error)

    def _remember_place(self, arrival: Arrival) -> None:
        """What is left of a download that did not end well is there because of its place."""
        place = arrival.sources[0].place if arrival.sources else None
        if place is not None and arrival.is_only_for(place) and len(self.left_over) < MAX_LEFT_OVER:
            self.left_over[arrival.raw] = place
        else:
            self.left_over.pop(arrival.raw, None)


def _error_of(arrival: Arrival, ended: events.Ended) -> P2pdError:
    if not ended.reason:
        return arrival.last_error or OriginBrokenError(f"nobody waited for {arrival.digest} any longer")
    if 400 <= ended.status < 500:
        return OriginRefusedError(ended.reason, status=ended.status)
    return OriginUnreachableError(ended.reason)
