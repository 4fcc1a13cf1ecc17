"""How many requests at a time pay at an origin: pieces come at the times that an origin of each kind gives them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from peer.core.origin_lanes import FAST_BYTES_PER_S, KNOWN_S, OriginLanes

UP = "docker.io"
PIECE = 2**20


@dataclass
class Origin:
    """As many requests run as may; each brings `each_s` a piece until together they fill a line of `line` bytes/s."""

    each: float
    line: float
    now: float = 100.0
    running: dict[str, int] = field(default_factory=dict)
    lanes: OriginLanes = field(init=False)

    def __post_init__(self) -> None:
        self.lanes = OriginLanes(self.running)

    def run(self, pieces: int = 100, most: int = 4) -> int:
        """How many requests run at the end."""
        for _ in range(pieces):
            self.running[UP] = min(most, self.lanes.most(UP))
            self.now += PIECE / min(self.line, self.each * self.running[UP])
            self.lanes.received(UP, PIECE, self.now)
        return self.lanes.most(UP)


def test_one_where_one_fills_the_line() -> None:
    origin = Origin(each=1e8, line=1e8)
    assert origin.run() == 1
    assert origin.lanes.is_one_enough(UP)


def test_a_second_is_tried_once_and_for_few_pieces() -> None:
    origin = Origin(each=1e8, line=1e8)
    tried = 0
    for _ in range(100):
        tried += origin.run(1) > 1
    assert tried == 7


def test_as_many_as_bring_more() -> None:
    origin = Origin(each=4e7, line=1.2e8)
    assert origin.run() == 3
    assert not origin.lanes.is_one_enough(UP)


def test_no_second_where_one_is_fast() -> None:
    origin = Origin(each=FAST_BYTES_PER_S, line=4 * FAST_BYTES_PER_S)
    assert origin.run() == 1
    assert origin.lanes.is_one_enough(UP)


def test_not_known_before_enough_has_come() -> None:
    origin = Origin(each=1e8, line=1e8)
    assert origin.run(3) == 1
    assert not origin.lanes.is_one_enough(UP)


def test_what_is_known_is_learned_anew() -> None:
    origin = Origin(each=1e8, line=1e8)
    origin.run()
    origin.each, origin.line = 4e7, 1.2e8
    assert origin.run() == 1
    origin.now += KNOWN_S
    assert origin.run() == 3


@pytest.mark.parametrize("running", [3, 4])
def test_what_other_downloads_ask_says_nothing_of_one(running: int) -> None:
    origin = Origin(each=1e8, line=1e8)
    origin.running[UP] = running
    for _ in range(100):
        origin.now += 0.01
        origin.lanes.received(UP, PIECE, origin.now)
    assert origin.lanes.most(UP) == 1
    assert not origin.lanes.is_one_enough(UP)
