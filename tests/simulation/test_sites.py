"""Clusters in several sites: each piece crosses a site's line once, and nobody waits for ever for one that does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pd.simulation.result import RunResult
from p2pd.simulation.run import run
from p2pd.simulation.scenario import MISLEADING, SCENARIOS, Misbehaviour, Scenario, Shape, blob_of, flash_crowd

SITES = 3
SHAPE = Shape(30, (blob_of(16),), rate_bytes_per_s=12.5e6, sites=SITES)
SLOW = replace(SHAPE, rate_bytes_per_s=3e5)
"""A pull takes long enough here for hosts that vanish, or do nothing, to be noticed and replaced during it."""


def everybody_has_it(scenario: Scenario) -> RunResult:
    result = run(scenario, checks=True)
    assert result.failed() == []
    misled = any(node.misbehaviour in MISLEADING for node in result.scenario.nodes)
    assert result.wrong_pieces == 0 or misled  # they go with the blob whose SHA-256 is wrong
    return result


@pytest.mark.parametrize("sites", [2, 3, 10, 30])
def test_one_copy_comes_into_each_site(sites: int) -> None:
    result = everybody_has_it(flash_crowd(replace(SHAPE, sites=sites)))
    assert len(result.site_bytes) == sites
    assert result.site_copies() <= 1.1
    assert result.origin_copies() <= 1.01


def test_it_costs_little_time() -> None:
    shape = replace(SHAPE, blobs=(blob_of(64),))
    in_sites, in_one = (run(flash_crowd(replace(shape, sites=sites))) for sites in (SITES, 1))
    assert in_sites.efficiency_last() > 0.9 * in_one.efficiency_last()


@pytest.mark.parametrize("name", sorted({*SCENARIOS} - {"many-layers", "size-mix"}))
def test_everybody_gets_the_image_whatever_happens(name: str) -> None:
    everybody_has_it(SCENARIOS[name](SHAPE))


@pytest.mark.parametrize("name", ["churn", "rack-cut-off", "scheduler-gone", "malicious"])
def test_everybody_gets_the_image_whatever_is_noticed(name: str) -> None:
    everybody_has_it(SCENARIOS[name](SLOW))


def test_a_site_goes_on_without_its_first_gateways() -> None:
    crowd = flash_crowd(SHAPE)
    pull_s = SHAPE.one_pull_s()
    gone = tuple(
        replace(node, vanishes_s=0.5 * pull_s) if number % 10 < 8 else node for number, node in enumerate(crowd.nodes)
    )
    everybody_has_it(replace(crowd, nodes=gone))


@pytest.mark.parametrize("misbehaviour", Misbehaviour)
def test_malicious_gateways_hold_nobody_up_for_ever(misbehaviour: Misbehaviour) -> None:
    crowd = flash_crowd(SHAPE)
    nodes = tuple(
        replace(node, misbehaviour=misbehaviour) if number in (0, 11, 12) else node
        for number, node in enumerate(crowd.nodes)
    )
    everybody_has_it(replace(crowd, nodes=nodes))


def test_a_site_that_holds_the_image_gives_one_copy_to_each_of_the_others() -> None:
    crowd = flash_crowd(SHAPE)
    nodes = tuple(replace(node, holds_image=node.site == "s0") for node in crowd.nodes)
    result = everybody_has_it(replace(crowd, nodes=nodes))
    assert set(result.site_bytes) == {"s1", "s2"}
    assert result.site_copies() <= 1.1
    assert result.origin_bytes == 0


def test_a_host_that_comes_later_has_it_from_its_own_site() -> None:
    crowd = flash_crowd(SHAPE)
    nodes = tuple(replace(node, holds_image=number % 10 > 0) for number, node in enumerate(crowd.nodes))
    assert not any(everybody_has_it(replace(crowd, nodes=nodes)).site_bytes.values())
