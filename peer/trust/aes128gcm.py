"""The content coding `aes128gcm` (RFC 8188): a message as records, each encrypted and authenticated on its own.

    message   salt (16) | record size (4) | length of the key id (1) | key id | records
    record    AES-128-GCM of: data | delimiter (1 before the last record, 2 in it) | padding (zeros)

Rules:
1. The key and the first nonce come from the input key and a salt that is new for each message (HKDF-SHA256, section 2.2
   and 2.3). The nonce of a record is that nonce XOR the number of the record, and the number is counted here: so no
   nonce is used twice under one key.
2. A record that was changed, cut, repeated or moved does not decrypt. A message that ends early lacks the record with
   the delimiter 2, and a message with more after that record is refused.
3. Records go from one buffer of the caller into another. Nothing is copied, and OpenSSL runs without the interpreter
   lock.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SALT_BYTES: Final = 16
HEADER_BYTES: Final = SALT_BYTES + 5
"""Of the header without the key id."""

MAX_HEADER_BYTES: Final = HEADER_BYTES + 255

TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = TAG_BYTES + 1
"""What a record has beside its data."""

DATA_BYTES: Final = 256 * 1024
"""The data in a record of ours. Longer records cost no less: 256 KiB are as cheap as 1 MiB (docs/decisions/0017)."""

RECORD_BYTES: Final = DATA_BYTES + OVERHEAD_BYTES
LEAST_RECORD_BYTES: Final = OVERHEAD_BYTES + 1
MAX_RECORDS: Final = 2**32
"""Far below the 2^36 blocks and 2^32 messages that NIST SP 800-38D allows under a key; no piece comes near it."""

MORE: Final = 1
LAST: Final = 2

_HEADER: Final = struct.Struct("!16sIB")
_KEY_INFO: Final = b"Content-Encoding: aes128gcm\0\1"
_NONCE_INFO: Final = b"Content-Encoding: nonce\0\1"


class CodingError(ValueError):
    """A message is not what its sender encrypted under this key, or not of this coding."""


def encoded_bytes(size_bytes: int, key_id_bytes: int, record_bytes: int = RECORD_BYTES) -> int:
    """The length of the message for `size_bytes` of data, one at least."""
    records = -(-size_bytes // (record_bytes - OVERHEAD_BYTES))
    return HEADER_BYTES + key_id_bytes + size_bytes + records * OVERHEAD_BYTES


class _Records:
    """The cipher of a message, and the number of its next record."""

    def __init__(self, input_key: bytes, salt: bytes) -> None:
        extracted = hmac.digest(salt, input_key, hashlib.sha256)
        self._cipher: Final = AESGCM(hmac.digest(extracted, _KEY_INFO, hashlib.sha256)[:16])
        self._first: Final = int.from_bytes(hmac.digest(extracted, _NONCE_INFO, hashlib.sha256)[:12])
        self._next = 0

    def _nonce(self) -> bytes:
        if self._next >= MAX_RECORDS:
            raise CodingError("a message of too many records")
        nonce = (self._first ^ self._next).to_bytes(12)
        self._next += 1
        return nonce


class Encoder(_Records):
    """Encrypts one message. `salt` is random, and was never used before with this input key."""

    def __init__(self, input_key: bytes, key_id: bytes, salt: bytes, record_bytes: int = RECORD_BYTES) -> None:
        super().__init__(input_key, salt)
        self.header: Final = _HEADER.pack(salt, record_bytes, len(key_id)) + key_id
        self._data_bytes: Final = record_bytes - OVERHEAD_BYTES
        self._ended = False

    def encrypt(self, data: memoryview, records: memoryview, *, last: bool) -> int:
        """Encrypt all but the last byte of `data` as records, one after the other in `records`; their length together.

        The last byte is room for delimiters. `records` is another buffer. Records are full, but for the `last` one of
        the message.
        """
        stop = len(data) - 1
        if self._ended or stop < 1 or (not last and stop % self._data_bytes):
            raise ValueError(f"records of {stop} bytes do not belong here")
        self._ended = last
        at = out = 0
        while at < stop:
            end = min(at + self._data_bytes, stop)
            length = end - at + OVERHEAD_BYTES
            following, data[end] = data[end], LAST if last and end == stop else MORE
            with data[at : end + 1] as plain, records[out : out + length] as record:
                self._cipher.encrypt_into(self._nonce(), plain, None, record)
            data[end] = following
            at, out = end, out + length
        return out


class Header:
    """The beginning of a message. Raises CodingError."""

    def __init__(self, begin: bytes, *, max_record_bytes: int, min_record_bytes: int = LEAST_RECORD_BYTES) -> None:
        """`begin` has `HEADER_BYTES`; `key_id_bytes` follow it."""
        if len(begin) != HEADER_BYTES:
            raise CodingError("a message that ends in its header")
        self.salt, self.record_bytes, self.key_id_bytes = _HEADER.unpack(begin)
        if not min_record_bytes <= self.record_bytes <= max_record_bytes:
            raise CodingError(f"records of {self.record_bytes} bytes")


class Decoder(_Records):
    """Decrypts one message. `ended` when its last record was decrypted."""

    def __init__(self, input_key: bytes, header: Header) -> None:
        super().__init__(input_key, header.salt)
        self._record_bytes: Final = header.record_bytes
        self.ended = False

    def decrypt(self, record: memoryview, data: memoryview) -> int:
        """Decrypt one record into `data`, which is another buffer; returns the number of bytes of data.

        `data` is written up to `len(record) - TAG_BYTES` bytes. Raises CodingError: `data` has nothing to be used then.
        """
        length = len(record) - TAG_BYTES
        if self.ended or not 1 <= length <= min(len(data), self._record_bytes - TAG_BYTES):
            raise CodingError(f"a record of {len(record)} bytes where none of that length belongs")
        with data[:length] as out:
            try:
                self._cipher.decrypt_into(self._nonce(), record, None, out)
            except InvalidTag:
                raise CodingError("a record that was changed, or is not of this message") from None
            if not out[length - 1]:  # padding: none of ours
                length = len(bytes(out).rstrip(b"\0"))
            delimiter = out[length - 1] if length else 0
        if delimiter not in (MORE, LAST):
            raise CodingError("a record without a delimiter")
        if delimiter == MORE and len(record) != self._record_bytes:
            raise CodingError("a record that is too short to be followed by another")
        self.ended = delimiter == LAST
        return length - 1
