"""A private blob: its download asks the origin alone, and no other host hears of it."""

from __future__ import annotations

from msgspec.structs import replace

from peer.core.events import (
    BlobStored,
    PiecesHeld,
    Prepare,
    Prepared,
    ReaderMoved,
    Recover,
    SchedulerFound,
)
from scheduler.protocol.from_host import Announce, Holding
from tests.peer.host_playbook import (
    SIZE,
    D,
    Playbook,
    fetching,
    source,
)

HIDDEN = replace(source(), private=True)


def private() -> Playbook:
    """A client waits, and the origin has been asked at once, without a lease."""
    playbook = Playbook() >> HIDDEN << Recover(D) >> ReaderMoved(D, 1, 0, None) >> PiecesHeld(D) << Prepare(D, SIZE)
    return playbook >> Prepared(D)


def test_the_origin_is_asked_without_a_word_to_the_scheduler() -> None:
    playbook = private()
    playbook.machine.validate()
    assert D in playbook.machine.private
    assert not playbook.machine.may_serve(D, 0, 1)


def test_one_that_proves_public_is_announced() -> None:
    announced = Announce((Holding(D, SIZE, complete=True),))
    assert Playbook() >> SchedulerFound() >> BlobStored(D, SIZE) << announced
    assert Playbook() >> BlobStored(D, SIZE) << announced >> SchedulerFound() << announced


def test_a_download_that_others_know_of_is_taken_back_when_it_becomes_private() -> None:
    machine = fetching().machine
    assert machine.links.wanted_by(D)
    out = machine.handle(replace(source(1, upstream="ghcr.io"), private=True), 1.0)
    assert not machine.links.wanted_by(D)
    told = [type(getattr(each, "message", None)).__name__ for each in out]
    assert told.count("Leave") == 1
    assert told.count("DontHave") == 1
    assert not {"Join", "Announce", "Progress", "Need", "Have"} & set(told)
    assert not machine.may_serve(D, 0, 1)
