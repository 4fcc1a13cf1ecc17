"""What the scheduler's benchmark decides: which blobs several schedulers have, and what their figures are."""

from __future__ import annotations

from benchmarks import __main__
from benchmarks.scheduler.command import COMMAND
from benchmarks.scheduler.several import OWNED, Load, blobs_of
from scheduler.protocol.rendezvous import owner_of

IDS = [f"{number:016x}" for number in range(3)]


def test_each_of_several_has_as_many_blobs_as_the_others_and_they_are_its_own() -> None:
    found = blobs_of(IDS, OWNED)
    assert [len(digests) for digests in found.values()] == [OWNED] * 3
    assert all(owner_of(digest, IDS) == name for name, digests in found.items() for digest in digests)
    assert blobs_of(IDS[:1], OWNED).keys() == {IDS[0]}


def test_a_rate_is_that_of_the_busiest_and_a_cost_is_of_all() -> None:
    load = Load(joins=100, join_cpu_s=(0.5, 0.25, 0.25), connect_cpu_s=0.5, member_kib=1.0)
    assert (load.joins_per_s, load.cpu_s_per_join, load.cpu_s) == (200.0, 0.01, 1.5)


def test_every_figure_is_measured_once() -> None:
    assert len(set(COMMAND.figures)) == len(COMMAND.figures)


def test_three_are_compared_with_one() -> None:
    options = __main__.parser().parse_args(["scheduler"])
    assert (options.schedulers, options.hosts, options.several_hosts) == (3, 10_000, 2000)
