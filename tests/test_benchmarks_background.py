"""The benchmark of the background transport, without real processes: what its defaults measure."""

from __future__ import annotations

from benchmarks import __main__
from benchmarks.background import command as background
from benchmarks.suite import ALONE


def test_the_suite_plays_both_transports_on_a_thin_line() -> None:
    words = next(words for words in ALONE if words[0] == "background")
    options = __main__.parser().parse_args(words)
    with background.open_testbed(options) as bed:
        assert bed.runs == options.runs == 1
    assert (options.rate, options.size) == (50e6 / 8, 256 * 2**20)
    names = background.COMMAND.figures
    assert {name.partition(".")[2] for name in names} == {"bittorrent", "http"}
    assert len(names) == 2 * len({name.partition(".")[0] for name in names})
