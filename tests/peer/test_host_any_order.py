"""Whatever scheduler, neighbours, origin, store and clock do, in any order: the invariants of a host hold.

The world (`tests.peer.host_world`) does what it likes: bytes are right, but what the scheduler says of the map or of
the length may be wrong.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peer.core import events
from peer.core.events import Outcome, PeerOutcome
from peer.core.host import HostMachine
from scheduler.protocol import link, to_host
from scheduler.protocol.fields import DIGEST_BYTES
from tests.peer.host_playbook import PIECE, D, E
from tests.peer.host_playbook import digest as piece_digest
from tests.peer.host_world import COUNT, DISTANCES, HOSTS, SETTINGS, SIZE, UPSTREAMS, World

blobs = st.sampled_from((D, E))
hosts = st.sampled_from(HOSTS)
indices = st.integers(0, COUNT - 1)
sets = st.integers(0, (1 << COUNT) - 1)
often = st.integers(0, 5)
"""0 for what is rare."""
picks = st.lists(st.integers(0, 63), min_size=1, max_size=16)
failures = st.sampled_from([None, PeerOutcome.CHOKED, PeerOutcome.GONE, PeerOutcome.CORRUPT, PeerOutcome.CANCELLED])

RARE = (
    "a reader leaves",
    "p2pd stops",
    "p2pd drains",
    "the store fails",
    "a seed is lost",
    "the scheduler goes or comes",
    "a gateway",
    "a recall",
    "a length",
    "a reset",
    "a lease is revoked",
    "the end",
)


class AnyOrder(World, RuleBasedStateMachine):
    """A host that has two blobs, each on its way, held whole, or neither."""

    # -- how it begins, and time -----------------------------------------------------------------------------------

    @initialize(connected=often, seed=often, knows=st.booleans(), picks=picks)
    def it_begins(self, connected: int, seed: int, knows: bool, picks: list[int]) -> None:
        if seed == 0:
            self.blobs[E].size_bytes = SIZE
            self.blobs[E].stored = {index: piece_digest(index) for index in range(COUNT)}
            self.feed(events.BlobStored(E, SIZE))
        self.loses_scheduler()
        if connected:
            self.finds_scheduler()
        self.brings(D, 0, SIZE if knows else None)
        if seed:
            self.brings(E, 0, SIZE)
        for digest in (D, E):
            self.feed(events.ReaderMoved(digest, 1, 0, None))
        self.the_world_goes_on(picks)

    @rule(seconds=st.sampled_from((0.001, 0.05, 0.3, 1.0, 4.0, 70.0)))
    def time_passes(self, seconds: float) -> None:
        self.goes_on(seconds)

    # -- everybody does what is expected of them -------------------------------------------------------------------

    @rule(picks=picks)
    def the_world_goes_on(self, picks: list[int]) -> None:
        """So many times, something that the host waits for comes."""
        for pick in picks:
            expected = self.expected()
            if expected:
                expected[pick % len(expected)]()

    # -- or not ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.ranges)
    @rule(data=st.data(), refuses=often)
    def a_range_fails(self, data: st.DataObject, refuses: int) -> None:
        request = data.draw(st.sampled_from(sorted(self.ranges)))
        ended = self.ranges.pop(request)
        outcome, status = (Outcome.BROKEN, 0) if refuses else (Outcome.REFUSED, 401)
        self.feed(events.RangeEnded(ended.asked.digest, request, outcome, status))

    @precondition(lambda self: self.pieces)
    @rule(data=st.data(), outcome=failures)
    def a_neighbour_fails(self, data: st.DataObject, outcome: PeerOutcome | None) -> None:
        """None: it sends the piece, and chokes."""
        request = data.draw(st.sampled_from(sorted(self.pieces)))
        if outcome is None:
            self.a_neighbour_sends(request, 0)
            return
        ended = self.pieces.pop(request)
        outcome = PeerOutcome.CANCELLED if ended.cancelled else outcome
        self.feed(events.PieceFailed(ended.asked.digest, request, outcome))

    @precondition(lambda self: self.connected and any(blob.joins for blob in self.blobs.values()))
    @rule(current=often, sized=often, others=st.sets(hosts, min_size=1))
    def it_joins_another_swarm_than_before(self, current: int, sized: int, others: set[str]) -> None:
        digest = next(digest for digest, blob in self.blobs.items() if blob.joins)
        self.it_has_joined(digest, current, sized, others)

    # -- clients ---------------------------------------------------------------------------------------------------

    @rule(digest=blobs, source=st.integers(0, 2), knows=st.booleans())
    def a_client_brings_a_source(self, digest: bytes, source: int, knows: bool) -> None:
        if digest not in self.machine.seeds and source not in self.blobs[digest].sources:
            self.brings(digest, source, SIZE if knows else None)

    @rule(digest=blobs, position=indices, length=st.none() | st.integers(1, 3), background=often)
    def a_client_reads(self, digest: bytes, position: int, length: int | None, background: int) -> None:
        stop = None if length is None else (position + length) * PIECE
        self.feed(events.ReaderMoved(digest, 1, position * PIECE, stop, background == 0))

    # -- the scheduler ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.connected)
    @rule(digest=blobs, add=st.sets(hosts), remove=st.sets(hosts))
    def neighbours_change(self, digest: bytes, add: set[str], remove: set[str]) -> None:
        neighbours = tuple(to_host.Neighbour(host, f"{host}:1", DISTANCES[host]) for host in sorted(add))
        self.hears(to_host.Neighbours(digest, neighbours, tuple(sorted(remove))))

    @precondition(lambda self: self.connected)
    @rule(digest=blobs, old=often, first=indices, count=st.integers(1, 8), lie=st.integers(0, 9))
    def digests_are_told(self, digest: bytes, old: int, first: int, count: int, lie: int) -> None:
        known = [
            b"x" * DIGEST_BYTES if lie == 0 else piece_digest(index)
            for index in range(first, min(COUNT, first + count))
        ]
        download = self.machine.downloads.get(digest)
        if download is None or download.pieces.count:  # else the scheduler, too, does not know the length
            generation = self.blobs[digest].generation + (old == 0)
            self.hears(to_host.PieceDigests(digest, generation, (to_host.DigestRun(first, b"".join(known)),)))

    @precondition(lambda self: self.connected)
    @rule(digest=blobs, first=indices, count=st.integers(1, 8))
    def a_lease_is_given(self, digest: bytes, first: int, count: int) -> None:
        blob = self.blobs[digest]
        pieces = set(range(first, min(COUNT, first + count)))
        if not any(pieces & left for left in blob.leases.values()):
            self.leases_given += 1
            blob.leases[self.leases_given] = set(pieces)
            self.hears(
                to_host.Lease(self.leases_given, digest, blob.generation, first, first + len(pieces), within_s=15.0)
            )

    # -- neighbours ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.links)
    @rule(digest=blobs, host=hosts, have=sets, ahead=often, complete=often)
    def a_neighbour_tells_what_it_holds(self, digest: bytes, host: str, have: int, ahead: int, complete: int) -> None:
        generation = self.blobs[digest].generation + (ahead == 0)
        self.news(host, link.Bitfield(digest, generation, complete == 0, bytes([have])))

    @precondition(lambda self: self.links)
    @rule(digest=blobs, host=hosts, first=indices, what=st.integers(0, 9))
    def a_neighbour_gains_or_loses(self, digest: bytes, host: str, first: int, what: int) -> None:
        match what:
            case 0:
                self.news(host, link.DontHave(digest))
            case 1 | 2:
                self.news(host, link.Unchoke(digest))
            case 3 if host in self.links:
                self.feed(events.LinkUp(host))
            case 4 if host in self.links:
                self.links.remove(host)
                self.feed(events.LinkLost(host))
            case _:
                generation = self.blobs[digest].generation + (what == 5)
                self.news(host, link.Have(digest, generation, (link.Span(first, first + 2),)))

    # -- what is rare ----------------------------------------------------------------------------------------------

    @rule(what=st.sampled_from(RARE), digest=blobs, choice=st.booleans())
    def something_rare_happens(self, what: str, digest: bytes, choice: bool) -> None:
        blob = self.blobs[digest]
        match what:
            case "a reader leaves":
                self.feed(events.ReaderLeft(digest, 1))
            case "p2pd drains" if choice:
                self.feed(events.Draining())
                assert not any(each.readers.background for each in self.machine.downloads.values())
            case "p2pd stops" if choice:
                self.feed(events.Stopped())
                assert not self.machine.downloads
            case "the store fails" if blob.live:
                self.feed(events.StoreFailed(digest, discard=choice))
                assert not blob.live
            case "a seed is lost" if digest in self.machine.seeds:
                blob.throw_away()
                if choice:  # a client is faster than the store's word
                    self.brings(digest, 0, SIZE)
                self.feed(events.BlobRemoved(digest))
                assert digest not in self.machine.seeds
            case "the scheduler goes or comes":
                if self.connected:
                    self.loses_scheduler()
                else:
                    self.finds_scheduler()
            case _ if self.connected:
                self.the_scheduler_says(what, digest, choice)

    def the_scheduler_says(self, what: str, digest: bytes, choice: bool) -> None:
        blob = self.blobs[digest]
        match what:
            case "a recall":
                reads = blob.reads
                self.hears(to_host.RequestDigests(digest))
                assert blob.reads == reads + (digest in self.machine.seeds)
            case "a gateway":
                self.hears(to_host.Gateway(digest, 0b1010 if choice else 0))
            case "a length":
                self.hears(to_host.Sized(digest, blob.generation, SIZE if choice else 2 * SIZE))
            case "a reset":
                self.another_generation(blob)
                self.hears(to_host.Reset(digest, blob.generation))
            case "a lease is revoked" if blob.leases:
                number = min(blob.leases)
                del blob.leases[number]
                self.hears(to_host.LeaseRevoked(number, digest))
            case "the end":
                blob.leases.clear()
                blob.refused = blob.live
                self.hears(to_host.OriginRefused(digest, 401) if choice else to_host.Failed(digest, 0, "no"))

    # -- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def a_blob_is_a_download_or_a_seed_or_neither(self) -> None:
        for digest, blob in self.blobs.items():
            assert blob.live == (digest in self.machine.downloads)
            assert not (blob.live and digest in self.machine.seeds)

    @invariant()
    def a_download_holds_what_is_in_the_store(self) -> None:
        for digest, blob in self.blobs.items():
            download = self.machine.downloads.get(digest)
            if download is not None and blob.adopted:
                assert download.pieces.held == sum(1 << index for index in blob.stored)

    @invariant()
    def only_what_matches_the_map_is_served(self) -> None:
        for digest, blob in self.blobs.items():
            download = self.machine.downloads.get(digest)
            for index in range(COUNT):
                if self.machine.may_serve(digest, index * PIECE, (index + 1) * PIECE):
                    assert blob.stored[index] == (download.pieces.expected[index] if download else piece_digest(index))

    @invariant()
    def each_request_has_its_slot_and_no_slot_is_left_unused(self) -> None:
        used = Counter(UPSTREAMS[each.asked.source] for each in self.ranges.values())
        assert all(count <= SETTINGS.max_ranges_per_origin for count in used.values())
        assert +Counter(self.machine.slots.used()) == used
        for download in self.machine.downloads.values():
            upstream = download.next_upstream()
            assert upstream is None or not self.machine.slots.is_free(upstream), "a request waits for no reason"

    @invariant()
    def there_is_a_link_to_each_neighbour_and_to_nobody_else(self) -> None:
        assert set(self.machine.links.hosts()) == self.links
        needed = set()
        for digest in self.blobs:
            wanted = set(self.machine.links.wanted_by(digest))
            download = self.machine.downloads.get(digest)
            if download is None:
                assert not wanted or digest in self.machine.seeds
            else:
                assert wanted == set(download.picker.neighbours)
            needed |= wanted
        assert needed == self.links

    def teardown(self) -> None:
        """Here the machine is not asked for its deadline, and so takes no shortcut for news that change nothing."""
        again = HostMachine(SETTINGS)
        for event, now, instructions in self.past:
            assert again.handle(event, now) == instructions, "the same events give the same instructions"


AnyOrder.TestCase.settings = settings(max_examples=200, stateful_step_count=60)
TestAnyOrder = AnyOrder.TestCase
