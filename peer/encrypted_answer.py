"""A piece that comes encrypted outside of TLS: received and decrypted, in a worker thread.

As many records are received at a time as there is room for: to wake the thread up for each costs more than to decrypt
it. They are received at the end of the buffer, and decrypted into its beginning. A record that is decrypted never
overwrites one that is not decrypted yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from peer.neighbour_http import Answer
from peer.trust.aes128gcm import HEADER_BYTES, RECORD_BYTES, CodingError, Decoder, Header, encoded_bytes
from peer.trust.piece_keys import AnswerKey

MIN_RECORD_BYTES: Final = 4096
"""Each record costs some microseconds. Those of p2pd have 256 KiB."""


def spare_bytes(size_bytes: int) -> int:
    """How much longer than the piece a buffer has to be, if all records are to be received at once.

    The first record then begins after the bytes that it is decrypted into.
    """
    return encoded_bytes(size_bytes, 0) - size_bytes + RECORD_BYTES


def receive(
    answer: Answer, key: AnswerKey, buffer: memoryview, size_bytes: int, slice_bytes: Callable[[], int | None]
) -> Iterator[int]:
    """Fill the first `size_bytes` of `buffer`, and yield how many have come, each time that some have.

    `slice_bytes` is how many are wanted at a time; None: as many as there is room for. Raises CodingError,
    PeerGoneError.
    """
    message_bytes = answer.head.length
    if not HEADER_BYTES < message_bytes <= len(buffer) + size_bytes:
        raise CodingError(f"a message of {message_bytes} bytes for a piece of {size_bytes}")
    begin = bytearray(HEADER_BYTES + len(key.key_id))
    with memoryview(begin) as view:
        answer.readinto(view)
    begin_bytes = bytes(begin[:HEADER_BYTES])
    header = Header(begin_bytes, max_record_bytes=RECORD_BYTES, min_record_bytes=MIN_RECORD_BYTES)
    if header.key_id_bytes != len(key.key_id) or begin[HEADER_BYTES:] != key.key_id:
        raise CodingError("it is under another key")
    decoder, filled, left = Decoder(key.input_key, header), 0, message_bytes - len(begin)
    while left:
        room = len(buffer) - filled - header.record_bytes
        wanted = min(room, slice_bytes() or room)
        count = min(left, max(1, wanted // header.record_bytes) * header.record_bytes)
        left -= count
        with buffer[len(buffer) - count :] as records:
            answer.readinto(records)
            before = filled
            for at in range(0, count, header.record_bytes):
                with records[at : at + header.record_bytes] as record, buffer[filled : size_bytes + 1] as data:
                    filled += decoder.decrypt(record, data)
        yield filled - before
    if not decoder.ended or filled != size_bytes:
        raise CodingError("it ends early")
