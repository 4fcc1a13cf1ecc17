"""What the daemon and its background process say to each other: whatever comes, it is a question or a MessageError."""

from __future__ import annotations

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.background.messages import (
    DONE,
    MAX_PATH_LENGTH,
    MAX_PIECE_BYTES,
    MAX_TICKET_BYTES,
    Content,
    Count,
    Fetch,
    Limit,
    MessageError,
    Question,
    Share,
    Unshare,
    decode,
    encode,
    header,
    parse_header,
)
from peer.background.ticket import Authority, Ticket, parse_ticket
from scheduler.protocol import geometry

DIGEST = "ab" * 32
BLOB = Content(DIGEST, 3 * 2**20 + 5, 2**20)


@pytest.mark.parametrize(
    "question",
    [
        Share(BLOB, "/data/blobs/ab/abab"),
        Unshare(DIGEST),
        Fetch(BLOB, 3, "fe80::1", b"t" * MAX_TICKET_BYTES),
        Limit(0, 10**6),
        Count(),
    ],
)
def test_a_question_arrives_as_it_was(question: Question) -> None:
    assert decode(encode(question)) == question
    assert encode(question) == msgpack.packb([type(question).__name__.lower(), *fields_of(question)])


def fields_of(question: Question) -> list[object]:
    fields = [getattr(question, each) for each in question.__struct_fields__]
    return [[each.digest, each.size_bytes, each.piece_bytes] if isinstance(each, Content) else each for each in fields]


@pytest.mark.parametrize(
    "question",
    [
        Share(Content("AB" * 32, 1, 2**20), "/x"),
        Share(Content(DIGEST, 0, 2**20), "/x"),
        Share(Content(DIGEST, 2**60, 2**20), "/x"),
        Share(Content(DIGEST, 1, 2**20 + 1), "/x"),
        Share(Content(DIGEST, 1, 2 * MAX_PIECE_BYTES), "/x"),
        Share(Content(DIGEST, 2**49, 2**14), "/x"),
        Share(BLOB, "x"),
        Share(BLOB, "/x\0"),
        Share(BLOB, "/" * (MAX_PATH_LENGTH + 1)),
        Unshare("../../etc"),
        Fetch(BLOB, 4, "::1", b"t"),
        Fetch(BLOB, -1, "::1", b"t"),
        Fetch(BLOB, True, "::1", b"t"),
        Fetch(BLOB, 0, "", b"t"),
        Fetch(BLOB, 0, "::1", b""),
        Fetch(BLOB, 0, "::1", b"t" * (MAX_TICKET_BYTES + 1)),
        Limit(-1, 0),
    ],
)
def test_what_breaks_a_rule_is_neither_said_nor_heard(question: Question) -> None:
    with pytest.raises(MessageError):
        encode(question)
    name = type(question).__name__.lower()
    with pytest.raises(MessageError):
        decode(msgpack.packb([name, *fields_of(question)]))


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=70) | st.binary(max_size=70),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


@given(st.binary(max_size=200) | st.lists(_values, max_size=5).map(msgpack.packb))
def test_anything_else_is_an_error(packet: bytes) -> None:
    try:
        decode(packet)
    except MessageError:
        return
    assert packet  # a question by chance


@given(st.sampled_from(["share", "fetch", "limit", "unshare", "count"]), st.lists(_values, max_size=5))
def test_a_kind_with_any_fields(name: str, fields: list[object]) -> None:
    try:
        question = decode(msgpack.packb([name, *fields]))
    except MessageError:
        return
    assert decode(encode(question)) == question


@given(st.binary(min_size=5, max_size=5))
def test_a_header_is_bounded(data: bytes) -> None:
    try:
        status, length = parse_header(data)
    except MessageError:
        return
    assert header(status, length) == data
    assert length <= MAX_PIECE_BYTES


def test_an_answer_may_have_a_whole_piece() -> None:
    assert parse_header(header(DONE, geometry.MAX_PIECE_BYTES)) == (DONE, MAX_PIECE_BYTES)


@given(st.binary(max_size=200) | st.lists(_values, max_size=5).map(msgpack.packb))
def test_a_ticket_of_another_host_is_one_or_an_error(data: bytes) -> None:
    try:
        ticket = parse_ticket(data)
    except MessageError:
        return
    assert parse_ticket(ticket.encode()) == ticket


def test_a_ticket_fits() -> None:
    authority = Authority()
    ticket = Ticket(65_535, authority.root, *authority.issue(DIGEST))
    assert parse_ticket(ticket.encode()) == ticket
    assert len(ticket.encode()) < MAX_TICKET_BYTES
    assert ticket.encode() == msgpack.packb([ticket.port, ticket.root, ticket.certificate, ticket.key])
