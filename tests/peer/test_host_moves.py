"""A download whose swarm moves to another scheduler: what is under way goes on."""

from __future__ import annotations

from peer.core import events
from peer.core.download import Download
from peer.core.events import Event, Instruction, Tell
from peer.core.host import HostMachine, HostSettings
from peer.core.scheduler_set import LEAVE_AFTER_S
from peer.core.session import STEADY_S, SessionState
from peer.core.swarm_member import FORMER_S
from scheduler.protocol import from_host, to_host
from scheduler.protocol.codec import ToHost
from scheduler.protocol.rendezvous import ranked
from tests.peer.host_playbook import (
    SIZE,
    D,
    digest,
    digests,
    holds,
    joined,
    lease,
    opened,
    range_ended,
    received,
    source,
)

FIRST, SECOND = ranked(D, ["http://a:65003", "http://b:65003"])


class Scene:
    """A host of two neighbours, which has a lease of pieces 0 and 1, and asks a neighbour for piece 2."""

    def __init__(self) -> None:
        self.machine = HostMachine(HostSettings(schedulers=(FIRST, SECOND), host="host", linger_s=600.0))
        self.now = 100.0
        self.feed(events.SchedulerLost(self.machine.schedulers.home.url))
        self.feed(events.SchedulerFound(scheduler=self.machine.schedulers.home.url))
        self.feed(source(size_bytes=SIZE))
        for url in self.machine.schedulers.needed:
            self.feed(events.SchedulerFound(scheduler=url))
        self.feed(events.ReaderMoved(D, 1, 0, None))
        self.feed(events.PiecesHeld(D))
        self.feed(events.Prepared(D))
        self.hears(FIRST, joined("b", "c"))
        self.feed(events.FromNeighbour("b", holds(2)))
        self.hears(FIRST, digests(2))
        self.hears(FIRST, lease(7, 0, 2))
        self.feed(opened(1, 0, 2))
        assert self.download.pieces.asked_of_origin == 0b11
        assert self.download.pieces.asked_of_peers == 0b100

    @property
    def download(self) -> Download:
        return self.machine.downloads[D]

    def feed(self, event: Event) -> list[Instruction]:
        out = self.machine.handle(event, self.now)
        self.machine.validate()
        return out

    def hears(self, url: str, message: ToHost) -> list[Instruction]:
        return self.feed(events.FromScheduler(message, url))

    def passes(self, seconds: float) -> list[Instruction]:
        until, out = self.now + seconds, list[Instruction]()
        while (due := self.machine.next_deadline()) <= until:
            self.now = max(self.now, due)
            out += self.feed(events.Tick())
        self.now = until
        return out

    def moves(self) -> list[Instruction]:
        """The scheduler stops, and the other one is joined."""
        out = self.feed(events.SchedulerLost(FIRST, stops=True))
        if self.machine.schedulers.sessions[SECOND].state is not SessionState.CONNECTED:
            out += self.feed(events.SchedulerFound(scheduler=SECOND))
        return out


def joins(instructions: list[Instruction]) -> list[from_host.Join]:
    return [
        each.message for each in instructions if isinstance(each, Tell) and isinstance(each.message, from_host.Join)
    ]


def cancelled(instructions: list[Instruction]) -> list[Instruction]:
    return [
        each for each in instructions if isinstance(each, events.CancelPiece | events.CancelRange | events.TrimRange)
    ]


def test_the_next_scheduler_hears_that_others_will_come() -> None:
    (join,) = joins(Scene().moves())
    assert join.moved


def test_the_next_scheduler_hears_what_is_on_its_way_and_leases_it_again() -> None:
    scene = Scene()
    out = scene.moves()
    assert [each.fetching for each in joins(out)] == [b"\x03"]
    out = [*scene.hears(SECOND, joined("d")), *scene.hears(SECOND, lease(1, 0, 2))]
    assert not [each for each in out if isinstance(each, events.RequestRange)], "it comes already"
    assert Tell(from_host.LeasePieces(1, D, 0, digest(0))) in scene.feed(received(1, 0))


