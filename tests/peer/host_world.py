"""The world around a host, for tests in which anything may happen: runner, store, origin, scheduler, neighbours.

It does what the machine says and knows what the machine may say: each rule that is broken is an AssertionError. Bytes
are right, but what is said of the map or of the length may be wrong, by whoever drives it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from peer.core import events
from peer.core.download import Download
from peer.core.events import Ended, Event, Instruction, Outcome, Phase
from peer.core.host import HostMachine, HostSettings
from peer.core.membership import MembershipState
from peer.core.neighbours import FAR
from peer.core.peer_requests import MAX_REQUESTS
from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.codec import FROM_HOST, LINK, ToHost
from scheduler.protocol.fields import DIGEST_BYTES
from scheduler.protocol.link import LinkMessage
from tests.peer.host_playbook import PIECE, D, E
from tests.peer.host_playbook import digest as piece_digest

COUNT = 8
SIZE = COUNT * PIECE
DISTANCES = {"b": 0, "c": 1, "e": FAR}
HOSTS = tuple(DISTANCES)
UPSTREAMS = ("docker.io", "docker.io", "elsewhere")
"""Of each source, by number."""

SETTINGS = HostSettings(max_ranges_per_origin=3, max_ranges_per_blob=3, linger_s=20.0, scheduler_timeout_s=3.0)


@dataclass
class Blob:
    """What the world has of a blob, beside the machine."""

    live: bool = False
    """A download is under way."""
    begun: int = 0
    """How often one has begun."""
    recovering: bool = False
    preparing: int | None = None
    sources: set[int] = field(default_factory=set)
    size_bytes: int | None = None
    """Of the file in the store, if there is one."""
    file: int = 0
    """Another one after each time that it was thrown away."""
    adopted: bool = False
    """The download knows of the file."""
    stored: dict[int, bytes] = field(default_factory=dict)
    generation: int = 1
    leases: dict[int, set[int]] = field(default_factory=dict)
    joins: int = 0
    """How many of its Joins the scheduler has not answered."""
    refused: bool = False
    """The scheduler has sent this host to the origin."""
    waits_since: float | None = None
    reads: int = 0
    """How many ReadDigests are not answered."""

    def throw_away(self) -> None:
        self.file += 1
        self.size_bytes, self.stored = None, {}

    def end(self) -> None:
        self.live = self.recovering = self.adopted = self.refused = False
        self.preparing = self.waits_since = None


@dataclass
class Range:
    """A request to the origin."""

    asked: events.RequestRange
    begun: int
    file: int
    pieces: list[int]
    """What it is still to bring; those of one that is not `opened` are what it was asked for."""
    opened: bool = False


@dataclass
class Piece:
    """A request to a neighbour."""

    asked: events.RequestPiece
    begun: int
    file: int
    cancelled: bool = False


Request = TypeVar("Request", Range, Piece)


class World:
    """With one host, which may have two blobs."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = HostMachine(SETTINGS)
        self.now = 100.0
        self.past: list[tuple[Event, float, list[Instruction]]] = []
        self.blobs = {D: Blob(), E: Blob()}
        self.ranges: dict[int, Range] = {}
        self.pieces: dict[int, Piece] = {}
        self.numbers: set[int] = set()
        self.links: set[str] = set()
        self.connected = False
        self.lost_at: float | None = None
        self.leases_given = 0

    # -- the runner ------------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        instructions = self.machine.handle(event, self.now)
        self.past.append((event, self.now, instructions))
        self.machine.validate()
        for instruction in instructions:
            self.carry_out(instruction)

    def goes_on(self, seconds: float) -> None:
        """Time passes; the host has a Tick whenever one is due."""
        until = self.now + seconds
        while (due := self.machine.next_deadline()) <= until:
            assert due > self.now, "what is due was not seen to"
            self.now = due
            self.feed(events.Tick())
            assert len(self.past) < 10_000, "it never comes to rest"
        self.now = until

    def carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case events.RequestRange():
                self.asks_origin(instruction)
            case events.RequestPiece():
                self.asks(instruction)
            case events.CancelRange(digest, request):
                assert self.ranges[request].asked.digest == digest
            case events.TrimRange(digest, request, stop):
                assert self.ranges[request].asked.digest == digest
                self.ranges[request].pieces = [index for index in self.ranges[request].pieces if index < stop]
            case events.CancelPiece(digest, request):
                assert self.pieces[request].asked.digest == digest
                assert not self.pieces[request].cancelled, "a request is cancelled twice"
                self.pieces[request].cancelled = True
            case events.Tell(message):
                assert FROM_HOST.decode(FROM_HOST.encode(message)) == message
                self.tells(message)
            case events.TellNeighbours(hosts, message):
                assert LINK.decode(LINK.encode(message)) == message
                assert set(hosts) <= self.links, "there is no link to who is told"
            case events.KeepLink(host):
                self.links.add(host)
            case events.ReleaseLink(host):
                self.links.remove(host)
            case _:
                self.carry_out_in_store(instruction)

    def carry_out_in_store(self, instruction: Instruction) -> None:
        match instruction:
            case events.Recover(digest):
                blob = self.blobs[digest]
                assert not blob.live, "a download begins while another is under way"
                blob.live = blob.recovering = True
                blob.begun += 1
            case events.Prepare(digest, size_bytes):
                self.blobs[digest].preparing = size_bytes
            case events.KeepSchedulers(urls):
                assert 0 < len(urls) == len(set(urls))
            case events.ReadDigests(digest):
                self.blobs[digest].reads += 1
            case Ended(digest):
                self.ends(instruction)
            case _:
                raise AssertionError(f"nobody has asked for {instruction}")

    def ends(self, ended: Ended) -> None:
        blob = self.blobs[ended.digest]
        assert blob.live, "it ended twice"
        blob.end()
        if ended.discard:
            blob.throw_away()
        if ended.phase is Phase.DISPROVED:
            assert ended.discard
            assert ended.digest in self.machine.downloads, "it does not begin anew"
            assert set(self.machine.downloads[ended.digest].origin.sources) == blob.sources
            blob.leases.clear()
        else:
            blob.sources.clear()
        if ended.phase is Phase.COMPLETE:
            assert blob.stored == {index: piece_digest(index) for index in range(COUNT)}

    def asks_origin(self, asked: events.RequestRange) -> None:
        blob = self.blobs[asked.digest]
        self.is_new(asked.request)
        assert asked.source in blob.sources
        pieces = [] if asked.stop is None else list(range(asked.first, asked.stop))
        assert not set(pieces) & set(blob.stored), "the origin is asked for what is held"
        for other in self.of_download(asked.digest, self.ranges):
            assert other.opened or other.asked.stop is not None, "another request was to tell the length"
            assert not set(pieces) & set(other.pieces), "the origin is asked for a piece twice"
        assert not set(pieces) & {each.asked.index for each in self.of_download(asked.digest, self.pieces)}
        download = self.machine.downloads[asked.digest]
        alone = not len(download.picker.neighbours)
        may_need = pieces[:1] if alone and download.origin.is_slow else pieces  # one slow answer is then for all
        self.may_ask_origin(blob, download.member.membership.state, may_need)
        self.ranges[asked.request] = Range(asked, blob.begun, blob.file, pieces)

    def may_ask_origin(self, blob: Blob, state: MembershipState, pieces: list[int]) -> None:
        match state:
            case MembershipState.JOINING:
                raise AssertionError("the origin is closed")
            case MembershipState.JOINED:
                leased = {index for left in blob.leases.values() for index in left}
                assert set(pieces) <= leased, "the origin is asked without a lease"
                assert leased
            case MembershipState.ORIGIN_ONLY:
                assert blob.refused, "nobody has sent this host to the origin"
            case MembershipState.STANDALONE:
                since = min(when for when in (self.lost_at, blob.waits_since) if when is not None)
                assert self.now >= since + SETTINGS.scheduler_timeout_s, "the scheduler had no time to answer"

    def asks(self, asked: events.RequestPiece) -> None:
        blob = self.blobs[asked.digest]
        self.is_new(asked.request)
        assert blob.adopted, "a piece has no place yet"
        assert asked.host in self.machine.downloads[asked.digest].picker.neighbours
        assert asked.host in self.links
        assert asked.index not in blob.stored, "a neighbour is asked for what is held"
        running = self.of_download(asked.digest, self.pieces)
        assert asked.host not in [each.asked.host for each in running if each.asked.index == asked.index]
        assert asked.index not in {
            index for each in self.of_download(asked.digest, self.ranges) for index in each.pieces
        }
        self.pieces[asked.request] = Piece(asked, blob.begun, blob.file)
        assert len(running) + 1 <= MAX_REQUESTS
        assert Counter(each.asked.host for each in running)[asked.host] <= 1

    def is_new(self, request: int) -> None:
        assert request not in self.numbers, "two requests have the same number"
        self.numbers.add(request)

    def of_download(self, digest: bytes, requests: dict[int, Request]) -> list[Request]:
        """The requests of the download that is under way."""
        begun = self.blobs[digest].begun
        return [each for each in requests.values() if each.asked.digest == digest and each.begun == begun]

    def tells(self, message: object) -> None:
        match message:
            case from_host.Join(digest):
                self.blobs[digest].joins += self.connected
            case from_host.Leave(digest):
                self.blobs[digest].leases.clear()
            case from_host.LeasePieces(lease, digest, first, digests):
                told = set(range(first, first + len(digests) // DIGEST_BYTES))
                assert told <= self.blobs[digest].leases[lease], "the scheduler would end the connection for this"
                self.blobs[digest].leases[lease] -= told
            case from_host.LeaseEnded(lease, digest):
                assert lease <= self.leases_given
                self.blobs[digest].leases.pop(lease, None)

    def comes(self, digest: bytes, request: int, file: int, index: int, got: bytes, *, choked: bool = False) -> None:
        """A piece is in the file that the request was for, which may be another download's by now, or nobody's."""
        blob = self.blobs[digest]
        if file != blob.file or blob.size_bytes is None:
            return
        blob.stored.setdefault(index, got)
        if blob.adopted:
            self.feed(events.PieceReceived(digest, request, index, blob.stored[index], choked))

    def hears(self, message: ToHost) -> None:
        if self.connected:
            self.feed(events.FromScheduler(message))

    def news(self, host: str, message: LinkMessage) -> None:
        if host in self.links:
            self.feed(events.FromNeighbour(host, message))

    # -- sources and schedulers ------------------------------------------------------------------------------------

    def loses_scheduler(self) -> None:
        self.connected = False
        self.lost_at = self.now
        self.feed(events.SchedulerLost())

    def finds_scheduler(self) -> None:
        self.connected, self.lost_at = True, None
        for digest, blob in self.blobs.items():
            blob.leases.clear()
            blob.joins = 0
            download = self.machine.downloads.get(digest)
            if download is not None and download.member.membership.state is not MembershipState.JOINING:
                blob.waits_since = self.now
        self.feed(events.SchedulerFound())

    def brings(self, digest: bytes, source: int, size_bytes: int | None) -> None:
        self.blobs[digest].sources.add(source)
        self.feed(events.SourceAdded(digest, source, UPSTREAMS[source], "library/app", size_bytes))

    def another_generation(self, blob: Blob) -> None:
        blob.generation += 1
        blob.leases.clear()

    # -- what the host waits for -----------------------------------------------------------------------------------

    def expected(self) -> list[Callable[[], None]]:
        expected: list[Callable[[], None]] = []
        for digest, blob in self.blobs.items():
            if blob.recovering:
                expected.append(partial(self.the_store_answers, digest))
            if blob.preparing is not None:
                expected.append(partial(self.it_has_its_place, digest))
            if blob.reads:
                expected.append(partial(self.digests_are_read, digest))
            if blob.adopted and blob.size_bytes == SIZE and len(blob.stored) == COUNT:
                expected.append(partial(self.the_sha256_is_known, digest))
            if self.connected and blob.joins:
                expected.append(partial(self.it_has_joined, digest, 1, 1, set(HOSTS)))
            download = self.machine.downloads.get(digest)
            if self.connected and download is not None and download.member.membership.joined and download.pieces.count:
                expected.append(partial(self.the_swarm_tells, digest, download))
        expected += [partial(self.the_origin_sends, request) for request in self.ranges]
        expected += [partial(self.a_neighbour_sends, request, 1) for request in self.pieces]
        return expected

    def the_store_answers(self, digest: bytes) -> None:
        """Every second time it knows which pieces it has, and not their digests."""
        blob = self.blobs[digest]
        blob.recovering = False
        blob.waits_since = self.now
        is_right = all(got == piece_digest(index) for index, got in blob.stored.items())
        is_whole = blob.size_bytes == SIZE and len(blob.stored) == COUNT
        if is_whole and not is_right:
            blob.throw_away()
        if blob.size_bytes is None:
            self.feed(events.PiecesHeld(digest))
            return
        blob.adopted = True
        pieces = {index: b"" if blob.begun % 2 else got for index, got in blob.stored.items()}
        self.feed(events.PiecesHeld(digest, blob.size_bytes, PIECE, pieces, True if is_whole else None))

    def it_has_its_place(self, digest: bytes) -> None:
        blob = self.blobs[digest]
        if blob.size_bytes is None:
            blob.size_bytes = blob.preparing
        blob.preparing = None
        blob.adopted = True
        self.feed(events.Prepared(digest))

    def digests_are_read(self, digest: bytes) -> None:
        self.blobs[digest].reads -= 1
        self.feed(events.DigestsRead(digest, dict(self.blobs[digest].stored)))

    def the_sha256_is_known(self, digest: bytes) -> None:
        blob = self.blobs[digest]
        ok, begun = all(got == piece_digest(index) for index, got in blob.stored.items()), blob.begun
        self.feed(events.BlobVerified(digest, ok))
        assert (digest in self.machine.seeds) == ok
        assert not blob.live or blob.begun == begun + 1

    def it_has_joined(self, digest: bytes, current: int, sized: int, others: set[str]) -> None:
        """`current` 0: a new map; `sized` 0: with another length than the blob has; an even number: with none."""
        blob = self.blobs[digest]
        blob.joins -= 1
        blob.waits_since = None
        if current == 0:
            self.another_generation(blob)
        size_bytes = 2 * SIZE if not sized else SIZE if sized % 2 else None
        neighbours = tuple(to_host.Neighbour(host, f"{host}:1", DISTANCES[host]) for host in sorted(others))
        self.hears(to_host.Joined(digest, blob.generation, size_bytes, False, neighbours))

    def the_swarm_tells(self, digest: bytes, download: Download) -> None:
        """The digests of two more pieces; or, if all are known, a neighbour that it holds what no other does."""
        unknown = [index for index in range(COUNT) if not download.pieces.known >> index & 1]
        if unknown:
            runs = tuple(to_host.DigestRun(index, piece_digest(index)) for index in unknown[:2])
            self.hears(to_host.PieceDigests(digest, self.blobs[digest].generation, runs))
            return
        missing = download.pieces.wanted & ~download.picker.neighbours.held_by_any()
        for host in list(download.picker.neighbours)[: missing > 0]:
            self.news(host, link.Bitfield(digest, self.blobs[digest].generation, False, bytes([missing & 255])))

    def the_origin_sends(self, request: int) -> None:
        running = self.ranges[request]
        digest = running.asked.digest
        if not running.opened:
            self.opens(request, running, self.blobs[digest])
        elif running.pieces:
            index = running.pieces.pop(0)
            self.comes(digest, request, running.file, index, piece_digest(index))
        else:
            del self.ranges[request]
            self.feed(events.RangeEnded(digest, request, Outcome.DONE))

    def opens(self, request: int, running: Range, blob: Blob) -> None:
        digest = running.asked.digest
        if running.begun != blob.begun or not blob.live:  # it was cancelled
            del self.ranges[request]
            self.feed(events.RangeEnded(digest, request, Outcome.BROKEN))
            return
        if blob.size_bytes not in (None, SIZE):
            del self.ranges[request]
            self.feed(events.RangeEnded(digest, request, Outcome.UNUSABLE, size_bytes=SIZE))
            return
        if running.asked.stop is None:
            running.pieces = list(range(4))
        running.opened = blob.adopted = True
        blob.size_bytes = SIZE
        self.feed(events.RangeOpened(digest, request, SIZE, PIECE, running.pieces[0], running.pieces[-1] + 1))

    def a_neighbour_sends(self, request: int, choked: int) -> None:
        sent = self.pieces.pop(request)
        self.comes(sent.asked.digest, request, sent.file, sent.asked.index, sent.asked.expected, choked=choked == 0)
