"""The answer to a Recall has every digest once, in messages that the protocol takes, and in few of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.core.digest_reports import digest_reports
from peer.core.piece_sets import bitfield
from scheduler.core.events import Connected, Received, Send, Tick
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.codec import FROM_HOST
from scheduler.protocol.fields import DIGEST_BYTES, MAX_RUNS_PER_MESSAGE, ProtocolError
from scheduler.protocol.from_host import Announce, DigestReport, Hello, Holding, Join
from scheduler.protocol.geometry import MAX_PIECE_BYTES, MAX_PIECES
from scheduler.protocol.to_host import DigestRun, Lease, PieceDigests, RequestDigests

D = b"d" * DIGEST_BYTES


def digest(index: int) -> bytes:
    return index.to_bytes(DIGEST_BYTES, "big")


def told(messages: list[DigestReport]) -> list[tuple[int, bytes]]:
    """Pieces and their digests, in the order in which they are told."""
    return [
        (run.first + at // DIGEST_BYTES, run.digests[at : at + DIGEST_BYTES])
        for message in messages
        for run in (DigestRun(message.first, message.digests), *message.more)
        for at in range(0, len(run.digests), DIGEST_BYTES)
    ]


def by_wire(messages: list[DigestReport]) -> list[DigestReport]:
    """As the scheduler reads them."""
    return [FROM_HOST.decode(FROM_HOST.encode(message)) for message in messages]  # type: ignore[misc] # what we encoded


@given(st.sets(st.integers(0, 3000)))
def test_every_digest_once(pieces: set[int]) -> None:
    messages = digest_reports(D, {index: digest(index) for index in pieces})
    assert told(by_wire(messages)) == [(index, digest(index)) for index in sorted(pieces)]
    assert [message.last for message in messages] == [False] * (len(messages) - 1) + [True]


@pytest.mark.parametrize(("step", "at_most"), [(1, 16), (2, 64), (3, 43)])
def test_the_largest_blob_takes_few_messages(step: int, at_most: int) -> None:
    known = {index: digest(index) for index in range(0, MAX_PIECES, step)}
    messages = digest_reports(D, known)
    assert len(messages) <= at_most
    assert dict(told(by_wire(messages))) == known


def test_a_message_of_too_many_digests_or_runs_is_not_taken() -> None:
    half = b"".join(map(digest, range(2049)))
    with pytest.raises(ProtocolError, match="too many digests"):
        FROM_HOST.decode(FROM_HOST.encode(DigestReport(D, 0, half, last=True, more=(DigestRun(3000, half),))))
    runs = tuple(DigestRun(2 * index, digest(0)) for index in range(MAX_RUNS_PER_MESSAGE + 1))
    with pytest.raises(ProtocolError):
        FROM_HOST.decode(FROM_HOST.encode(DigestReport(D, 5000, digest(0), last=True, more=runs)))


def test_a_scheduler_learns_all_that_a_host_knows_of_a_scattered_map() -> None:
    """So none of these pieces leaves the origin again."""
    size_bytes = 3000 * MAX_PIECE_BYTES
    known = {index: digest(index) for index in range(0, 3000, 2)}
    have = bitfield(sum(1 << index for index in known))
    scheduler = Scheduler(SchedulerSettings(settle_s=0.0))
    for number, name in enumerate(("holder", "other")):
        scheduler.handle(Connected(number, Hello(name, 1, 1, f"{name}:1")), 0.0)
    scheduler.handle(Received(0, Announce((Holding(D, size_bytes, complete=False, have=have),))), 0.0)
    asked = scheduler.handle(Received(1, Join(D, "reg.test", "app", size_bytes)), 0.0)
    assert Send((0,), RequestDigests(D)) in asked
    heard = [each for answer in digest_reports(D, known) for each in scheduler.handle(Received(0, answer), 0.0)]
    heard += scheduler.handle(Tick(), 1.0)  # hosts are told in slices
    to_other = [each.message for each in heard if isinstance(each, Send) and 1 in each.connections]
    runs = [run for message in to_other if isinstance(message, PieceDigests) for run in message.runs]
    assert {run.first: run.digests for run in runs} == known
    leased = [message for message in to_other if isinstance(message, Lease)]
    assert leased
    assert not {index for lease in leased for index in range(lease.first, lease.stop)} & known.keys()
    scheduler.validate()
