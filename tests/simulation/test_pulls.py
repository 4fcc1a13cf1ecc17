"""Whole pulls: the real scheduler and real members in the simulated world, with lies, losses and ends of all kinds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from p2pd.simulation.scenario import Misbehaviour
from peer.core.events import RequestPiece
from peer.core.origin_requests import GIVE_UP_S
from peer.core.swarm_member import MAP_DISPROVED
from scheduler.core.spot_checks import CHECKERS, MAX_SILENCES
from scheduler.protocol.connection import Closing
from scheduler.protocol.from_host import Corrupt, Disproved, Fault, InlineBlob, NeighbourFailed
from tests.simulation.playing import Playing


def pulled(hosts: int, pieces: int, seed: int = 0) -> Playing:
    """A pull in which nothing went wrong."""
    run = Playing(hosts, pieces, seed=seed)
    run.run()
    return run


def began(run: Playing, pieces: int) -> Callable[[], bool]:
    """Whether so many pieces have left the origin."""
    return lambda: run.cluster.origin.gave.total() >= pieces


class TestAPull:
    @pytest.mark.parametrize(("hosts", "pieces"), [(1, 5), (2, 1), (2, 5), (5, 16), (13, 33), (30, 64)])
    def test_each_piece_leaves_the_origin_once_and_reaches_each_host_once(self, hosts: int, pieces: int) -> None:
        run = pulled(hosts, pieces, seed=hosts)
        run.is_right(*run.hosts)
        assert set(run.left_the_origin().values()) == {1}
        assert run.left_the_origin().total() == pieces
        for host in run.hosts:
            assert set(run.came_from_neighbours(host).values()) <= {1}
            assert host.attempts == 1

    def test_a_length_that_nobody_knew(self) -> None:
        run = Playing(6, 20)
        for host in run.hosts:
            host.knows_sizes = False
        run.run()
        run.is_right(*run.hosts)
        assert set(run.left_the_origin().values()) == {1}

    def test_a_tiny_blob_travels_in_messages(self) -> None:
        run = pulled(9, 0)
        assert run.left_the_origin().total() == 1
        assert sum(isinstance(message, InlineBlob) for _, message in run.cluster.schedulers.heard) == 1
        assert not any(RequestPiece.__name__ in line for line in run.cluster.instructions)

    def test_the_same_seed_gives_the_same_instructions(self) -> None:
        first, requeue, other = (pulled(7, 24, seed=seed).cluster.instructions for seed in (5, 5, 6))
        assert first == requeue
        assert first != other

    def test_what_an_earlier_download_left_does_not_leave_the_origin_again(self) -> None:
        run = Playing(3, 20, late_s={1: 0.1, 2: 0.1})
        run.holds(run.hosts[0], 3, 13)
        run.holds(run.hosts[1], 10, 16)
        run.run()
        run.is_right(*run.hosts)
        assert not set(run.left_the_origin()) & set(range(3, 13))
        assert set(run.left_the_origin().values()) == {1}

    def test_hosts_that_come_late_get_all_of_it_from_those_that_have_it(self) -> None:
        run = Playing(4, 16, late_s={1: 0.1, 2: 0.1, 3: 0.1})
        run.hosts[0].hold([run.blob])
        run.run()
        run.is_right(*run.hosts)
        assert run.left_the_origin().total() == 0


class TestNeighboursThatFail:
    def test_one_that_sends_other_bytes_is_reported_and_dropped(self) -> None:
        run = Playing(8, 32, seed=3)
        bad, honest = run.hosts[1], [host for host in run.hosts if host is not run.hosts[1]]
        bad.misbehaviour = Misbehaviour.CORRUPTS
        run.run(lambda: all(map(run.is_whole, honest)))
        run.is_right(*honest)
        reports = [
            (who, message.sender) for who, message in run.cluster.schedulers.heard if isinstance(message, Corrupt)
        ]
        assert {sender for _, sender in reports} == {bad.name}
        assert len(reports) == len(set(reports)), "a host asks it once more after it has reported it"
        assert not run.cluster.schedulers.closed, "nobody is quarantined by what others say"
        (scheduler,) = run.cluster.schedulers.cores()
        swarms = scheduler._state.swarms.values()
        assert bad.name not in {host.id for swarm in swarms for host in swarm.members}
        assert max(run.left_the_origin().values()) <= 3, "its word on what it had fetched is not taken any more"

    def test_one_that_vanishes(self) -> None:
        run = Playing(8, 32, seed=3, lease_s=2.0)
        run.run(began(run, 6))
        gone = next(host for host in run.hosts if host.ranges)
        run.cluster.vanish(gone)
        run.run()
        run.is_right(*(host for host in run.hosts if host is not gone))
        assert max(run.left_the_origin().values()) <= 2, "what only it had leaves the origin again"
        assert not run.is_whole(gone)

    def test_one_that_is_slow_is_waited_for_only_where_nobody_else_has_the_piece(self) -> None:
        run = Playing(7, 32, seed=2)  # too few for spot checks
        run.hosts[1].up.rate /= 60
        run.run()
        run.is_right(*run.hosts)
        assert set(run.left_the_origin().values()) == {1}
        for host in run.hosts:
            assert set(run.came_from_neighbours(host).values()) <= {1}

    def test_one_that_is_too_slow_for_its_checkers_costs_few_pieces_more(self) -> None:
        run = Playing(8, 32, seed=2)
        run.hosts[1].up.rate /= 60
        run.run()
        run.is_right(*run.hosts)
        assert run.left_the_origin().total() <= 32 + MAX_SILENCES
        assert not run.cluster.schedulers.closed

    def test_two_that_are_slow_and_hold_the_same_are_hedged(self) -> None:
        run = Playing(3, 5, seed=1)
        for host in run.hosts[:2]:
            host.hold([run.blob])
        run.hosts[0].up.rate /= 100
        run.run(within_s=4.0)
        request = [line for line in run.cluster.instructions if f"h02 {RequestPiece.__name__}(" in line]
        assert 5 < len(request) <= 10
        assert set(run.came_from_neighbours(run.hosts[2]).values()) == {1}

    def test_full_hosts_refuse_and_everybody_is_served_in_the_end(self) -> None:
        run = Playing(10, 16)
        for host in run.hosts:
            host.choker.slots = 1
        run.run()
        run.is_right(*run.hosts)
        failed = [message for _, message in run.cluster.schedulers.heard if isinstance(message, NeighbourFailed)]
        assert not [message for message in failed if message.fault is not Fault.FULL]


class TestLies:
    @pytest.mark.parametrize(("hosts", "seed"), [(3, 1), (4, 1), (7, 3)])
    def test_a_publisher_of_wrong_digests_is_found_out(self, hosts: int, seed: int) -> None:
        run = Playing(hosts, 32, seed=seed)
        liar, honest = run.hosts[1], [host for host in run.hosts if host is not run.hosts[1]]
        liar.lies = True
        run.run(lambda: all(map(run.is_whole, honest)) and bool(run.cluster.schedulers.closed))
        run.is_right(*honest)
        assert any(isinstance(message, Disproved) for _, message in run.cluster.schedulers.heard)
        assert run.cluster.schedulers.closed == {liar.name: Closing.QUARANTINED}
        assert all(host.failures == [MAP_DISPROVED] and host.attempts == 2 for host in honest)
        assert max(run.left_the_origin().values()) <= 3, "the liar's copy, and two that agree"

    @pytest.mark.parametrize(("hosts", "seed"), [(12, 5), (20, 1), (40, 2)])
    def test_in_a_larger_swarm_it_is_found_out_before_many_have_its_pieces(self, hosts: int, seed: int) -> None:
        run = Playing(hosts, 32, seed=seed)
        liar, honest = run.hosts[1], [host for host in run.hosts if host is not run.hosts[1]]
        liar.lies = True
        run.run(lambda: all(map(run.is_whole, honest)))
        run.is_right(*honest)
        assert set(run.cluster.schedulers.closed) <= {liar.name}
        assert not any(isinstance(message, Disproved) for _, message in run.cluster.schedulers.heard)
        assert sum(host.attempts > 1 for host in honest) <= CHECKERS
        assert run.left_the_origin().total() <= 32 + 3, "the liar's pieces, and those that it contradicted"

    def test_where_no_third_host_can_tell_who_is_right_each_asks_the_origin_itself(self) -> None:
        run = Playing(2, 32, seed=1)
        honest, liar = run.hosts
        liar.lies = True
        run.run(lambda: run.is_whole(honest))
        run.is_right(honest)
        assert not run.cluster.schedulers.closed


class TestWithoutAScheduler:
    def test_one_that_restarts_in_the_middle(self) -> None:
        run = Playing(8, 64, seed=3)
        run.run(began(run, 30))
        run.cluster.schedulers.stop()
        run.cluster.event_queue.after(1.0, run.cluster.schedulers.start)
        run.run()
        run.is_right(*run.hosts)
        assert run.left_the_origin().total() <= 64 + 16, "at most what was on its way, and not published"

    def test_one_that_is_away_for_longer(self) -> None:
        """Those that had leases go on meanwhile; if all asked the origin it would give 1.7 copies."""
        run = Playing(12, 64, seed=1)
        run.run(began(run, 30))
        run.cluster.schedulers.stop()
        run.cluster.event_queue.after(4.0, run.cluster.schedulers.start)
        run.run()
        run.is_right(*run.hosts)
        assert run.cluster.origin_bytes <= 1.25 * run.blob.size_bytes

    def test_one_that_is_gone_for_good(self) -> None:
        run = Playing(8, 64, seed=3)
        run.run(began(run, 30))
        run.cluster.schedulers.stop()
        run.run()
        run.is_right(*run.hosts)
        published = sum(run.came_from_neighbours(host).total() for host in run.hosts)
        assert published > 8 * 20, "what was published comes from neighbours"

    def test_none_from_the_start(self) -> None:
        run = Playing(3, 16)
        run.cluster.schedulers.stop()
        run.run()
        run.is_right(*run.hosts)
        assert run.left_the_origin().total() == 3 * 16

    def test_one_that_comes_when_hosts_have_begun_alone(self) -> None:
        run = Playing(4, 32)
        run.cluster.schedulers.stop()
        run.run(began(run, 8))
        run.cluster.schedulers.start()
        run.run()
        run.is_right(*run.hosts)
        assert run.left_the_origin().total() < 4 * 32, "what had not left the origin by then leaves it once"


class TestTheOrigin:
    def test_a_host_that_it_refuses_is_the_only_one_to_suffer(self) -> None:
        run = Playing(5, 32)
        run.hosts[1].refused = 401
        run.run()
        run.is_right(*(host for host in run.hosts if not host.refused))
        assert set(run.left_the_origin().values()) == {1}

    def test_it_dies_when_all_of_the_blob_has_left_it(self) -> None:
        run = Playing(8, 32, seed=2)
        run.run(began(run, 32))
        run.cluster.origin.up = False
        run.run()
        run.is_right(*run.hosts)

    def test_it_dies_half_way(self) -> None:
        run = Playing(4, 32, seed=2)
        run.run(began(run, 16))
        run.cluster.origin.up = False
        run.run(lambda: all(host.attempts > 1 for host in run.hosts), within_s=2 * GIVE_UP_S)
        assert all(host.failures for host in run.hosts), "each has a reason to give to its client"
        run.cluster.origin.up = True
        run.run()
        run.is_right(*run.hosts)
        assert run.left_the_origin().total() <= 32 + 16


class TestADiskThatFails:
    def test_the_host_whose_disk_it_is_is_the_only_one_to_suffer(self) -> None:
        run = Playing(6, 32, seed=4)
        bad, others = run.hosts[1], [host for host in run.hosts if host is not run.hosts[1]]
        bad.disk_fails = True
        run.run(lambda: all(map(run.is_whole, others)))
        run.is_right(*others)
        assert bad.failures
        assert not run.is_whole(bad)
        assert not run.cluster.schedulers.closed, "it lies to nobody"

    def test_what_had_landed_before_is_kept_for_when_it_works_again(self) -> None:
        run = Playing(6, 32, seed=4)
        run.run(began(run, 16))
        bad = max(run.hosts, key=lambda host: len(host.store[run.blob.digest]))
        held = len(bad.store[run.blob.digest])
        assert held
        bad.disk_fails = True
        run.run(lambda: bool(bad.failures))
        assert len(bad.store[run.blob.digest]) == held
        bad.disk_fails = False
        run.run()
        run.is_right(*run.hosts)
        assert max(run.left_the_origin().values()) <= 2, "a lease of the host whose disk failed goes to another host"