def test_no_request_is_cancelled() -> None:
    scene = Scene()
    out = [*scene.moves(), *scene.hears(SECOND, joined("d")), *scene.hears(SECOND, to_host.Neighbours(D, (), ()))]
    assert cancelled(out) == []
    assert set(scene.download.picker.neighbours) == {"b", "c", "d"}


def test_pieces_that_the_scheduler_before_leased_are_announced_as_they_land() -> None:
    scene = Scene()
    scene.moves()
    scene.hears(SECOND, joined("d"))
    holding = from_host.Holding(D, SIZE, complete=False, have=b"\x01")
    assert Tell(from_host.Announce((holding,))) in scene.feed(received(1, 0))
    scene.feed(range_ended(1, events.Outcome.DONE))
    report = scene.hears(SECOND, to_host.RequestDigests(D))
    digests_told = [each.message.digests for each in report if isinstance(each, Tell)]  # type: ignore[union-attr]
    assert digests_told == [digest(0)]


def test_a_lease_of_the_scheduler_before_is_told_to_nobody() -> None:
    scene = Scene()
    scene.moves()
    scene.hears(SECOND, joined("d"))
    told = [each.message for each in scene.feed(received(1, 0)) if isinstance(each, Tell)]
    assert not [each for each in told if isinstance(each, from_host.LeasePieces)]


def test_neighbours_of_before_go_in_a_while_unless_they_are_named_again() -> None:
    scene = Scene()
    scene.moves()
    scene.hears(SECOND, joined("d"))
    scene.feed(received(0, 2))
    scene.hears(SECOND, to_host.Neighbours(D, (to_host.Neighbour("c", "c:1", 0),), ()))
    scene.passes(FORMER_S - 0.1)
    assert set(scene.download.picker.neighbours) == {"b", "c", "d"}
    scene.passes(0.1)
    assert set(scene.download.picker.neighbours) == {"c", "d"}


def test_a_scheduler_that_is_there_still_is_told_of_the_move_in_a_while() -> None:
    """It would have the neighbours that have not moved yet end what they transfer."""
    scene = Scene()
    scene.moves()
    scene.hears(SECOND, joined("d"))
    out = scene.feed(events.SchedulerFound(scheduler=FIRST))
    out += scene.passes(STEADY_S)
    assert [each.moved for each in joins(out)] == [True], "it has its share back"
    assert not [each for each in out if isinstance(each, Tell) and isinstance(each.message, from_host.Leave)]
    assert Tell(from_host.Leave(D), SECOND) in scene.passes(LEAVE_AFTER_S)


def test_only_the_scheduler_that_a_blob_is_at_is_heard_on_it() -> None:
    scene = Scene()
    assert scene.hears(SECOND, digests(3)) == []
    assert not scene.download.pieces.known >> 3
    ended = from_host.LeaseEnded(9, D, from_host.LeaseOutcome.RETURNED)
    assert scene.hears(SECOND, lease(9, 3, 4)) == [Tell(ended, SECOND)], "or nobody would have it for a while"


class TestALeaseOfTheSchedulerBefore:
    """If all hosts have moved, each lease that goes back is the next host's at once, and so on."""

    def moved(self) -> Scene:
        """The blob is at the first scheduler again, and the second one is not told so yet."""
        scene = Scene()
        scene.moves()
        scene.hears(SECOND, joined("d"))
        scene.feed(events.SchedulerFound(scheduler=FIRST))
        scene.passes(STEADY_S)
        assert scene.hears(SECOND, lease(9, 3, 4)) == [returned(9, SECOND)], "a host that has not moved may have it"
        return scene

    def test_is_given_back_once_and_then_kept_until_the_blob_leaves(self) -> None:
        scene = self.moved()
        assert scene.hears(SECOND, lease(10, 3, 4)) == []
        assert Tell(from_host.Leave(D), SECOND) in scene.passes(LEAVE_AFTER_S)

    def test_is_given_back_if_the_blob_is_there_again(self) -> None:
        scene = self.moved()
        scene.hears(SECOND, lease(10, 3, 4))
        assert returned(10, SECOND) in scene.feed(events.SchedulerLost(FIRST, stops=True))


def returned(number: int, scheduler: str) -> Instruction:
    return Tell(from_host.LeaseEnded(number, D, from_host.LeaseOutcome.RETURNED), scheduler)
