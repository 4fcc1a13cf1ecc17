"""Several schedulers in virtual time: who has which blob, and what becomes of a pull when one goes or comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from p2pd.simulation.cluster import SimulatedCluster
from p2pd.simulation.result import RunResult
from p2pd.simulation.run import run
from p2pd.simulation.scenario import (
    Scenario,
    Shape,
    blob_of,
    flash_crowd,
    scheduler_added,
    scheduler_gone,
    scheduler_lost,
)
from scheduler.shared.live_list import BEAT_S, LEASE_S

PULL_S = 20.0
"""A scheduler that goes or comes does so after six seconds."""

STRUCK_OUT_S = LEASE_S + 3 * BEAT_S
STORM = 1000
"""Far more events of a scheduler than twelve hosts have that pull a blob of 64 pieces."""


def shape(pieces: int, layers: int = 1, schedulers: int = 3) -> Shape:
    blobs = (blob_of(pieces),) * layers
    rate = sum(blobs) / PULL_S
    return Shape(12, blobs, rate_bytes_per_s=rate, down_bytes_per_s=10 * rate, schedulers=schedulers)


def busy(result: RunResult) -> list[bool]:
    """Whether each scheduler has had to do with a pull."""
    return [each.messages > 4 * len(result.scenario.nodes) for each in result.schedulers]


class TestAPull:
    def test_of_one_blob_is_at_one_scheduler(self) -> None:
        result = run(flash_crowd(shape(16)), checks=True)
        assert result.failed() == []
        assert busy(result) == [True, False, False]

    def test_of_many_blobs_is_at_all(self) -> None:
        result = run(flash_crowd(shape(4, layers=6)), checks=True)
        assert result.failed() == []
        assert busy(result) == [True, True, True]
        assert result.busiest_share() < 0.6
        assert result.scheduler_messages == sum(each.messages for each in result.schedulers)

    def test_costs_no_more_copies_than_with_one_scheduler(self) -> None:
        several, alone = (run(flash_crowd(shape(64, schedulers=count))) for count in (3, 1))
        assert several.origin_copies() == pytest.approx(alone.origin_copies(), abs=0.01)
        assert several.efficiency_last() == pytest.approx(alone.efficiency_last(), abs=0.05)

    def test_is_the_same_with_the_same_seed(self) -> None:
        assert run(scheduler_gone(shape(16))) == run(scheduler_gone(shape(16)))


class TestOneThatGoes:
    @pytest.mark.parametrize("scenario", [scheduler_gone, scheduler_lost])
    def test_leaves_no_host_alone_for_long(self, scenario: Callable[[Shape], Scenario]) -> None:
        result = run(scenario(shape(64)))
        assert result.failed() == []
        assert 0.0 < result.alone_s <= 2.0
        assert result.moved_share() == 1.0
        assert result.origin_copies() <= 1.05, "what was in flight"

    def test_has_nothing_fetched_again_that_is_on_its_way_over_a_narrow_line(self) -> None:
        blobs = (blob_of(32),) * 4
        rate = sum(blobs) / 80
        narrow = Shape(12, blobs, rate_bytes_per_s=10 * rate, origin_bytes_per_s=rate, images=len(blobs), schedulers=3)
        result = run(replace(flash_crowd(narrow), scheduler_gone=(24.0, math.inf)))
        assert result.failed() == []
        assert result.origin_copies() <= 1.015, "0.01 are spot checks of publishers"

    def test_takes_its_own_blobs_with_it_and_no_others(self) -> None:
        result = run(scheduler_lost(shape(8, layers=6)))
        assert result.failed() == []
        assert 0 < result.moved_blobs < 6

    def test_without_others_leaves_all_alone_until_it_is_back(self) -> None:
        result = run(scheduler_gone(shape(64, schedulers=1)))
        assert result.failed() == []
        assert result.alone_s > 2.0
        assert result.moved_blobs == 0


def test_one_that_is_added_gets_its_share_and_the_one_before_has_rest() -> None:
    result = run(scheduler_added(shape(64)))
    assert result.failed() == []
    assert result.moved_share() == 1.0
    assert all(each.events < STORM for each in result.schedulers), "leases go to and fro at the one before"


class TestTheList:
    def known(self, cluster: SimulatedCluster) -> list[Sequence[str]]:
        """The schedulers on the list of each one that lives, by URL."""
        return [[entry.url for entry in each.told.entries] for each in cluster.schedulers.all if each.core is not None]

    def test_is_without_one_that_is_gone_in_a_while_and_with_it_when_it_is_back(self) -> None:
        cluster = SimulatedCluster(flash_crowd(shape(4)), checks=True)
        queue, everyone = cluster.event_queue, {each.url for each in cluster.schedulers.all}
        queue.play(1.0)
        assert list(map(set, self.known(cluster))) == [everyone] * 3
        cluster.schedulers.stop()
        queue.play(queue.now + LEASE_S - BEAT_S)
        assert list(map(set, self.known(cluster))) == [everyone] * 2, "its lease is not over"
        queue.play(queue.now + STRUCK_OUT_S)
        assert list(map(set, self.known(cluster))) == [everyone - {cluster.schedulers.all[0].url}] * 2
        cluster.schedulers.start()
        queue.play(queue.now + 0.1)
        assert list(map(set, self.known(cluster))) == [everyone] * 3

    def test_there_is_none_of_a_scheduler_by_itself(self) -> None:
        cluster = SimulatedCluster(flash_crowd(shape(4, schedulers=1)))
        cluster.event_queue.play(1.0)
        assert self.known(cluster) == [[]]
