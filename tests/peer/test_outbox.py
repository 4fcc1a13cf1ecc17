"""However news come and are sent, the neighbour knows in the end what it would know had each been sent at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peer.core.neighbours import Neighbours
from peer.core.outbox import LinkOutbox
from peer.core.piece_sets import spans
from scheduler.protocol.codec import LINK
from scheduler.protocol.geometry import MAX_PIECES
from scheduler.protocol.link import MAX_SPANS_PER_MESSAGE, Bitfield, DontHave, Have, LinkMessage, Span, Unchoke

BLOBS = (b"a" * 32, b"b" * 32)
GENERATION = 1

pieces = st.integers(1, 2**9 - 1)
digests = st.sampled_from(BLOBS)


def gained(digest: bytes, these: int, generation: int = GENERATION) -> Have:
    return Have(digest, generation, tuple(Span(*span) for span in spans(these)))


messages = st.one_of(
    st.builds(gained, digests, pieces),
    st.builds(
        lambda digest, these: Bitfield(digest, GENERATION, complete=False, have=bytes([these % 256])), digests, pieces
    ),
    st.builds(Bitfield, digests, st.just(GENERATION), st.just(True)),
    st.builds(DontHave, digests),
    st.builds(Unchoke, digests),
)


class Hearer:
    """A neighbour, at the other end of the link."""

    def __init__(self) -> None:
        self._of = {digest: Neighbours(GENERATION) for digest in BLOBS}
        for known in self._of.values():
            known.add("us", 0)
            known.asked("us")
            known.refused("us", 0.0)

    def hear(self, message: LinkMessage) -> None:
        self._of[message.digest].on_message("us", message)

    @property
    def known(self) -> list[tuple[int, bool]]:
        """What we hold of each blob, and whether we are too busy for it."""
        return [(each.held_by_any(), not each.may_be_asked("us", 0.0)) for each in self._of.values()]


@given(st.lists(st.one_of(messages, st.none())))
def test_what_the_neighbour_knows_in_the_end(said: list[LinkMessage | None]) -> None:
    """None: what waits is sent."""
    at_once, gathered, outbox = Hearer(), Hearer(), LinkOutbox()
    for message in [*said, None]:
        if message is not None:
            at_once.hear(message)
            outbox.add(message)
        else:
            for each in outbox.take():
                gathered.hear(each)
    assert gathered.known == at_once.known


def test_what_a_blob_gained_is_one_message_whatever_came_between() -> None:
    outbox = LinkOutbox()
    for index in range(1000):
        for digest in BLOBS:
            outbox.add(gained(digest, 1 << index))
    assert list(outbox.take()) == [Have(digest, GENERATION, (Span(0, 1000),)) for digest in BLOBS]
    assert list(outbox.take()) == []


def test_the_most_scattered_pieces_of_the_largest_blob_fit_into_messages() -> None:
    outbox = LinkOutbox()
    for first in range(0, MAX_PIECES, 2):
        outbox.add(Have(BLOBS[0], GENERATION, (Span(first, first + 1),)))
    assert len(outbox) == 1
    sent = list(outbox.take())
    assert [len(message.spans) for message in sent if isinstance(message, Have)] == [MAX_SPANS_PER_MESSAGE] * 8
    assert [LINK.decode(LINK.encode(message)) for message in sent] == sent


def test_what_was_gained_by_a_map_that_is_over_is_not_told() -> None:
    outbox = LinkOutbox()
    outbox.add(gained(BLOBS[0], 0b111, generation=1))
    outbox.add(gained(BLOBS[0], 0b010, generation=2))
    assert list(outbox.take()) == [gained(BLOBS[0], 0b010, generation=2)]
