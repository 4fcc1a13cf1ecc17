"""The figures' formulas, against values that were worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pd.simulation.result import UNPACK_BYTES_PER_S, RunResult, limit_s, median, percentile, registry_s
from p2pd.simulation.scenario import MIB, SCENARIOS, Scenario, Shape, blob_of

PIECES = 16
SIZE = 8 * MIB
RATE = float(MIB)


def scenario(name: str = "flash-crowd", nodes: int = 7, origin: float = RATE) -> Scenario:
    """8 MiB in 16 pieces at 1 MiB/s: a host's line needs 8 s for it."""
    assert blob_of(PIECES) == SIZE
    return SCENARIOS[name](Shape(nodes, (SIZE,), rate_bytes_per_s=RATE, origin_bytes_per_s=origin))


class TestTheLimit:
    def test_of_whole_pieces_where_all_lines_are_alike(self) -> None:
        # (S / u) (1 + floor(log2 7) / 16) = 8 (1 + 2/16)
        assert limit_s(scenario()) == pytest.approx(9.0)

    def test_of_one_host_is_the_time_on_its_line(self) -> None:
        assert limit_s(scenario(nodes=1)) == pytest.approx(8.0)

    def test_of_a_slow_origin_is_the_time_on_its_line(self) -> None:
        assert limit_s(scenario(origin=RATE / 4)) == pytest.approx(32.0)

    def test_of_few_uplinks_is_what_all_lines_together_carry(self) -> None:
        narrow = scenario(nodes=4)
        narrow = replace(narrow, nodes=tuple(replace(node, up_bytes_per_s=RATE / 8) for node in narrow.nodes))
        # N S / (C + sum u) = 32 MiB / (1 + 4/8) MiB/s
        assert limit_s(narrow) == pytest.approx(32 / 1.5)

    def test_of_the_slowest_downlink(self) -> None:
        mixed = scenario("mixed-speeds", nodes=6)
        assert limit_s(mixed) == pytest.approx(16.0)

    def test_where_the_image_is_there_nothing_waits_for_the_origin(self) -> None:
        warm = scenario("warm-newcomers", nodes=10, origin=RATE / 100)
        assert len(warm.wanting()) == 1
        assert limit_s(warm) == pytest.approx(8.0)

    def test_of_later_waves_is_what_the_lines_of_all_so_far_carry(self) -> None:
        """Ten hosts in fives of two, which receive at once what they want, and the origin sends as fast as each."""
        waves = scenario("rolling-update", nodes=10)
        waves = replace(waves, nodes=tuple(replace(node, down_bytes_per_s=100 * RATE) for node in waves.nodes))
        cold = 8 * (1 + 1 / 16)
        assert limit_s(waves) == pytest.approx(cold + sum(2 * 8 / (1 + hosts) for hosts in (4, 6, 8, 10)))

    def test_malicious_hosts_neither_want_nor_serve(self) -> None:
        few = scenario("malicious", nodes=10)
        assert len(few.wanting()) == 9
        assert limit_s(few) == pytest.approx(8 * (1 + 3 / 16))

    def test_on_a_link_with_less_goodput_is_longer(self) -> None:
        assert limit_s(scenario(), goodput=0.9) == pytest.approx(10.0)

    def test_without_anybody_who_wants_the_image_is_nothing(self) -> None:
        all_hold = scenario(nodes=2)
        all_hold = replace(all_hold, nodes=tuple(replace(node, holds_image=True) for node in all_hold.nodes))
        assert limit_s(all_hold) == 0.0


def test_the_registry_alone_takes_as_long_as_its_line_or_the_slowest_host_s() -> None:
    assert registry_s(scenario(nodes=10)) == pytest.approx(80.0)
    assert registry_s(scenario(nodes=10, origin=100 * RATE)) == pytest.approx(8.0)


class TestWhatWasPlayed:
    result = RunResult(
        scenario(nodes=4),
        began_s={"n00000": 1.0, "n00001": 1.0, "n00002": 5.0},
        done_s={"n00000": 11.0, "n00001": 13.0, "n00002": 17.0},
        origin_bytes=12.0 * MIB,
        site_bytes={"s0": 12.0 * MIB, "s1": 16.0 * MIB},
        link_messages=96,
    )

    def test_times(self) -> None:
        assert self.result.took_s() == [10.0, 12.0, 12.0]
        assert self.result.whole_s() == 16.0

    def test_efficiencies(self) -> None:
        limit = 8 * (1 + 2 / 16)
        assert self.result.efficiency_last() == pytest.approx(limit / 16)
        assert self.result.efficiency_p50() == pytest.approx(limit / 12)
        assert self.result.efficiency_last(goodput=0.5) == pytest.approx(2 * limit / 16)

    def test_copies(self) -> None:
        assert self.result.origin_copies() == 1.5
        assert self.result.site_copies() == 2.0

    def test_messages_are_those_for_each_piece_of_each_host(self) -> None:
        assert self.result.progress_share() == 2.0

    def test_who_never_got_it_is_told(self) -> None:
        assert self.result.failed() == ["n00003"]


def test_percentiles() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 0.0), percentile(values, 0.5), percentile(values, 0.99)) == (1.0, 50.0, 99.0)
    assert percentile(values, 1.0) == 100.0
    assert median(values) == 50.5


class TestImages:
    """Two images of two layers each on two hosts, which unpack a layer in a second."""

    result = RunResult(
        replace(scenario(nodes=2), blobs=(round(UNPACK_BYTES_PER_S),) * 4, images=2),
        began_s={"n00000": 1.0, "n00001": 1.0},
        done_s={"n00000": 8.0, "n00001": 9.0},
        origin_bytes=0.0,
        layers_s={"n00000": [3.0, 2.0, 8.0, 4.0], "n00001": [2.0, 9.0, 3.0, 4.0]},
    )

    def test_unpacking_begins_with_the_first_layer(self) -> None:
        assert self.result.first_layers_s() == [1.0, 2.0, 2.0, 7.0]

    def test_layers_are_unpacked_in_their_order(self) -> None:
        # n00000: 3 + 1 + 1 and 8 + 1 + 1; n00001: 9 + 1, for the first layer was unpacked meanwhile, and 4 + 1.
        assert self.result.starts_s() == [4.0, 4.0, 9.0, 9.0]

    def test_the_older_image_is_whole_first_on_one_of_two_hosts(self) -> None:
        assert self.result.images_in_order() == 0.5
