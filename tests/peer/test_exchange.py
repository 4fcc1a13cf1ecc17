"""What an exchange asks its neighbours for first."""

from __future__ import annotations

import pytest

from peer.core.exchange import BEHIND_GAP, Exchange
from peer.core.piece_book import PieceBook
from peer.core.swarm_events import Fetch
from scheduler.protocol import link
from scheduler.protocol.fields import DIGEST_BYTES

D = b"d" * DIGEST_BYTES
COUNT = 40
GAP = 3
NEW = 30
"""A piece that only one neighbour holds: it is the rarest."""


def digest(index: int) -> bytes:
    return bytes([index]) * DIGEST_BYTES


def asked_for(*held: int, urgent: int = 0) -> list[int]:
    """The pieces that are asked for first by a host that holds these, in a swarm where all but one lack `NEW`."""
    book = PieceBook()
    book.learn(0, b"".join(map(digest, range(COUNT))))
    for index in held:
        book.land(index, digest(index), from_origin=False)
    exchange = Exchange(D, book)
    exchange.neighbours.begin_generation(1)
    for host in ("a", "b"):
        exchange.neighbours.add(host, 0)
        pieces = (1 << COUNT) - 1 & ~((host == "b") << NEW)
        exchange.neighbours.on_message(host, link.Bitfield(D, 1, complete=False, have=pieces.to_bytes(5, "little")))
    out = exchange.go_on(urgent, 0, 0.0)
    return [each.index for each in out if isinstance(each, Fetch)]


BEHIND = tuple(range(GAP + 1, GAP + 1 + BEHIND_GAP))


def test_the_rarest_piece_as_long_as_little_is_held_behind_the_first_gap() -> None:
    assert asked_for(0, 1, 2, *BEHIND[:-1])[0] == NEW


def test_the_first_gap_once_many_pieces_are_held_behind_it_and_beside_it_the_rarest() -> None:
    assert asked_for(0, 1, 2, *BEHIND)[:2] == [GAP, NEW]


def test_what_is_held_before_the_gap_does_not_count() -> None:
    assert asked_for(*(index for index in range(COUNT - 2) if index != NEW))[0] == NEW
    assert asked_for(*range(NEW - 1))[0] == NEW


def test_what_a_client_waits_for_comes_before_both() -> None:
    assert asked_for(0, 1, 2, *BEHIND, urgent=1 << 35)[0] == 35


@pytest.mark.parametrize("held", [(), tuple(range(COUNT))])
def test_nothing_or_all_has_no_gap(held: tuple[int, ...]) -> None:
    assert asked_for(*held)[:1] == ([NEW] if not held else [])
