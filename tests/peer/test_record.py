"""The record: what comes back is what was written, and damage only ever takes away."""

from __future__ import annotations

import json
import struct
import zlib
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from peer.errors import StoreBrokenError
from peer.oci.digest import Digest
from peer.store.record import COMPLETE, ENTRY_BYTES, PREFIX, Header, decode, encode, encode_entry, encode_header, peek
from scheduler.protocol.geometry import MAX_BLOB_BYTES, MAX_PIECE_BYTES, piece_count

HEADER = Header(Digest("sha256:" + "a" * 64), 1000, 100, "application/vnd.oci.image.layer.v1.tar+gzip")
DIGESTS = [bytes([index]) * 32 for index in range(10)]
ENTRIES = b"".join(encode_entry(index, digest) for index, digest in enumerate(DIGESTS))
WHOLE = encode_header(HEADER) + ENTRIES + encode_entry(COMPLETE)

HEADERS = st.builds(
    Header,
    digest=st.binary(min_size=32, max_size=32).map(Digest.from_raw),
    size_bytes=st.integers(0, MAX_BLOB_BYTES),
    piece_length=st.just(MAX_PIECE_BYTES),
    media_type=st.text(max_size=80),
)


def test_versions_that_know_no_other_pieces_than_the_usual_ones_leave_a_record_of_others_alone() -> None:
    """They know format 1."""
    size_bytes = 24 << 20
    usual, short = (Header(HEADER.digest, size_bytes, size_bytes // count, "") for count in (24, 48))
    formats = [struct.unpack_from("<8sI", encode_header(header))[1] for header in (usual, short)]
    assert formats == [1, 2]
    assert decode(encode_header(short)).header == short


def test_they_leave_one_of_prefixes_alone_too() -> None:
    header = replace(HEADER, by_prefix=True)
    assert struct.unpack_from("<8sI", encode_header(header))[1] == 3
    assert decode(encode_header(header)).header == header


def test_a_piece_is_recorded_by_its_digest_or_by_its_prefix_and_the_later_entry_counts() -> None:
    header = replace(HEADER, by_prefix=True)
    entries = [PREFIX, 3, PREFIX | 1, 0, PREFIX | 3]
    data = encode_header(header) + b"".join(encode_entry(each, bytes([at]) * 32) for at, each in enumerate(entries))
    record = decode(data)
    assert record.pieces == {0: bytes([3]) * 32}
    assert record.prefixes == {1: bytes([2]) * 32, 3: bytes([4]) * 32}
    assert record.valid_bytes == len(data)


@pytest.mark.parametrize("by_prefix", [False, True])
def test_a_prefix_is_an_entry_only_where_there_are_such(by_prefix: bool) -> None:
    start = encode_header(replace(HEADER, by_prefix=by_prefix)) + ENTRIES[:ENTRY_BYTES]
    record = decode(start + encode_entry(PREFIX | 1, DIGESTS[1]))
    assert (len(record.prefixes), record.valid_bytes) == (by_prefix, len(start) + by_prefix * ENTRY_BYTES)


def test_one_of_a_piece_that_there_is_not_ends_the_record() -> None:
    start = encode_header(replace(HEADER, by_prefix=True))
    assert decode(start + encode_entry(PREFIX | 10, DIGESTS[0]) + ENTRIES).valid_bytes == len(start)


def test_prefixes_and_digests_together_make_a_record_complete() -> None:
    prefixes = b"".join(encode_entry(PREFIX | index, DIGESTS[index]) for index in range(5))
    data = (
        encode_header(replace(HEADER, by_prefix=True)) + prefixes + ENTRIES[5 * ENTRY_BYTES :] + encode_entry(COMPLETE)
    )
    assert decode(data).complete
    assert _peek(data)[1:] == (10, True)
    assert not decode(data.replace(prefixes[:ENTRY_BYTES], b"")).complete


@pytest.mark.parametrize("complete", [False, True])
def test_a_record_in_one_piece_is_that_of_its_entries(complete: bool) -> None:
    data = encode(HEADER, dict(enumerate(DIGESTS)), complete=complete)
    assert data == (WHOLE if complete else WHOLE[:-ENTRY_BYTES])


def _signed_header(text: bytes) -> bytes:
    """A header that is what it says, whatever that is."""
    return struct.pack("<8sII", b"p2pd rec", 1, len(text)) + text + struct.pack("<I", zlib.crc32(text))


def _peek(data: bytes) -> tuple[Header, int, bool]:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "record"
        path.write_bytes(data)
        return peek(path)


@given(HEADERS, st.lists(st.tuples(st.integers(0, 40), st.binary(min_size=32, max_size=32)), max_size=20))
def test_what_was_written_comes_back(header: Header, entries: list[tuple[int, bytes]]) -> None:
    count = piece_count(header.size_bytes, header.piece_length)
    entries = [(index, digest) for index, digest in entries if index < count]
    data = encode_header(header) + b"".join(encode_entry(index, digest) for index, digest in entries)
    record = decode(data)
    assert record.header == header
    assert record.pieces == dict(entries)  # a piece that was recorded again has its last digest
    assert record.valid_bytes == len(data)
    assert not record.complete


def test_complete_counts_only_after_all_pieces() -> None:
    assert decode(WHOLE).complete
    early = encode_header(HEADER) + ENTRIES[: 9 * ENTRY_BYTES] + encode_entry(COMPLETE)
    record = decode(early)
    assert not record.complete
    assert record.valid_bytes == len(early) - ENTRY_BYTES


def test_a_blob_of_no_pieces_can_be_complete() -> None:
    header = Header(HEADER.digest, 0, 100, "")
    assert decode(encode_header(header) + encode_entry(COMPLETE)).complete


def test_a_piece_that_the_blob_does_not_have_ends_the_record() -> None:
    start = encode_header(HEADER) + ENTRIES[:ENTRY_BYTES]
    record = decode(start + encode_entry(10, DIGESTS[0]) + ENTRIES[ENTRY_BYTES:])
    assert (record.pieces, record.valid_bytes) == ({0: DIGESTS[0]}, len(start))


@given(st.integers(0, len(WHOLE) - 1))
def test_any_truncation_leaves_a_prefix(length: int) -> None:
    header_bytes = len(encode_header(HEADER))
    if length < header_bytes:
        with pytest.raises(StoreBrokenError):
            decode(WHOLE[:length])
        return
    record = decode(WHOLE[:length])
    held = min(10, (length - header_bytes) // ENTRY_BYTES)
    assert record.pieces == dict(enumerate(DIGESTS[:held]))
    assert record.valid_bytes == header_bytes + held * ENTRY_BYTES
    assert not record.complete


@given(st.integers(0, len(WHOLE) * 8 - 1))
def test_any_flipped_bit_takes_away_and_adds_nothing(bit: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[bit // 8] ^= 1 << (bit % 8)
    try:
        record = decode(bytes(damaged))
    except StoreBrokenError:
        assert bit // 8 < len(encode_header(HEADER))
        return
    assert record.header == HEADER
    assert record.pieces == dict(enumerate(DIGESTS[: len(record.pieces)]))
    assert not record.complete


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=200))
def test_any_bytes_written_over_it_add_nothing(at: int, junk: bytes) -> None:
    try:
        record = decode(WHOLE[:at] + junk + WHOLE[at + len(junk) :])
    except StoreBrokenError:
        return
    assert record.header == HEADER
    assert record.pieces.items() <= dict(enumerate(DIGESTS)).items()


@given(st.binary(max_size=300))
def test_what_is_no_record_is_broken_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(StoreBrokenError):
        decode(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "digest": st.just(HEADER.digest) | JSON,
            "size_bytes": JSON,
            "piece_length": JSON,
            "media_type": JSON,
        },
    ).map(json.dumps)
    | JSON.map(json.dumps)
    | st.text()
)
@example(json.dumps({"digest": HEADER.digest, "media_type": "", "piece_length": 1, "size_bytes": inf}))
@example(json.dumps({"digest": HEADER.digest, "media_type": "", "piece_length": 1, "size_bytes": 10**9}))
@example(json.dumps({"digest": HEADER.digest, "media_type": "", "piece_length": -1, "size_bytes": 0}))
@example(json.dumps({"digest": "sha256:../../x", "media_type": "", "piece_length": 1, "size_bytes": 1}))
@example("[" * 50_000)
def test_a_header_with_a_right_checksum_is_not_trusted_either(text: str) -> None:
    try:
        header = decode(_signed_header(text.encode(errors="surrogatepass"))).header
    except StoreBrokenError:
        return
    assert Digest(header.digest)
    assert 0 <= header.size_bytes <= MAX_BLOB_BYTES
    assert piece_count(header.size_bytes, header.piece_length) <= 1 << 16


@given(st.integers(0, 10), st.booleans(), st.integers(0, ENTRY_BYTES - 1))
def test_peek_agrees_with_decode(held: int, flushed: bool, torn_bytes: int) -> None:
    data = encode_header(HEADER) + ENTRIES[: held * ENTRY_BYTES]
    data += encode_entry(COMPLETE) if flushed and held == 10 else b""
    record = decode(data)
    assert _peek(data) == (record.header, len(record.pieces), record.complete)
    torn = data + encode_entry(0, DIGESTS[0])[:torn_bytes]
    assert _peek(torn) == (record.header, len(record.pieces), record.complete and not torn_bytes)


@given(st.integers(0, len(WHOLE) * 8 - 1))
def test_peek_never_takes_what_is_not_complete_for_complete(bit: int) -> None:
    damaged = bytearray(WHOLE[:-ENTRY_BYTES] + encode_entry(3, DIGESTS[3]))  # a piece that was recorded twice
    damaged[bit // 8] ^= 1 << (bit % 8)
    try:
        header, held_pieces, complete = _peek(bytes(damaged))
    except StoreBrokenError:
        return
    assert (header, complete) == (HEADER, False)
    assert held_pieces <= 10


def test_a_file_that_is_not_there_is_the_callers_affair(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        peek(tmp_path / "absent")
