"""Frames from anybody: what is right comes through unchanged, and anything else is a ProtocolError."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.protocol.codec import BATCH, FROM_HOST, LINK, MAX_BATCH, TO_HOST, Codec, Unknown
from scheduler.protocol.fields import (
    MAX_DIGESTS_PER_MESSAGE,
    MAX_FRAME_BYTES,
    MAX_INLINE_BYTES,
    ProtocolError,
    Record,
)
from scheduler.protocol.from_host import (
    DigestReport,
    Fault,
    Hello,
    InlineBlob,
    Join,
    LeasePieces,
    NeighbourFailed,
    cost_of,
)
from scheduler.protocol.geometry import MAX_BLOB_BYTES, MAX_PIECES
from scheduler.protocol.link import DontHave, Have, PieceKey, Span, Unchoke
from scheduler.protocol.to_host import DigestRun, PieceDigests, Preheat
from tests.scheduler.messages import messages

DIGEST = b"d" * 32
CODECS: list[Codec[Any]] = [FROM_HOST, TO_HOST, LINK]
KINDS = [(codec, kind) for codec in CODECS for kind in codec.types.values()]
JOIN = Join(DIGEST, "docker.io", "library/app", 1 << 30)


@pytest.mark.parametrize(("codec", "kind"), KINDS, ids=lambda value: getattr(value, "__name__", ""))
def test_round_trip(codec: Codec[Any], kind: type[Any]) -> None:
    @settings(max_examples=15)
    @given(messages(kind))
    def round_trip(message: Any) -> None:
        assert codec.decode(codec.encode(message)) == message

    round_trip()


@pytest.mark.parametrize(("codec", "kind"), KINDS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_frame_is_an_array_of_the_number_and_the_fields(codec: Codec[Any], kind: type[Any]) -> None:
    number = next(number for number, other in codec.types.items() if other is kind)

    @settings(max_examples=15)
    @given(messages(kind))
    def is_as_another_library_packs_it(message: Any) -> None:
        frame = msgpack.packb([number, *array_of(message)])
        assert codec.encode(message) == frame
        assert codec.decode(frame) == message

    is_as_another_library_packs_it()


def array_of(record: Any) -> list[Any]:
    values = [getattr(record, name) for name in record.__struct_fields__]
    return [[array_of(each) for each in value] if is_of_records(value) else value for value in values]


def is_of_records(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(each, Record) for each in value)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(frame: bytes) -> None:
    for codec in CODECS:
        decode_safely(codec, frame)


things = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(st.sampled_from(KINDS), st.lists(things, max_size=8))
def test_any_fields_are_a_message_or_a_protocol_error(known: tuple[Codec[Any], type[Any]], fields: list[Any]) -> None:
    codec, kind = known
    number = next(number for number, other in codec.types.items() if other is kind)
    decode_safely(codec, msgpack.packb([number, *fields]))


@given(st.sampled_from(KINDS), st.data())
def test_any_change_to_a_frame_is_a_message_or_a_protocol_error(
    known: tuple[Codec[Any], type[Any]], data: st.DataObject
) -> None:
    codec, kind = known
    frame = bytearray(codec.encode(data.draw(messages(kind))))
    at = data.draw(st.integers(0, len(frame)))
    frame[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    decode_safely(codec, bytes(frame))


def decode_safely(codec: Codec[Any], frame: bytes) -> None:
    try:
        message = codec.decode(frame)
    except ProtocolError:
        return
    if not isinstance(message, Unknown):
        assert codec.decode(codec.encode(message)) == message


class TestABatch:
    """Several messages in one frame."""

    @given(st.lists(st.sampled_from([*LINK.types.values()]).flatmap(messages), max_size=80))
    @settings(max_examples=40)
    def test_holds_the_messages_in_order(self, sent: list[Any]) -> None:
        frames = [*LINK.encode_all(sent)]
        assert [message for frame in frames for message in LINK.decode_all(frame)] == sent
        assert all(len(frame) <= MAX_FRAME_BYTES for frame in frames)

    def test_is_one_frame_for_the_news_of_many_blobs(self) -> None:
        news = [Have(bytes([blob]) * 32, 1, (Span(blob, blob + 1),)) for blob in range(MAX_BATCH)]
        assert len([*LINK.encode_all(news)]) == 1
        assert len([*LINK.encode_all([*news, *news])]) == 2

    def test_of_one_message_is_that_message(self) -> None:
        assert [*LINK.encode_all([DontHave(DIGEST)])] == [LINK.encode(DontHave(DIGEST))]

    def test_is_a_message_that_an_older_reader_ignores(self) -> None:
        (frame,) = LINK.encode_all([DontHave(DIGEST), Unchoke(DIGEST)])
        assert LINK.decode(frame) == Unknown(BATCH)

    @pytest.mark.parametrize(
        "batch",
        [
            [[68, DIGEST]] * (MAX_BATCH + 1),
            [[68, DIGEST], 3],
            [[68, DIGEST], []],
            [[68, DIGEST], [68, b"short"]],
        ],
    )
    def test_with_a_fault_is_refused_as_a_whole(self, batch: list[Any]) -> None:
        with pytest.raises(ProtocolError):
            LINK.decode_all(msgpack.packb([BATCH, *batch]))

    def test_in_a_batch_is_ignored(self) -> None:
        assert LINK.decode_all(msgpack.packb([BATCH, [BATCH, [68, DIGEST]]])) == [Unknown(BATCH)]

    @given(st.lists(things, max_size=6))
    def test_of_anything_is_messages_or_a_protocol_error(self, batch: list[Any]) -> None:
        try:
            LINK.decode_all(msgpack.packb([BATCH, *batch]))
        except ProtocolError:
            return


def fields_of(message: Any) -> list[Any]:
    return list(msgpack.unpackb(FROM_HOST.encode(message)))


def test_fields_of_a_newer_version_are_ignored() -> None:
    assert FROM_HOST.decode(msgpack.packb([*fields_of(JOIN), {"new": [1, 2]}, "newer"])) == JOIN


def test_fields_that_an_older_version_lacks_take_their_defaults() -> None:
    hello = Hello("a", 1, 1, "a:1")
    assert FROM_HOST.decode(msgpack.packb(fields_of(hello)[:5])) == hello


def test_types_of_a_newer_version_are_told_apart_and_ignored() -> None:
    assert FROM_HOST.decode(msgpack.packb([32, "new"])) == Unknown(32)


def test_reasons_of_a_newer_version_are_read_as_the_nearest() -> None:
    failed = NeighbourFailed(DIGEST, "b", Fault.GONE)
    frame = msgpack.packb([*fields_of(failed)[:-1], 99])
    assert FROM_HOST.decode(frame) == NeighbourFailed(DIGEST, "b", Fault.SLOW)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ([], "starts with a message type"),
        (["1"], "starts with a message type"),
        ([True], "starts with a message type"),
        ([3], "Join: .* length 4, got 1"),
        ([3, DIGEST[1:], "docker.io", "app"], "Join: .* length >= 32, in digest"),
        ([3, "d" * 32, "docker.io", "app"], "Expected `bytes`"),
        ([3, DIGEST, "docker.io", "app with spaces"], "matching regex .*, in repository"),
        ([3, DIGEST, "docker.io", "a" * 256], "matching regex .*, in repository"),
        ([3, DIGEST, "docker.io", "app", -1], ">= 0, in size_bytes"),
        ([3, DIGEST, "docker.io", "app", True], "Expected `int"),
        ([3, DIGEST, "docker.io", "app", MAX_BLOB_BYTES + 1], f"<= {MAX_BLOB_BYTES}, in size_bytes"),
        ([2, [[DIGEST, 1, True]] * 513], "length <= 512, in holdings"),
        ([2, [[DIGEST, 1, False, b"\x02"]]], "beyond the 1"),
        ([2, [DIGEST]], "Expected `array`, got `bytes`, in holdings"),
        ([4, DIGEST, 0, b""], ">= 1, in generation"),
        ([4, DIGEST, 1, b"\xff" * (MAX_PIECES // 8 + 1)], "length <= 8192, in have"),
        ([6, 1, DIGEST, 0, b"x" * 33], "in steps of 32"),
        ([6, 1, DIGEST, MAX_PIECES - 1, b"x" * 64], "beyond the last piece"),
        ([6, 1, DIGEST, MAX_PIECES, b"x" * 32], "<= 65535, in first"),
        ([20, "job", 1, 1, 0, 0, 0, b"x" * 33], "in steps of 32"),
        ([20, "job", 1, 1, 0, 0, 0, b"", False, "", b"x" * 31], "in steps of 32"),
        ([16, "docker.io", "app", "v1", 200], "a tag has a digest"),
        ([17, DIGEST, b"x" * (MAX_INLINE_BYTES + 1)], "length <= 65536, in data"),
    ],
)
def test_what_a_frame_alone_shows_to_be_wrong(fields: list[Any], says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        FROM_HOST.decode(msgpack.packb(fields))


def test_errors_repeat_no_secrets() -> None:
    with pytest.raises(ProtocolError) as caught:
        FROM_HOST.decode(msgpack.packb([1, "a", 1, 1, "a:1", "", "", "", 4, [], "secret\n"]))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "message",
    [
        Hello("a", 1, 1, "a:1", token="tell-nobody"),
        Preheat("job", 1, (), credential="tell-nobody"),
        PieceKey(b"i" * 16, b"tell-nobody".ljust(32)),
    ],
)
def test_secrets_are_not_shown(message: Any) -> None:
    shown = repr(message), str(message), repr([*message.__rich_repr__()]), f"{[message]}"
    assert "tell-nobody" not in repr(shown)
    assert shown[0].startswith(f"{type(message).__name__}(")


def test_all_else_is_shown() -> None:
    assert (
        repr(Have(DIGEST, 1, (Span(2, 3),))) == f"Have(digest={DIGEST!r}, generation=1, spans=(Span(first=2, stop=3),))"
    )


def test_frames_are_bounded_both_ways() -> None:
    with pytest.raises(ProtocolError, match="a frame of"):
        FROM_HOST.decode(b"\x91" * (MAX_FRAME_BYTES + 1))
    with pytest.raises(ProtocolError, match="too many digests"):
        PieceDigests(DIGEST, 1, (DigestRun(0, b"x" * 32 * MAX_DIGESTS_PER_MESSAGE), DigestRun(1, b"x" * 32)))
    longest = PieceDigests(DIGEST, 1, (DigestRun(0, b"x" * 32 * MAX_DIGESTS_PER_MESSAGE),))
    assert len(TO_HOST.encode(longest)) < MAX_FRAME_BYTES
    assert len(FROM_HOST.encode(InlineBlob(DIGEST, bytes(MAX_INLINE_BYTES)))) < MAX_FRAME_BYTES


DEEP = b"\x91" * 200_000 + b"\x01"


@pytest.mark.parametrize(
    "frame",
    [
        b"\x91" * 5000 + b"\x01",
        b"\x92\x20" + DEEP,
        b"\x93\x0d\xc4\x20" + DIGEST + DEEP,
        b"\x92\x02" + DEEP,
        b"\x92\x47" + DEEP,
    ],
    ids=["of a type", "of an unknown message", "of a new field", "of a field", "of a batch"],
)
def test_deep_nesting_is_refused(frame: bytes) -> None:
    for codec in CODECS:
        with pytest.raises(ProtocolError):
            codec.decode_all(frame)


LONG = b"\x01" * (MAX_FRAME_BYTES - 64)


@pytest.mark.parametrize(
    "frame",
    [
        b"\xdd\xff\xff\xff\xff\x02",
        b"\x92\x02\xdd\xff\xff\xff\xff",
        b"\x92\x02\xdf\xff\xff\xff\xff",
        b"\x92\x11\xc6\xff\xff\xff\xff",
        b"\x92\x01\xdb\xff\xff\xff\xff",
        b"\x92\x20\xc9\xff\xff\xff\xff\x01",
        b"\x93\x0d\xc4\x20" + DIGEST + b"\xdf\xff\xff\xff\xff",
        b"\xdd" + len(LONG).to_bytes(4, "big") + b"\x47" + LONG[1:],
        b"\x92\x02\xdd" + len(LONG).to_bytes(4, "big") + LONG,
        b"\x92\x02\x91\xdd" + len(LONG).to_bytes(4, "big") + LONG,
        b"\x93\x0d\xc4\x20" + DIGEST + b"\xdd" + len(LONG).to_bytes(4, "big") + LONG,
        b"\x92\x20\xdd" + len(LONG).to_bytes(4, "big") + LONG,
        b"\x92\x01\xdb" + len(LONG).to_bytes(4, "big") + LONG,
        b"\x92\x11\xc6" + len(LONG).to_bytes(4, "big") + LONG,
    ],
    ids=lambda frame: frame[:12].hex(),
)
def test_no_frame_takes_more_memory_than_its_size(frame: bytes) -> None:
    for codec in CODECS:
        tracemalloc.start()
        with suppress(ProtocolError):
            codec.decode_all(frame)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 2 * len(frame) + 64 * 1024


def test_numbers_of_types_are_used_once() -> None:
    numbers = [number for codec in CODECS for number in codec.types]
    assert len(numbers) == len(set(numbers))


def test_digests_count_as_messages() -> None:
    """To take 4,096 of them costs the scheduler as much as 128 messages."""
    digests = bytes(32 * 4096)
    assert cost_of(LeasePieces(1, DIGEST, 0, bytes(32))) == 1
    assert cost_of(LeasePieces(1, DIGEST, 0, digests)) == cost_of(DigestReport(DIGEST, 0, digests, last=False)) == 129
    runs = tuple(DigestRun(piece, bytes(32 * 8)) for piece in range(0, 4096, 8))
    assert cost_of(DigestReport(DIGEST, 0, b"", last=True, more=runs)) == 129
