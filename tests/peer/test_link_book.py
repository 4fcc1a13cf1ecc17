"""Which links this host needs, for which blobs, and whose first bitfield is still to be answered."""

from __future__ import annotations

from peer.core.events import KeepLink, ReleaseLink
from peer.core.link_book import LinkBook
from peer.core.neighbours import FAR
from scheduler.protocol.to_host import Neighbour

D = b"d" * 32
E = b"e" * 32


def neighbour(host: str, distance: int = 0, address: str = "") -> Neighbour:
    return Neighbour(host, address or f"{host}:1", distance)


class TestLinks:
    def test_one_from_the_first_blob_that_needs_it_to_the_last(self) -> None:
        links = LinkBook()
        assert links.want(D, neighbour("b")) == [KeepLink("b", "b:1")]
        assert links.want(E, neighbour("b")) == []
        assert links.unwant(D, "b") == []
        assert links.hosts() == ("b",)
        assert links.unwant(E, "b") == [ReleaseLink("b")]
        assert links.hosts() == ()

    def test_what_is_not_wanted_is_released_once(self) -> None:
        links = LinkBook()
        links.want(D, neighbour("b"))
        assert links.unwant(E, "b") == [], "this blob never needed it"
        assert links.unwant(D, "b") == [ReleaseLink("b")]
        assert links.unwant(D, "b") == []
        assert links.unwant(D, "unknown") == []

    def test_a_neighbour_that_has_another_address_now(self) -> None:
        links = LinkBook()
        links.want(D, neighbour("b"))
        assert links.want(D, neighbour("b", address="b:2")) == [KeepLink("b", "b:2")]
        assert links.want(E, neighbour("b", address="b:2")) == []

    def test_the_neighbours_of_each_blob(self) -> None:
        links = LinkBook()
        for digest, host in ((D, "b"), (D, "c"), (E, "c")):
            links.want(digest, neighbour(host))
        assert links.wanted_by(D) == ("b", "c")
        assert links.wanted_by(E) == ("c",)
        assert links.wanted_by(b"f" * 32) == ()

    def test_one_that_is_lost_is_lost_to_all_its_blobs(self) -> None:
        links = LinkBook()
        links.want(D, neighbour("b"))
        links.want(E, neighbour("b"))
        assert links.lost("b") == (D, E)
        assert links.lost("b") == ()
        assert links.hosts() == ()
        assert links.want(D, neighbour("b")) == [KeepLink("b", "b:1")]

    def test_far_is_what_the_scheduler_said_last(self) -> None:
        links = LinkBook()
        assert not links.is_far("b")
        links.want(D, neighbour("b", FAR))
        assert links.is_far("b")
        links.want(E, neighbour("b", FAR - 1))
        assert not links.is_far("b")


class TestTheFirstBitfield:
    def test_is_answered_once_for_each_blob(self) -> None:
        links = LinkBook()
        links.want(D, neighbour("b"))
        links.want(E, neighbour("b"))
        assert [links.is_to_answer(D, "b") for _ in range(2)] == [True, False]
        assert links.is_to_answer(E, "b")

    def test_of_a_stranger_is_not(self) -> None:
        links = LinkBook()
        assert not links.is_to_answer(D, "b")
        links.want(E, neighbour("b"))
        assert not links.is_to_answer(D, "b")

    def test_of_one_that_the_scheduler_names_again_is_not_answered_again(self) -> None:
        links = LinkBook()
        links.want(D, neighbour("b"))
        links.is_to_answer(D, "b")
        links.want(D, neighbour("b", 1))
        assert not links.is_to_answer(D, "b")

    def test_is_another_when_the_link_is_up_again(self) -> None:
        links = LinkBook()
        links.want(D, neighbour("b"))
        links.want(E, neighbour("b"))
        assert links.up("b") == (D, E)
        links.is_to_answer(D, "b")
        assert links.up("b") == (D, E)
        assert links.is_to_answer(D, "b")

    def test_a_link_that_nobody_needs_comes_up(self) -> None:
        assert LinkBook().up("b") == ()
