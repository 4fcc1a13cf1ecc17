"""However news come and are sent, the neighbour knows in the end what it would know had each been sent at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peer.core.neighbours import Neighbours
from peer.core.outbox import PendingNews
from peer.core.piece_sets import spans
from scheduler.protocol.codec import LINK
from scheduler.protocol.geometry import MAX_PIECES
from scheduler.protocol.link import MAX_SPANS_PER_MESSAGE, Dropped, Gained, Holds, News, Room, Span

BLOBS = (b"a" * 32, b"b" * 32)
GENERATION = 1

pieces = st.integers(1, 2**9 - 1)
digests = st.sampled_from(BLOBS)


def gained(digest: bytes, these: int, generation: int = GENERATION) -> Gained:
    return Gained(digest, generation, tuple(Span(*span) for span in spans(these)))


messages = st.one_of(
    st.builds(gained, digests, pieces),
    st.builds(
        lambda digest, these: Holds(digest, GENERATION, complete=False, have=bytes([these % 256])), digests, pieces
    ),
    st.builds(Holds, digests, st.just(GENERATION), st.just(True)),
    st.builds(Dropped, digests),
    st.builds(Room, digests),
)


class Hearer:
    """A neighbour, at the other end of the link."""

    def __init__(self) -> None:
        self._of = {digest: Neighbours(GENERATION) for digest in BLOBS}
        for known in self._of.values():
            known.add("us", 0)
            known.asked("us")
            known.refused("us", 0.0)

    def hear(self, message: News) -> None:
        self._of[message.digest].hear("us", message)

    @property
    def known(self) -> list[tuple[int, bool]]:
        """What we hold of each blob, and whether we are too busy for it."""
        return [(each.held_by_any(), not each.may_be_asked("us", 0.0)) for each in self._of.values()]


@given(st.lists(st.one_of(messages, st.none())))
def test_what_the_neighbour_knows_in_the_end(said: list[News | None]) -> None:
    """None: what waits is sent."""
    at_once, gathered, news = Hearer(), Hearer(), PendingNews()
    for message in [*said, None]:
        if message is not None:
            at_once.hear(message)
            news.add(message)
        else:
            for each in news.take():
                gathered.hear(each)
    assert gathered.known == at_once.known


def test_what_a_blob_gained_is_one_message_whatever_came_between() -> None:
    news = PendingNews()
    for index in range(1000):
        for digest in BLOBS:
            news.add(gained(digest, 1 << index))
    assert list(news.take()) == [Gained(digest, GENERATION, (Span(0, 1000),)) for digest in BLOBS]
    assert list(news.take()) == []


def test_the_most_scattered_pieces_of_the_largest_blob_fit_into_messages() -> None:
    news = PendingNews()
    for first in range(0, MAX_PIECES, 2):
        news.add(Gained(BLOBS[0], GENERATION, (Span(first, first + 1),)))
    assert len(news) == 1
    sent = list(news.take())
    assert [len(message.spans) for message in sent if isinstance(message, Gained)] == [MAX_SPANS_PER_MESSAGE] * 8
    assert [LINK.decode(LINK.encode(message)) for message in sent] == sent


def test_what_was_gained_by_a_map_that_is_over_is_not_told() -> None:
    news = PendingNews()
    news.add(gained(BLOBS[0], 0b111, generation=1))
    news.add(gained(BLOBS[0], 0b010, generation=2))
    assert list(news.take()) == [gained(BLOBS[0], 0b010, generation=2)]
