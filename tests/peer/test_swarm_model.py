"""Whole pulls: the real scheduler and real members, in the simulation of `tests.peer.swarm_model`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from peer.core.member import DISPROVED
from peer.core.swarm_events import Fetch
from scheduler.protocol.connection import Closing
from scheduler.protocol.content import Content
from scheduler.protocol.from_host import Corrupt, Disproved, Fault, NeighbourFailed
from tests.peer.swarm_host import Host, right
from tests.peer.swarm_model import Model


def named(count: int) -> list[Host]:
    return [Host(f"h{number:02}") for number in range(count)]


def pulled(hosts: list[Host], pieces: int, seed: int = 0) -> Model:
    """A pull in which nothing went wrong."""
    model = Model(hosts, pieces, seed=seed)
    model.run()
    return model


def everybody_is_right(hosts: list[Host], pieces: int) -> None:
    for host in hosts:
        assert host.whole
        assert host.contents == {index: right(index) for index in range(pieces)}


def began(model: Model, pieces: int) -> Callable[[], bool]:
    """Whether so many pieces have left the origin."""
    return lambda: model.origin_gave.total() >= pieces


class TestAPull:
    @pytest.mark.parametrize(("hosts", "pieces"), [(1, 5), (2, 1), (2, 5), (5, 16), (13, 33), (30, 64)])
    def test_each_piece_leaves_the_origin_once_and_reaches_each_host_once(self, hosts: int, pieces: int) -> None:
        model = pulled(swarm := named(hosts), pieces, seed=hosts)
        everybody_is_right(swarm, pieces)
        assert set(model.origin_gave.values()) == {1}
        assert model.origin_gave.total() == pieces
        for host in swarm:
            assert set(host.landed.values()) <= {1}
            assert host.pulls == 1

    def test_a_length_that_nobody_knew(self) -> None:
        swarm = [Host(f"h{number}", knows_size=False) for number in range(6)]
        model = pulled(swarm, 20)
        everybody_is_right(swarm, 20)
        assert set(model.origin_gave.values()) == {1}

    def test_a_tiny_blob_travels_in_messages(self) -> None:
        swarm = named(9)
        model = pulled(swarm, 0)
        assert model.origin_gave.total() == 1
        assert sum(isinstance(message, Content) for _, message in model.told) == 1
        assert not any(host.asked for host in swarm)

    def test_the_same_seed_gives_the_same_instructions(self) -> None:
        first, again, other = (pulled(named(7), 24, seed=seed).instructions for seed in (5, 5, 6))
        assert first == again
        assert first != other

    def test_what_an_earlier_download_left_does_not_leave_the_origin_again(self) -> None:
        swarm = [Host("a"), Host("b", late_s=0.1), Host("c", late_s=0.1)]
        swarm[0].contents = {index: right(index) for index in range(3, 13)}
        swarm[1].contents = {index: right(index) for index in range(10, 16)}
        model = pulled(swarm, 20)
        everybody_is_right(swarm, 20)
        assert not set(model.origin_gave) & set(range(3, 13))
        assert set(model.origin_gave.values()) == {1}

    def test_hosts_that_come_late_get_all_of_it_from_those_that_have_it(self) -> None:
        swarm = [Host("a"), *(Host(name, late_s=0.1) for name in "bcd")]
        swarm[0].contents = {index: right(index) for index in range(16)}
        swarm[0].whole = True
        model = pulled(swarm, 16)
        everybody_is_right(swarm, 16)
        assert model.origin_gave.total() == 0


class TestNeighboursThatFail:
    def test_one_that_sends_other_bytes_is_reported_and_dropped(self) -> None:
        swarm = named(8)
        swarm[1].corrupts = True
        model = Model(swarm, 32, seed=3)
        model.run(lambda: all(host.whole for host in swarm if not host.corrupts))
        everybody_is_right([host for host in swarm if not host.corrupts], 32)
        reports = [(who, message.sender) for who, message in model.told if isinstance(message, Corrupt)]
        assert {sender for _, sender in reports} == {"h01"}
        assert len(reports) == len(set(reports)), "a host asks it once more after it has reported it"
        assert model.closed == {"h01": Closing.QUARANTINED}
        assert max(model.origin_gave.values()) <= 3, "its word on what it had fetched is not taken any more"

    def test_one_that_vanishes(self) -> None:
        swarm = named(8)
        model = Model(swarm, 32, seed=3, lease_s=2.0)
        model.run(began(model, 6))
        gone = next(host for host in swarm if host.transfers)
        model.vanish(gone)
        model.run()
        everybody_is_right([host for host in swarm if host is not gone], 32)
        assert max(model.origin_gave.values()) <= 2, "what only it had leaves the origin again"
        assert not gone.whole

    def test_one_that_is_slow_is_waited_for_only_where_nobody_else_has_the_piece(self) -> None:
        swarm = named(8)
        swarm[1].slow = 60.0
        model = Model(swarm, 32, seed=2)
        model.run()
        everybody_is_right(swarm, 32)
        assert set(model.origin_gave.values()) == {1}
        for host in swarm:
            assert all(landed == 1 for landed in host.landed.values())

    def test_two_that_are_slow_and_hold_the_same_are_hedged(self) -> None:
        swarm = named(3)
        for host in swarm[:2]:
            host.whole = True
            host.contents = {index: right(index) for index in range(5)}
        swarm[0].slow = 100.0
        model = Model(swarm, 5, seed=1)
        model.run(within_s=4.0)
        asked = [line for line in model.instructions if f"h02 {Fetch.__name__}(" in line]
        assert 5 < len(asked) <= 10
        assert set(swarm[2].landed.values()) == {1}

    def test_full_hosts_refuse_and_everybody_is_served_in_the_end(self) -> None:
        swarm = [Host(f"h{number}", upload_slots=1) for number in range(10)]
        model = pulled(swarm, 16)
        everybody_is_right(swarm, 16)
        failed = [message for _, message in model.told if isinstance(message, NeighbourFailed)]
        assert not [message for message in failed if message.fault is not Fault.FULL]


class TestLies:
    @pytest.mark.parametrize(("hosts", "seed"), [(3, 1), (4, 1), (8, 3), (12, 5)])
    def test_a_publisher_of_wrong_digests_is_found_out(self, hosts: int, seed: int) -> None:
        swarm = named(hosts)
        liar = swarm[1]
        liar.lies = True
        model = Model(swarm, 32, seed=seed)
        model.run(lambda: all(host.whole for host in swarm if host is not liar))
        everybody_is_right([host for host in swarm if host is not liar], 32)
        assert any(isinstance(message, Disproved) for _, message in model.told)
        assert model.closed == {liar.name: Closing.QUARANTINED}
        assert all(host.outcome == DISPROVED and host.pulls == 2 for host in swarm if host is not liar)
        assert max(model.origin_gave.values()) <= 3, "the liar's copy, and two that agree"

    def test_where_no_third_host_can_tell_who_is_right_each_asks_the_origin_itself(self) -> None:
        swarm = named(2)
        swarm[1].lies = True
        model = Model(swarm, 32, seed=1)
        model.run(lambda: swarm[0].whole)
        everybody_is_right(swarm[:1], 32)
        assert not model.closed


class TestWithoutAScheduler:
    def test_one_that_restarts_in_the_middle(self) -> None:
        swarm = named(8)
        model = Model(swarm, 64, seed=3)
        model.run(began(model, 30))
        model.stop_scheduler()
        model.after(1.0, model.start_scheduler)
        model.run()
        everybody_is_right(swarm, 64)
        assert model.origin_gave.total() <= 64 + 16, "at most what was on its way, and not published"

    def test_one_that_is_gone_for_good(self) -> None:
        swarm = named(8)
        model = Model(swarm, 64, seed=3)
        model.run(began(model, 30))
        model.stop_scheduler()
        model.run()
        everybody_is_right(swarm, 64)
        published = sum(host.landed.total() for host in swarm)
        assert published > 8 * 20, "what was published comes from neighbours"

    def test_none_from_the_start(self) -> None:
        swarm = named(3)
        model = Model(swarm, 16)
        model.stop_scheduler()
        model.run()
        everybody_is_right(swarm, 16)
        assert model.origin_gave.total() == 3 * 16

    def test_one_that_comes_when_hosts_have_begun_alone(self) -> None:
        swarm = named(4)
        model = Model(swarm, 32)
        model.stop_scheduler()
        model.run(began(model, 8))
        model.start_scheduler()
        model.run()
        everybody_is_right(swarm, 32)
        assert model.origin_gave.total() < 4 * 32, "what had not left the origin by then leaves it once"


class TestTheOrigin:
    def test_a_host_that_it_refuses_is_the_only_one_to_suffer(self) -> None:
        swarm = named(5)
        swarm[1].refused = 401
        model = pulled(swarm, 32)
        everybody_is_right([host for host in swarm if not host.refused], 32)
        assert set(model.origin_gave.values()) == {1}

    def test_it_dies_when_all_of_the_blob_has_left_it(self) -> None:
        swarm = named(8)
        model = Model(swarm, 32, seed=2)
        model.run(began(model, 32))
        model.origin_up = False
        model.run()
        everybody_is_right(swarm, 32)

    def test_it_dies_half_way(self) -> None:
        swarm = named(4)
        model = Model(swarm, 32, seed=2)
        model.run(began(model, 16))
        model.origin_up = False
        model.run(lambda: all(host.pulls > 1 for host in swarm))
        assert all(host.outcome for host in swarm), "each has a reason to give to its client"
        model.origin_up = True
        model.run()
        everybody_is_right(swarm, 32)
        assert model.origin_gave.total() <= 32 + 16
