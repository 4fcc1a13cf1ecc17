"""Which links a host keeps, and how two neighbours come to know what each other holds.

Each is told of the other at its own time, so the news that one sent before the other knew it was lost.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from peer.core.events import (
    CancelPiece,
    Ended,
    KeepLink,
    LinkLost,
    LinkUp,
    Phase,
    PiecesHeld,
    Prepare,
    Prepared,
    Recover,
    ReleaseLink,
    Stopped,
    TellNeighbours,
)
from scheduler.protocol.from_host import Fault, NeighbourFailed
from scheduler.protocol.link import Bitfield, DontHave, Have, Span, Unchoke
from scheduler.protocol.to_host import Neighbour, Neighbours
from tests.peer.host_playbook import (
    JOIN,
    SIZE,
    WHOLE,
    D,
    E,
    Passes,
    Playbook,
    asked,
    beginning,
    digests,
    fetching,
    gained,
    holds,
    joined,
    left,
    met,
    neighbour,
    received,
    source,
    told,
    with_neighbours,
)


def of_two_blobs() -> Playbook:
    """Downloads of D and E, and b is a neighbour for the sake of both."""
    playbook = beginning() >> joined("b") << met("b")
    playbook = playbook >> source(blob=E) << Recover(E) >> PiecesHeld(E) << Prepare(E, SIZE) << replace(JOIN, digest=E)
    return playbook >> Prepared(E) >> joined("b", blob=E) << TellNeighbours(("b",), replace(holds(), digest=E))


class TestIntroductions:
    def test_a_new_neighbour_is_told_what_is_held(self) -> None:
        playbook = fetching() >> received(1, 1) << gained(("c",), 1, 2)
        assert playbook >> Neighbours(D, (neighbour("e"),), ()) << met("e", 1)

    def test_the_first_bitfield_of_a_neighbour_is_answered_once(self) -> None:
        playbook = beginning() >> joined("b") << met("b")
        playbook = playbook >> ("b", holds()) << told("b")
        assert playbook >> ("b", holds(0)) >> ("b", WHOLE) >> Passes(0.5)

    def test_with_what_is_held_by_then(self) -> None:
        playbook = beginning() >> joined("b", "c") << met("b") << met("c") >> digests(0)
        playbook = playbook >> ("b", holds(0)) << asked(0, "b", 0) << told("b")
        playbook = playbook >> received(0, 0) << gained(("c",), 0, 1)
        assert playbook >> ("c", holds()) << told("c", 0)

    @pytest.mark.parametrize("message", [Have(D, 1, (Span(0, 1),)), DontHave(D), Unchoke(D)])
    def test_other_news_are_not_answered(self, message: object) -> None:
        assert beginning() >> joined("b") << met("b") >> ("b", message)

    def test_a_link_that_works_introduces_again(self) -> None:
        """It may be another link than before, on which nothing has been said."""
        playbook = with_neighbours("b") >> LinkUp("b") << told("b")
        assert playbook >> ("b", holds(0)) << told("b") >> ("b", holds(0))

    def test_for_each_blob(self) -> None:
        of_e = TellNeighbours(("b",), replace(holds(), digest=E))
        playbook = of_two_blobs() >> ("b", holds()) << told("b") >> ("b", replace(holds(), digest=E)) << of_e
        playbook = playbook >> LinkUp("b") << told("b") << of_e
        assert playbook >> ("b", replace(holds(), digest=E)) << of_e >> ("b", holds()) << told("b")

    def test_nobody_else_is_answered(self) -> None:
        playbook = with_neighbours("b") >> ("nobody", holds()) >> LinkUp("nobody") >> LinkLost("nobody")
        assert playbook >> ("b", Bitfield(E, 1, complete=True))

    def test_a_neighbour_that_was_taken_away_and_comes_back(self) -> None:
        playbook = with_neighbours("b") >> Neighbours(D, (), ("b",)) << ReleaseLink("b") >> ("b", holds())
        assert playbook >> Neighbours(D, (neighbour("b"),), ()) << met("b") >> ("b", holds()) << told("b")


class TestLinks:
    def test_a_link_is_kept_as_long_as_a_blob_needs_it(self) -> None:
        playbook = of_two_blobs() >> Neighbours(D, (), ("b",))
        assert playbook.machine.links.hosts() == ("b",)
        assert playbook >> Neighbours(E, (), ("b",)) << ReleaseLink("b")
        assert playbook.machine.links.hosts() == ()

    def test_a_link_that_is_needed_by_none_of_the_blobs_that_are_left(self) -> None:
        playbook = of_two_blobs()
        assert playbook
        out = playbook.machine.handle(Stopped(), playbook.now)
        assert [each for each in out if isinstance(each, ReleaseLink)] == [ReleaseLink("b")]
        assert playbook.machine.links.hosts() == ()

    def test_a_neighbour_with_another_address(self) -> None:
        moved = Neighbours(D, (Neighbour("b", "elsewhere:1", 0),), ())
        assert with_neighbours("b") >> moved << KeepLink("b", "elsewhere:1") << told("b")

    def test_a_link_that_is_lost_is_so_for_each_blob(self) -> None:
        playbook = of_two_blobs() >> LinkLost("b")
        playbook = playbook << NeighbourFailed(D, "b", Fault.GONE) << NeighbourFailed(E, "b", Fault.GONE)
        assert playbook >> Neighbours(D, (neighbour("b"),), ()) << met("b")

    def test_a_download_that_ends_takes_back_what_it_said(self) -> None:
        playbook = fetching() >> Neighbours(D, (), ("c",)) << ReleaseLink("c")
        playbook = playbook >> Stopped() << CancelPiece(D, 0) << CancelPiece(D, 1) << left("b")
        assert playbook << Ended(D, Phase.ABANDONED, discard=True)
