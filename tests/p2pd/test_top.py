"""What `p2pd top` makes of what a daemon answers: lines that fit, and rates."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from p2pd.top.layout import Table, bar, clean, screen
from p2pd.top.rates import Rates
from p2pd.top.views import ClusterView, NodeView

STATUS: dict[str, Any] = {
    "uptime_s": 7200,
    "downloads": {"origin_bytes": 1 << 20, "peer_bytes": 3 << 20},
    "swarm": {"host": "me", "scheduler_connected": True, "sent_bytes": 1 << 20},
    "cache": {"used_bytes": 1 << 30, "max_bytes": 1 << 34},
    "neighbours": [
        {"host": "quiet", "far": False, "given_bytes": 9 << 20, "got_bytes": 0},
        {"host": "busy", "far": True, "given_bytes": 1 << 20, "got_bytes": 1 << 20},
    ],
    "arriving": [
        {
            "blob": "sha256:abcdef012345",
            "size_bytes": 100,
            "held_bytes": 43,
            "background": True,
            "upstream": "docker.io",
        }
    ],
}


class TestRates:
    def test_over_the_last_seconds(self) -> None:
        rates = Rates()
        assert rates.of("a", 100, 0.0) == 0
        assert rates.of("a", 300, 2.0) == 100
        for second in range(3, 20):
            rates.of("a", 300, float(second))
        assert rates.of("a", 300, 20.0) == 0

    def test_a_daemon_that_has_started_anew_counts_from_nothing(self) -> None:
        rates = Rates()
        rates.of("a", 1000, 0.0)
        assert rates.of("a", 10, 1.0) == 0
        assert rates.of("a", 20, 2.0) == 10

    def test_what_is_gone_is_forgotten(self) -> None:
        rates = Rates()
        rates.of("a", 100, 0.0)
        rates.of("b", 100, 9.0)
        rates.forget(5.0)
        assert rates.of("a", 200, 10.0) == 0
        assert rates.of("b", 200, 10.0) == 100


class TestScreen:
    def test_each_table_has_some_rows_before_one_has_more(self) -> None:
        tables = [Table("A", ("X",), [(str(number),) for number in range(50)]) for _ in range(2)]
        lines = screen(["top"], tables, 80, 20)
        assert len(lines) == 20
        assert [line for line in lines if "more" in line] == ["A (40 more)", "A (47 more)"]

    @given(
        st.integers(1, 200),
        st.integers(1, 60),
        st.lists(st.tuples(st.text(max_size=90), st.text(max_size=20)), max_size=80),
    )
    def test_it_fits(self, width: int, height: int, rows: list[tuple[str, str]]) -> None:
        lines = screen(["top " * 30], [Table("T", ("NAME", ">WHAT"), rows), Table("U", ("N",), [])], width, height)
        assert len(lines) <= height
        assert all(len(line) <= width and line.isprintable() for line in lines)

    def test_a_terminal_obeys_no_name(self) -> None:
        assert clean("a\x1b[2Jb\x9bm\n\u202e") == "a?[2Jb?m??"
        assert bar(0.5) == "####....  50 %"
        assert bar(7) == "######## 100 %"


class TestNode:
    def test_what_it_shows(self) -> None:
        view = NodeView("127.0.0.1:65004")
        view.lines(STATUS, 0.0, 80, 24)
        later = {
            **STATUS,
            "downloads": {"origin_bytes": 2 << 20, "peer_bytes": 6 << 20},
            "neighbours": [STATUS["neighbours"][0], {**STATUS["neighbours"][1], "given_bytes": 3 << 20}],
        }
        lines = view.lines(later, 1.0, 80, 24)
        assert lines[0] == "p2pd top: node me at 127.0.0.1:65004, up 2h, with its scheduler"
        assert lines[1].startswith("coming in 4.0MiB/s: registries 1.0MiB/s, neighbours 3.0MiB/s (75 %)")
        assert "abcdef012345 docker.io ahead 100B ###..... 43 % -" in [" ".join(line.split()) for line in lines]
        rows = [line.split() for line in lines[lines.index("WHO GIVES WHOM") + 2 :]]
        assert rows == [
            ["busy", "other", "2.0MiB/s", "-", "3.0MiB", "1.0MiB"],
            ["quiet", "same", "-", "-", "9.0MiB", "0B"],
        ], "the busiest first"

    def test_an_older_daemon_says_less(self) -> None:
        assert NodeView("x").lines({}, 0.0, 80, 24)
        assert ClusterView("x").lines({"pulls": [], "places": {"a": 1}, "troubles": None}, 0.0, 80, 24)


class TestCluster:
    def test_what_it_shows(self) -> None:
        pull = {
            "number": 1,
            "upstream": "docker.io",
            "repository": "library/app",
            "began_at": 0,
            "ended_at": None,
            "size_bytes": 100 << 20,
            "hosts": 16,
            "received_bytes": 400 << 20,
            "left_bytes": 1200 << 20,
            "origin_bytes": 50 << 20,
        }
        found: dict[str, Any] = {
            "cluster": {"hosts": 16, "pulling": 16, "rate_bytes_per_s": 1 << 20, "troubles_in_all": 9},
            "pulls": {"1": pull},
            "places": {"a": {"site": "fra", "zone": "a", "hosts": 16, "pulling": 16, "problems": 2}},
            "troubles": {"h": {"id": "h-1", "problems": ["it is\x1b[2J gone"]}},
            "quarantined": {"l": {"id": "liar", "reason": "sent other bytes"}},
        }
        view = ClusterView("127.0.0.1:65005")
        view.lines(found, 0.0, 80, 24)
        lines = view.lines({**found, "pulls": {"1": {**pull, "received_bytes": 420 << 20}}}, 2.0, 80, 24)
        words = [" ".join(line.split()) for line in lines]
        assert "docker.io/library/app 16 100.0MiB ##...... 25 % 0.50 10.0MiB/s 2m" in words
        assert "HOSTS WITH PROBLEMS: 10" in lines
        assert "liar in quarantine: sent other bytes" in words
        assert any("it is?[2J gone" in line for line in lines)
        assert len(lines) <= 24

    def test_of_several_schedulers_and_what_is_lacking(self) -> None:
        def lines(**cluster: object) -> list[str]:
            told = {"hosts": 5, "pulling": 1, "schedulers": 3, **cluster}
            return ClusterView("a:1").lines({"cluster": told}, 0.0, 120, 24)

        assert lines()[0] == "p2pd top: cluster of 3 schedulers, asked at a:1: 5 hosts, 1 pulling"
        assert lines()[1] == "coming in -"
        assert lines(untold=1)[1].startswith("without those of 1 of the schedulers")
        assert lines(untold=2, problem="redis is unreachable")[1] == "of this scheduler alone: redis is unreachable"
