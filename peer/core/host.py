"""One host: takes everything that happens to it, and says everything that it does.

    schedulers, link book, origin slots              what all blobs share
    downloads                                        a machine for each blob on its way (`peer.core.download`)
    seeds                                            the blobs that are held whole: announced, advertised, served

Rules:
1. No I/O and no clock. `handle(event, now)` is the only mutator; `next_deadline` says when to send `Tick`.
2. A blob is a download or a seed, or this host is in its swarm no longer. A download that is complete becomes a seed; a
   seed that the store removes, and a download that fails, are taken back from scheduler and neighbours.
3. A download whose map or length proved wrong begins anew at once, with the same sources and neighbours: a swarm that
   all members leave forgets who lied.
4. A private blob is a download that asks the origin alone. Other hosts neither hear of it nor get it, and it becomes no
   seed; `_tells_of_private` sees every message before it leaves.
5. Calls go one way: host, download, and what both share. Nothing calls back.
6. Each blob is at one scheduler of several (`peer.core.scheduler_set`), and no other is heard on it. A blob that moves
   is announced, or joined, anew, and what is under way goes on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from peer.core.digest_reports import digest_reports
from peer.core.download import Download, DownloadSettings
from peer.core.events import (
    AnswerTag,
    BlobRemoved,
    BlobStored,
    BlobVerified,
    DigestsRead,
    Draining,
    Ended,
    Event,
    FromNeighbour,
    FromScheduler,
    GiveWay,
    Instruction,
    KeepSchedulers,
    LinkLost,
    LinkUp,
    Phase,
    PieceFailed,
    PieceReceived,
    PiecesHeld,
    Prepared,
    RangeEnded,
    RangeOpened,
    ReadDigests,
    ReaderLeft,
    ReaderMoved,
    Recover,
    RefuseHosts,
    ReportQuarantine,
    ReportUnreachable,
    ReportUntold,
    SampleFetched,
    SchedulerFailed,
    SchedulerFound,
    SchedulerLost,
    SchedulerMissing,
    SendInlineBlob,
    SourceAdded,
    Stopped,
    StoreFailed,
    TakePreheat,
    Tell,
    TellNeighbours,
    Tick,
)
from peer.core.link_book import LinkBook
from peer.core.origin_lanes import OriginLanes
from peer.core.origin_requests import GIVE_UP_S
from peer.core.origin_slots import OriginSlots
from peer.core.scheduler_set import LEAVE_AFTER_S, SchedulerSet
from peer.core.session import SchedulerSession, SessionState
from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.codec import ToHost
from scheduler.protocol.fields import MAX_HOLDINGS_PER_MESSAGE


class HostSettings(Struct, frozen=True):
    """`max_ranges_per_origin` bounds the requests for data: an origin's own limit has room for metadata too.

    `has_scheduler` False: there never is one, and the origin may be asked at once.
    """

    has_scheduler: bool = True
    schedulers: tuple[str, ...] = ("",)
    """Their URLs."""
    max_ranges_per_origin: int = 12
    max_ranges_per_blob: int = 4
    linger_s: float = 30.0
    give_up_s: float = GIVE_UP_S
    scheduler_timeout_s: float = 3.0
    remembers: int = 64
    host: str = ""
    """The host's id, by which its choices differ from those of others."""


