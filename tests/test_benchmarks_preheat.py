"""The benchmark of preheats, without real processes: what its defaults measure."""

from __future__ import annotations

from benchmarks import __main__
from benchmarks.preheat import command as preheat
from benchmarks.suite import ALONE


def test_the_suite_preheats_half_of_sixteen_nodes() -> None:
    options = __main__.parser().parse_args(next(words for words in ALONE if words[0] == "preheat"))
    with preheat.open_testbed(options) as bed:
        racks = [node.rack for node in bed.scenario.nodes]
    assert (len(racks), racks.count(racks[0]), options.runs) == (16, 8, 1)
