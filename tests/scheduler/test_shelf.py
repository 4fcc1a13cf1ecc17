"""Blobs that hosts hold and that nobody asks for: their cost, and the swarms that they become."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
from msgspec import structs

from scheduler.core.events import Connected, Received, Send, Tick
from scheduler.core.scheduler import Scheduler
from scheduler.core.shelf import MAX_PARTS
from scheduler.protocol.from_host import Announce, Holding, Leave, Need
from scheduler.protocol.to_host import MAX_BLOBS_PER_HOST, Failed
from tests.scheduler.messages_for_pull import JOIN, MIB, D, remove
from tests.scheduler.playbook import SETTINGS, VANISHES, Passes, Playbook, hello

PART = Holding(D, MIB, complete=False, have=b"\x01")
HELD = Announce((Holding(D, MIB, complete=True),))


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def of_many(first: int, count: int) -> Announce:
    return Announce(tuple(Holding(digest(number), 100, complete=True) for number in range(first, first + count)))


def shelved(play: Playbook) -> int:
    play.scheduler.validate()
    return len(play.scheduler._state.shelf)


def test_what_is_merely_held_has_no_swarm() -> None:
    play = Playbook("a", "b") >> ("a", HELD) >> ("b", HELD)
    assert play
    assert shelved(play) == 1
    statistics = play.scheduler.statistics()
    assert (statistics.swarms, statistics.members) == (1, 2)
    assert not play.scheduler._state.swarms


def test_whoever_wants_it_meets_those_that_hold_it() -> None:
    play = Playbook("a", "b", "c") >> ("a", HELD) >> ("b", HELD) >> ("c", JOIN)
    assert shelved(play) == 0
    (swarm,) = play.scheduler._state.swarms.values()
    assert {host.id for host in swarm.members} == {"a", "b", "c"}
    assert len(swarm.graph.providers) == 2


def test_a_part_of_it_is_held_too_and_known_to_whoever_wants_it() -> None:
    play = Playbook("a", "b", "c") >> ("a", HELD) >> ("b", Announce((PART,)))
    assert shelved(play) == 1
    assert play.scheduler.statistics().members == 2
    _ = play >> ("c", JOIN)
    (swarm,) = play.scheduler._state.swarms.values()
    assert {host.id: member.have for host, member in swarm.members.items()} == {"a": 0, "b": 1, "c": 0}
    assert len(swarm.graph.providers) == 2


def test_a_host_holds_parts_of_a_few_blobs_only() -> None:
    play = Playbook("a")
    for number in range(MAX_PARTS + 10):
        _ = play >> ("a", Announce((structs.replace(PART, digest=digest(number)),)))
    assert shelved(play) == MAX_PARTS
    _ = play >> ("a", Leave(digest(0))) >> ("a", Announce((PART,)))
    assert shelved(play) == MAX_PARTS


def test_a_need_before_the_join() -> None:
    play = Playbook("a", "b") >> ("a", HELD) >> ("b", Need(D, 0, 1)) >> ("b", JOIN)
    assert shelved(play) == 0
    assert play.scheduler.statistics().members == 2


@pytest.mark.parametrize("end", [Leave(D), VANISHES])
def test_a_holder_that_leaves(end: object) -> None:
    play = Playbook("a", "b") >> ("a", HELD) >> ("b", HELD) >> ("a", end)
    assert shelved(play) == 1
    play = play >> ("b", end)
    assert shelved(play) == 0
    assert play.scheduler.statistics().members == 0


def test_holders_that_disagree_on_the_size_disagree_in_the_swarm() -> None:
    play = Playbook("a", "b", "c") >> ("a", HELD) >> ("b", Announce((Holding(D, MIB + 1, complete=True),)))
    _ = play >> ("c", JOIN)
    (swarm,) = play.scheduler._state.swarms.values()
    assert swarm.size_bytes is None or swarm.size_disputed or len(swarm.length.dissenters(MIB)) == 1


def test_a_blob_that_all_hold_goes_back_and_comes_again() -> None:
    play = Playbook("a", "b", "c", settings=replace(SETTINGS, rest_s=10.0))
    _ = play >> ("a", HELD) >> ("b", JOIN) >> ("b", HELD)
    assert shelved(play) == 0
    assert play.scheduler.handle(Tick(), play.now + 9.0) == []
    ended = play.scheduler.handle(Tick(), play.now + 11.0)
    assert ended == [Send((1,), remove("b")), Send((2,), remove("a"))]
    assert shelved(play) == 1
    _ = play >> ("c", JOIN)
    assert shelved(play) == 0
    assert play.scheduler.statistics().members == 3


def test_a_swarm_in_which_somebody_wants_the_blob_stays() -> None:
    play = Playbook("a", "b", settings=replace(SETTINGS, rest_s=10.0))
    _ = play >> ("a", HELD) >> ("b", JOIN) >> Passes(30.0)
    assert shelved(play) == 0


class TestBound:
    """A host beyond its bound loses what is beyond it, and not its connection."""

    def full(self) -> Playbook:
        play = Playbook("a", "b")
        for first in range(0, MAX_BLOBS_PER_HOST, 512):
            assert not play.scheduler.handle(Received(1, of_many(first, 512)), play.now)
        return play

    def test_more_announced_blobs_are_ignored(self) -> None:
        play = self.full() >> ("a", HELD)
        assert play
        assert shelved(play) == MAX_BLOBS_PER_HOST
        assert play.scheduler.statistics().hosts == 2

    def test_a_wanted_blob_fails_until_another_is_taken_back(self) -> None:
        play = self.full() >> ("a", Need(D, 0, 1)) >> ("a", JOIN)
        assert play << ("a", Failed(D, 0, "this host has its maximum of blobs in the swarm"))
        _ = play >> ("a", Leave(digest(0))) >> ("a", JOIN)
        assert play.scheduler.statistics().members == MAX_BLOBS_PER_HOST

    def test_what_it_holds_already_may_be_announced_again(self) -> None:
        assert self.full() >> ("a", of_many(0, 512))


def test_what_a_held_blob_costs() -> None:
    count = 4096
    scheduler = Scheduler(SETTINGS)
    costs = []
    tracemalloc.start()
    try:
        for connection in range(1, 4):
            scheduler.handle(Connected(connection, hello(f"host{connection}")), 1.0)
            before = tracemalloc.get_traced_memory()[0]
            for first in range(0, count, 512):
                scheduler.handle(Received(connection, of_many(first, 512)), 1.0)
            costs.append((tracemalloc.get_traced_memory()[0] - before) / count)
    finally:
        tracemalloc.stop()
    assert costs[0] < 800
    assert costs[1] < 250
    assert costs[2] < 250


def test_repositories_that_a_host_names_one_after_the_other_are_forgotten() -> None:
    play = Playbook("a")
    for number in range(200):
        play.scheduler.handle(Received(1, structs.replace(JOIN, repository=f"library/{number}")), play.now)
    (swarm,) = play.scheduler._state.swarms.values()
    assert len(swarm.sources) < 50
    (member,) = swarm.members.values()
    assert member.source in swarm.sources