@dataclass(slots=True)
class HostMachine:
    """The decisions of one host."""

    settings: HostSettings = field(default_factory=HostSettings)
    schedulers: SchedulerSet = field(init=False)
    links: LinkBook = field(default_factory=LinkBook)
    downloads: dict[bytes, Download] = field(default_factory=dict)
    seeds: dict[bytes, int] = field(default_factory=dict)
    """The length in bytes of each blob that is held whole, the least recently used first."""
    divided: dict[bytes, int] = field(default_factory=dict)
    """The length of the pieces of those seeds that have another than the usual one."""
    private: set[bytes] = field(default_factory=set)
    """Blobs that other hosts are neither told of nor given, on their way or arrived."""
    slots: OriginSlots = field(init=False)
    lanes: OriginLanes = field(init=False)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _due: float = math.inf
    is_settled: bool = False
    """The last event has changed nothing of when something is due."""
    _schedulers_at: float | None = None
    """When something is due of the schedulers; None if that may have changed."""

    def __post_init__(self) -> None:
        urls = self.settings.schedulers if self.settings.has_scheduler else ()
        self.schedulers = SchedulerSet(urls, self.settings.host, self.settings.scheduler_timeout_s)
        self.slots = OriginSlots(self.settings.max_ranges_per_origin)
        self.lanes = OriginLanes(self.slots.used())

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take in one event at monotonic time `now` (seconds) and say what is to be done.

        Raises IllegalTransitionError.
        """
        match event:
            case FromNeighbour():
                out = self._from_neighbour(event, now)
            case PieceReceived() | PieceFailed() | RangeOpened() | ReaderMoved() | ReaderLeft() | BlobVerified():
                out = self._feed(event.digest, event, now)
            case FromScheduler():
                out = self._from_scheduler(event, now)
            case Tick():
                out = self._tick(now)
            case RangeEnded(digest, request):
                out = self._feed(digest, event, now) + self._free_slot(request)
            case SourceAdded():
                out = self._add_source(event, now)
            case _:
                out = self._take_in_rare(event, now)
        while self.schedulers.is_stale:
            out += self._follow(now)
        return [each for each in out if not self._tells_of_private(each)] if self.private else out

    def _take_in_rare(self, event: Event, now: float) -> list[Instruction]:
        match event:
            case PiecesHeld(digest) | Prepared(digest) | StoreFailed(digest) | SampleFetched(digest) | GiveWay(digest):
                return self._feed(digest, event, now)
            case BlobStored(digest, size_bytes, length):
                if size_bytes and digest not in self.downloads:
                    return self._seed(digest, size_bytes, length)
            case BlobRemoved(digest):
                self.private.discard(digest)
                if self._lose(digest):
                    return self._leave_for_good(digest)
            case DigestsRead(digest, pieces, content, length):
                if content:
                    return [Tell(from_host.InlineBlob(digest, content))]
                is_as_told = length == self.divided.get(digest, 0)  # a runtime's file may have taken the blob's place
                is_known = self.schedulers.of(digest).knows_pieces(self.seeds.get(digest, 0), length)
                return [Tell(report) for report in digest_reports(digest, pieces if is_as_told and is_known else {})]
            case LinkUp() | LinkLost():
                return self._link_changed(event, now)
            case SchedulerFound() | SchedulerLost() | SchedulerFailed():
                return self._scheduler_changed(event, now)
            case Draining() | Stopped():
                return self._end_downloads(event, now)
            case _:
                pass
        return []

    def next_deadline(self) -> float:
        """When `Tick` is due; infinity if nothing is."""
        if not self.is_settled:
            if self._schedulers_at is None:
                self._schedulers_at = self.schedulers.next_deadline()
            due = self._schedulers_at
            for download in self.downloads.values():
                when = download.due if download.is_settled else download.next_deadline()
                if when < due:
                    due = when
            self._due, self.is_settled = due, True
        return self._due

    def may_serve(self, digest: bytes, start: int, stop: int) -> bool:
        """Whether neighbours may have bytes `[start, stop)` of a blob now."""
        if digest in self.private:
            return False
        size_bytes = self.seeds.get(digest)
        if size_bytes is not None:
            return stop <= size_bytes
        download = self.downloads.get(digest)
        return download is not None and download.may_serve(start, stop)

    def is_checked(self, digest: bytes, start: int) -> bool:
        """Whether the piece of a blob at byte `start` is one that only hosts ask for that check it."""
        download = self.downloads.get(digest)
        return download is not None and download.is_checked(start)

    def gives_way(self, digest: bytes, host: str) -> bool:
        """Whether what this neighbour sends of a blob, for which no client waits, gives way to all else on the line.

        What a preheat fetches does. What is fetched ahead of a client does between sites; within a site, the client
        is about to ask for it.
        """
        download = self.downloads.get(digest)
        return self.links.is_far(host) or (download is not None and download.readers.preheats)

    def validate(self) -> None:
        """Raise AssertionError if an invariant does not hold. Looks at every piece: for tests."""
        for digest, download in self.downloads.items():
            download.validate()
            assert not download.is_over(), "a download that has ended is kept"
            assert digest not in self.seeds, "a blob is a download and a seed"
        self.schedulers.validate([*self.downloads, *self.seeds])
        assert all(used <= self.slots.limit for used in self.slots.used().values())

    # -- who may know ----------------------------------------------------------------------------------------------

    def _seed(self, digest: bytes, size_bytes: int, piece_length: int) -> list[Instruction]:
        """Other hosts may have a blob that is held whole."""
        session = self.schedulers.place(digest)
        is_news = digest not in self.seeds and session.state is SessionState.CONNECTED
        self.private.discard(digest)
        self._hold(digest, size_bytes, piece_length)
        if not is_news:
            return []
        session.announced.add(digest)
        return [Tell(from_host.Announce((self._holding(digest),)))]

    def _hold(self, digest: bytes, size_bytes: int, piece_length: int) -> None:
        self.seeds[digest] = size_bytes
        self.divided.pop(digest, None)
        if piece_length:
            self.divided[digest] = piece_length

    def _lose(self, digest: bytes) -> bool:
        """A blob is not held whole any more. Returns whether it was."""
        self.divided.pop(digest, None)
        return self.seeds.pop(digest, None) is not None

    def _holding(self, digest: bytes) -> from_host.Holding:
        size_bytes, length = self.seeds[digest], self.divided.get(digest, 0)
        told = length if self.schedulers.of(digest).knows_pieces(size_bytes, length) else 0
        return from_host.Holding(digest, size_bytes, complete=True, piece_length=told)

    def _hide(self, digest: bytes) -> list[Instruction]:
        """A blob on its way is private from now on, and stays so."""
        if digest in self.private:
            return []
        was_told = bool(self.links.wanted_by(digest)) or self.downloads[digest].phase is not Phase.RECOVERING
        taken_back = self._leave(digest) if was_told else []
        self.private.add(digest)
        return [*taken_back, *self.downloads[digest].hide()]

    def _tells_of_private(self, instruction: Instruction) -> bool:
        """The one gate to other hosts. That a blob is here no longer may pass."""
        match instruction:
            case Tell(from_host.Leave()) | TellNeighbours(_, link.DontHave()):
                return False
            case Tell(message) | TellNeighbours(_, message):
                if isinstance(message, from_host.Announce):
                    return any(holding.digest in self.private for holding in message.holdings)
                return getattr(message, "digest", b"") in self.private
            case SendInlineBlob(digest):
                return digest in self.private
            case _:
                return False

    # -- downloads -------------------------------------------------------------------------------------------------

    def _add_source(self, event: SourceAdded, now: float) -> list[Instruction]:
        digest = event.digest
        if digest in self.downloads:
            return (self._hide(digest) if event.private else []) + self._feed(digest, event, now)
        lost = self._lose(digest)  # by the store, which has not told
        session = self.schedulers.place(digest)
        settings = DownloadSettings(
            max_ranges=self.settings.max_ranges_per_blob,
            linger_s=self.settings.linger_s,
            give_up_s=self.settings.give_up_s,
            scheduler_timeout_s=self.settings.scheduler_timeout_s,
            progress_s=session.progress_s,
            remembers=self.settings.remembers,
            host=self.settings.host,
        )
        self.downloads[digest] = Download(
            digest,
            event.upstream,
            event.repository,
            settings,
            session,
            self.links,
            self._numbers,
            self.lanes,
            self._beside_bytes,
            event.size_bytes,
        )
        taken_back = self._leave(digest) if lost else []
        self.private.discard(digest)
        if event.private:
            taken_back += self._hide(digest)
        return [*taken_back, *self._make_room(session), Recover(digest), *self._feed(digest, event, now)]

    def _beside_bytes(self, digest: bytes) -> int:
        """The bytes of all other blobs on their way of which others may know, as far as their lengths were told."""
        others = (each for each in self.downloads.values() if each.digest != digest and each.digest not in self.private)
        return sum(each.manifest_size_bytes or 0 for each in others)

    def _feed(self, digest: bytes, event: Event, now: float) -> list[Instruction]:
        """Give an event to the download of a blob, if there is one."""
        download = self.downloads.get(digest)
        if download is None:
            return []
        out = download.handle(event, now)
        if download.is_settled:
            return out
        self.is_settled = False
        if download.ended is not None:
            return out + self._ended(download, download.ended, now)
        while (upstream := download.next_upstream()) is not None:
            if not self.slots.is_free(upstream):
                out += self._ask_for_slot(download, upstream)
                break
            out.append(self._start_range(download, upstream))
        return out

    def _feed_each(self, digests: Iterable[bytes], event: Event, now: float) -> list[Instruction]:
        return [each for digest in digests for each in self._feed(digest, event, now)]

    def _end_downloads(self, event: Draining | Stopped, now: float) -> list[Instruction]:
        if isinstance(event, Draining):
            self.settings = replace(self.settings, linger_s=0.0)  # of those that clients still begin
        return self._feed_each(list(self.downloads), event, now)

    def _start_range(self, download: Download, upstream: str) -> Instruction:
        started = download.start_range(others_wait=self.slots.is_waited_for(upstream))
        self.is_settled = False
        self.slots.take(upstream, started.request)
        return started

    def _ask_for_slot(self, download: Download, upstream: str) -> list[Instruction]:
        """A download waits for a slot. Long requests end soon; for a client, one of the background with its piece."""
        out: list[Instruction] = []
        if self.slots.wait(upstream, download.digest):
            out += [each for other in self.downloads.values() for each in other.origin.give_way(upstream)]
        if download.readers.background:
            return out
        others = [other for other in self.downloads.values() if other.readers.background]
        if any(other.origin.ends_soon(upstream) for other in others):
            return out
        for other in others:
            if shortened := other.shorten_range(upstream):
                return [*out, *shortened]
        return out

    def _free_slot(self, request: int) -> list[Instruction]:
        """A request to an origin has ended: the next download has its slot."""
        out: list[Instruction] = []
        upstream = self.slots.release(request)
        while upstream is not None and (digest := self.slots.next(upstream, self._is_background)) is not None:
            download = self.downloads.get(digest)
            if download is None or download.next_upstream() != upstream:
                continue  # it has no need any more
            out.append(self._start_range(download, upstream))
            if download.next_upstream() == upstream:
                self.slots.wait(upstream, digest)
        return out

    def _is_background(self, digest: bytes) -> bool:
        download = self.downloads.get(digest)
        return download is None or download.readers.background

    def _ended(self, download: Download, ended: Ended, now: float) -> list[Instruction]:
        digest = download.digest
        del self.downloads[digest]
        match ended.phase:
            case Phase.COMPLETE if digest in self.private:
                self.schedulers.drop(digest)
                return [ended]
            case Phase.COMPLETE:
                self._hold(digest, download.pieces.size_bytes, download.pieces.told_piece_length)
                self.schedulers.of(digest).announced.add(digest)
                return [ended]
            case Phase.DISPROVED:
                return [ended, *self._begin_anew(download, now)]
            case _ if digest in self.private:
                self.private.discard(digest)
                self.schedulers.drop(digest)
                return [ended]
            case _:
                return [*self._leave_for_good(digest), ended]

    def _begin_anew(self, before: Download, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        for added in before.origin.added.values():
            out += self._add_source(replace(added, size_bytes=before.member.own_size_bytes), now)
        self.downloads[before.digest].neighbours.take_over(before.neighbours)
        return out

    def _tick(self, now: float) -> list[Instruction]:
        out = self._schedulers_due(now) if self.schedulers.next_deadline() <= now else []
        due = [digest for digest, download in self.downloads.items() if download.next_deadline() <= now]
        return out + self._feed_each(due, Tick(), now)

    # -- the schedulers --------------------------------------------------------------------------------------------

    def _scheduler_changed(
        self, event: SchedulerFound | SchedulerLost | SchedulerFailed, now: float
    ) -> list[Instruction]:
        self.is_settled, self._schedulers_at = False, None
        match event:
            case SchedulerFound(progress_s, max_blobs, url, listed, divides, lengthens):
                session = self.schedulers.found(url, progress_s, listed, now, divides=divides, lengthens=lengthens)
                return [] if session is None else self._follow(now, session, max_blobs)
            case SchedulerLost(url, stops):
                session = self.schedulers.lost(url, now, stops=stops)
                there = [digest for digest in self.downloads if self.schedulers.of(digest) is session]
                return [*self._feed_each(there, event, now), *self._schedulers_due(now)]
            case SchedulerFailed(url):
                self.schedulers.failed(url)
                return self._schedulers_due(now)

    def _schedulers_due(self, now: float) -> list[Instruction]:
        self.is_settled, self._schedulers_at = False, None
        some_missing = self.schedulers.time_out(now)
        out: list[Instruction] = [
            Tell(from_host.Leave(digest), session.url) for session, digest in self.schedulers.leaving(now)
        ]
        if self.schedulers.is_stale:
            out += self._follow(now)
        if some_missing and self.schedulers.state is SessionState.MISSING:
            out += self._feed_each(list(self.downloads), SchedulerMissing(), now)
        return out

    def _follow(
        self, now: float, fresh: SchedulerSession | None = None, max_blobs: int = to_host.MAX_BLOBS_PER_HOST
    ) -> list[Instruction]:
        """Move the blobs that are to be at another scheduler. One that is `fresh` knows nothing yet of those it has."""
        self.is_settled, self._schedulers_at = False, None
        connections, moved = self.schedulers.needed, dict[SchedulerSession, list[bytes]]()
        out: list[Instruction] = []
        for digest, before, after in self.schedulers.follow(now):
            if before.state is SessionState.CONNECTED and digest not in self.private:
                before.leaves[digest] = now + LEAVE_AFTER_S
            before.announced.discard(digest)
            out += [_returned(lease, digest, after.url) for lease in after.stay(digest)]
            if digest in self.downloads:
                self.downloads[digest].move(after)
            moved.setdefault(after, []).append(digest)
        if fresh is not None:
            moved.pop(fresh, None)
            out += self._announcements(fresh, max_blobs)
            out += self._begin_at(fresh, list(self.downloads), now)
        for session, digests in moved.items():
            if session.state is SessionState.CONNECTED:
                out += self._announce_more(session, digests)
                out += self._begin_at(session, digests, now)
        if self.schedulers.needed != connections:
            out.append(KeepSchedulers(tuple(self.schedulers.needed)))
        return out

    def _begin_at(self, session: SchedulerSession, digests: list[bytes], now: float) -> list[Instruction]:
        """Those of these blobs that are on their way, and at this scheduler, join there."""
        there = [each for each in digests if each in self.downloads and self.schedulers.of(each) is session]
        return self._feed_each(there, SchedulerFound(session.progress_s, scheduler=session.url), now)

    def _announcements(self, session: SchedulerSession, max_blobs: int) -> list[Instruction]:
        """The seeds, the most recently used first, so that a scheduler that has restarted knows them again.

        Each download announces its own part.
        """
        at = self.schedulers.of
        held = [digest for digest in reversed(self.seeds) if at(digest) is session]
        told = session.announced.begin(held, self.schedulers.count_at(session.url) - len(held), max_blobs)
        out = self._announce(told)
        if len(told) < len(held):
            out.append(ReportUntold(len(held) - len(told), max_blobs))
        return out

    def _announce_more(self, session: SchedulerSession, digests: list[bytes]) -> list[Instruction]:
        """Seeds among these blobs that have moved to a scheduler, as far as it has room."""
        held = [digest for digest in digests if digest in self.seeds]
        told = held[: session.announced.room(self._wanted_at(session))]
        for digest in told:
            session.announced.add(digest)
        return self._announce(told)

    def _announce(self, digests: list[bytes]) -> list[Instruction]:
        holdings = [self._holding(digest) for digest in digests]
        return [
            Tell(from_host.Announce(tuple(holdings[first : first + MAX_HOLDINGS_PER_MESSAGE])))
            for first in range(0, len(holdings), MAX_HOLDINGS_PER_MESSAGE)
        ]

    def _wanted_at(self, session: SchedulerSession) -> int:
        return sum(self.schedulers.of(digest) is session for digest in self.downloads)

    def _make_room(self, session: SchedulerSession) -> list[Instruction]:
        """Take seeds back from the scheduler if it has no room for another download."""
        out: list[Instruction] = []
        wanted = self._wanted_at(session)
        while (surplus := session.announced.surplus(wanted)) is not None:
            out += self._leave(surplus)
        return out

    def _from_scheduler(self, event: FromScheduler, now: float) -> list[Instruction]:
        match event.message:
            case to_host.Quarantined(reason, for_s):
                return [ReportQuarantine(reason, for_s, event.scheduler)]
            case to_host.TagQuery() | to_host.TagResult() as message:
                return [AnswerTag(message, event.scheduler)]
            case to_host.Preheat() | to_host.PreheatEnded() as message:
                return [TakePreheat(message, event.scheduler)]
            case to_host.Revoked(hosts):
                return [RefuseHosts(hosts)]
            case to_host.Unreachable(reports):
                return [ReportUnreachable(reports, event.scheduler)]
            case to_host.Schedulers() as listed:
                self.schedulers.told(event.scheduler, listed, now)
                return []
            case to_host.Welcome():
                return []
            case message if message.digest in self.private:
                return []
            case message if self.schedulers.of(message.digest).url != event.scheduler:
                return self._of_moved(message, event.scheduler)
            case message:
                if message.digest in self.downloads:
                    return self._feed(message.digest, event, now)
                return self._of_seed(message.digest, message)

    def _of_moved(self, message: ToHost, scheduler: str) -> list[Instruction]:
        """What a scheduler says of a blob that has moved to another.

        The first lease goes back at once, for hosts that have not moved. Another one comes only if there is no such
        host. It is kept until the scheduler is told that the blob has moved: each answer would bring the next lease.
        """
        session = self.schedulers.sessions.get(scheduler)
        if session is None or not isinstance(message, to_host.Lease):
            return []
        may_return = session.may_return(message.digest, message.lease)
        return [_returned(message.lease, message.digest, scheduler)] if may_return else []

    def _of_seed(self, digest: bytes, message: ToHost) -> list[Instruction]:
        """What the scheduler says of a blob that is held whole, or was wanted before."""
        is_held = digest in self.seeds
        match message:
            case to_host.Neighbours(_, add, remove) if is_held:
                out: list[Instruction] = []
                for host in remove:
                    out += self.links.unwant(digest, host)
                for neighbour in add:
                    out += self.links.want(digest, neighbour)
                    out += self._introduce(digest, neighbour.host)
                return out
            case to_host.Lease(lease) if is_held:
                return [Tell(from_host.LeaseEnded(lease, digest, from_host.LeaseOutcome.RETURNED))]
            case to_host.Lease():  # it was wanted here, and is no longer: the lease goes back with the membership
                return [Tell(from_host.Leave(digest))]
            case to_host.RequestDigests() if is_held:
                return [ReadDigests(digest)]
            case to_host.RequestDigests():
                return [Tell(report) for report in digest_reports(digest, {})]
            case _:
                return []

    def _leave_for_good(self, digest: bytes) -> list[Instruction]:
        """This host has nothing of the blob any more."""
        out = self._leave(digest)
        self.schedulers.drop(digest)
        return out

    def _leave(self, digest: bytes) -> list[Instruction]:
        """This host neither wants nor holds the blob any more, as far as others know."""
        session = self.schedulers.of(digest)
        session.announced.discard(digest)
        hosts = self.links.wanted_by(digest)
        out: list[Instruction] = [Tell(from_host.Leave(digest), session.url)]
        if hosts:
            out.append(TellNeighbours(hosts, link.DontHave(digest)))
        for host in hosts:
            out += self.links.unwant(digest, host)
        return out

    # -- neighbours ------------------------------------------------------------------------------------------------

    def _from_neighbour(self, event: FromNeighbour, now: float) -> list[Instruction]:
        message = event.message
        if message.digest in self.private:
            return []
        out = self._feed(message.digest, event, now)
        if isinstance(message, link.Bitfield) and self.links.is_to_answer(message.digest, event.host):
            out += self._introduce(message.digest, event.host)
        return out

    def _link_changed(self, event: LinkUp | LinkLost, now: float) -> list[Instruction]:
        if isinstance(event, LinkUp):
            return [each for digest in self.links.up(event.host) for each in self._introduce(digest, event.host)]
        return self._feed_each(self.links.lost(event.host), event, now)

    def _introduce(self, digest: bytes, host: str) -> list[Instruction]:
        """Tell a neighbour what is held of a blob."""
        download = self.downloads.get(digest)
        if download is not None:
            return [TellNeighbours((host,), download.picker.bitfield())]
        if digest in self.seeds:
            return [TellNeighbours((host,), link.Bitfield(digest, 1, complete=True))]
        return []


def _returned(lease: int, digest: bytes, scheduler: str) -> Instruction:
    return Tell(from_host.LeaseEnded(lease, digest, from_host.LeaseOutcome.RETURNED), scheduler)
