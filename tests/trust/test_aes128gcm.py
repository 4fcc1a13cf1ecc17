"""The content coding aes128gcm: RFC 8188's own examples, and what is no message."""

from __future__ import annotations

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.trust.aes128gcm import (
    HEADER_BYTES,
    LAST,
    MORE,
    OVERHEAD_BYTES,
    RECORD_BYTES,
    TAG_BYTES,
    CodingError,
    Decoder,
    Encoder,
    Header,
    encoded_bytes,
)

KEY = bytes(range(32))
SALT = bytes(16)
KEY_ID = b"the key"


def octets(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encode(data: bytes, record_bytes: int = 40, *, key: bytes = KEY, salt: bytes = SALT) -> bytes:
    encoder, message = Encoder(key, KEY_ID, salt, record_bytes), b""
    step = record_bytes - OVERHEAD_BYTES
    for at in range(0, len(data), step):
        part = bytearray(data[at : at + step] + b"?")
        record = bytearray(len(part) + TAG_BYTES)
        assert encoder.encrypt(memoryview(part), memoryview(record), last=at + step >= len(data)) == len(record)
        message += record
    return encoder.header + message


def decode(message: bytes, *, key: bytes = KEY, max_record_bytes: int = RECORD_BYTES) -> bytes:
    """All of a message. Raises CodingError."""
    header = Header(message[:HEADER_BYTES], max_record_bytes=max_record_bytes)
    decoder, data = Decoder(key, header), b""
    rest = message[HEADER_BYTES + header.key_id_bytes :]
    for at in range(0, len(rest), header.record_bytes):
        into = bytearray(header.record_bytes)
        length = decoder.decrypt(memoryview(rest[at : at + header.record_bytes]), memoryview(into))
        data += into[:length]
    if not decoder.ended:
        raise CodingError("it ends early")
    return data


def test_the_example_of_section_3_1() -> None:
    key = octets("yqdlZ-tYemfogSmv7Ws5PQ")
    message = octets("I1BsxtFttlv3u_Oo94xnmwAAEAAA-NAVub2qFgBEuQKRapoZu-IxkIva3MEB1PD-ly8Thjg")
    assert decode(message, key=key) == b"I am the walrus"
    encoder = Encoder(key, b"", octets("I1BsxtFttlv3u_Oo94xnmw"), 4096)
    data, record = bytearray(b"I am the walrus?"), bytearray(32)
    encoder.encrypt(memoryview(data), memoryview(record), last=True)
    assert encoder.header + record == message


def test_the_example_of_section_3_2_with_padding_and_two_records() -> None:
    message = octets(
        "uNCkWiNYzKTnBN9ji3-qWAAAABkCYTHOG8chz_gnvgOqdGYovxyjuqRyJFjEDyoF1Fvkj6hQPdPHI51OEUKEpgz3SsLWIqS_uA"
    )
    header = Header(message[:HEADER_BYTES], max_record_bytes=RECORD_BYTES)
    assert (header.record_bytes, message[HEADER_BYTES : HEADER_BYTES + header.key_id_bytes]) == (25, b"a1")
    assert decode(message, key=octets("BO3ZVPxUlnLORbVGMpbT1Q")) == b"I am the walrus"


@given(st.binary(min_size=1, max_size=200), st.integers(OVERHEAD_BYTES + 1, 80))
def test_what_was_encoded_is_decoded(data: bytes, record_bytes: int) -> None:
    message = encode(data, record_bytes)
    assert len(message) == encoded_bytes(len(data), len(KEY_ID), record_bytes)
    assert decode(message) == data


DATA = os.urandom(100)
MESSAGE = encode(DATA)
"""Five records, the last of which is short."""

BEGIN = HEADER_BYTES + len(KEY_ID)
RECORDS = [MESSAGE[at : at + 40] for at in range(BEGIN, len(MESSAGE), 40)]


@given(st.integers(0, len(MESSAGE) - 1))
def test_a_message_that_was_cut_is_none(stop: int) -> None:
    with pytest.raises(CodingError):
        decode(MESSAGE[:stop])


@given(st.integers(0, len(MESSAGE) * 8 - 1))
def test_a_flipped_bit_is_noticed(bit: int) -> None:
    changed = bytearray(MESSAGE)
    changed[bit // 8] ^= 1 << bit % 8
    if HEADER_BYTES - 1 <= bit // 8 < BEGIN and changed[HEADER_BYTES - 1] == len(KEY_ID):
        return  # the key id is for the caller to compare
    with pytest.raises(CodingError):
        decode(bytes(changed))


@given(st.lists(st.sampled_from(range(len(RECORDS))), max_size=8))
def test_records_in_another_order_are_no_message(order: list[int]) -> None:
    if order == list(range(len(RECORDS))):
        return
    with pytest.raises(CodingError):
        decode(MESSAGE[:BEGIN] + b"".join(RECORDS[index] for index in order))


@given(st.binary(min_size=1, max_size=100))
def test_more_after_the_last_record_is_refused(more: bytes) -> None:
    with pytest.raises(CodingError):
        decode(MESSAGE + more)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_an_error(message: bytes) -> None:
    with pytest.raises(CodingError):
        decode(message)


def test_another_key_or_salt_is_noticed() -> None:
    with pytest.raises(CodingError):
        decode(MESSAGE, key=bytes(32))
    other = encode(DATA, salt=bytes([1] * 16))
    with pytest.raises(CodingError):
        decode(MESSAGE[:BEGIN] + other[BEGIN:])


@pytest.mark.parametrize("record_bytes", [0, 1, OVERHEAD_BYTES, RECORD_BYTES + 1, 2**32 - 1])
def test_absurd_record_sizes_are_refused_before_anything_is_read(record_bytes: int) -> None:
    with pytest.raises(CodingError, match="records of"):
        decode(SALT + record_bytes.to_bytes(4) + b"\0" + bytes(100))


def test_a_record_never_writes_beyond_the_place_that_it_is_given() -> None:
    header = Header(MESSAGE[:HEADER_BYTES], max_record_bytes=RECORD_BYTES)
    place = bytearray(b"x" * 40)
    with pytest.raises(CodingError):
        Decoder(KEY, header).decrypt(memoryview(RECORDS[0]), memoryview(place)[:23])
    assert place == b"x" * 40


@pytest.mark.parametrize(("delimiter", "padding"), [(0, 3), (3, 0), (MORE, 2)])
def test_a_record_that_its_delimiter_does_not_fit_is_refused(delimiter: int, padding: int) -> None:
    encoder = Encoder(KEY, KEY_ID, SALT, 40)
    nonce, plain = encoder._nonce(), b"data" + bytes([delimiter]) + bytes(padding)
    with pytest.raises(CodingError):
        decode(encoder.header + encoder._cipher.encrypt(nonce, plain, None))


def test_a_short_record_of_padding_alone_is_a_message_of_nothing() -> None:
    encoder = Encoder(KEY, KEY_ID, SALT, 40)
    assert decode(encoder.header + encoder._cipher.encrypt(encoder._nonce(), bytes([LAST, 0, 0]), None)) == b""


def test_our_misuse_is_an_error() -> None:
    encoder = Encoder(KEY, KEY_ID, SALT, 40)
    with pytest.raises(ValueError, match="do not belong"):
        encoder.encrypt(memoryview(bytearray(5)), memoryview(bytearray(40)), last=False)
    encoder.encrypt(memoryview(bytearray(5)), memoryview(bytearray(40)), last=True)
    with pytest.raises(ValueError, match="do not belong"):
        encoder.encrypt(memoryview(bytearray(5)), memoryview(bytearray(40)), last=True)


def test_no_nonce_comes_twice() -> None:
    encoder = Encoder(KEY, KEY_ID, SALT)
    assert len({encoder._nonce() for _ in range(1000)}) == 1000
    encoder._next = 2**32
    with pytest.raises(CodingError, match="too many"):
        encoder._nonce()


def test_records_that_are_smaller_than_the_receiver_wants_are_refused() -> None:
    """Each costs some microseconds, however little is in it."""
    begin = encode(b"data", record_bytes=40)[:HEADER_BYTES]
    assert Header(begin, max_record_bytes=RECORD_BYTES, min_record_bytes=40).record_bytes == 40
    with pytest.raises(CodingError, match="records of 40 bytes"):
        Header(begin, max_record_bytes=RECORD_BYTES, min_record_bytes=41)
