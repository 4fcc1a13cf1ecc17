"""The durable record of one blob: its header, and what is known of every piece that has landed.

The file is append-only, so that `kill -9` at any moment leaves a valid prefix of it:

    magic "p2pd rec", format (u32), header length (u32), header (JSON), crc32 of the header (u32)
    entry: index (u32), BLAKE3 of the piece (32 bytes), crc32 of these 36 bytes (u32)
    …
    entry with index COMPLETE: the data file was flushed to the disk and its SHA-256 was right

In a record of the format BY_PREFIX, an entry with the bit PREFIX in its index has the SHA-256 of the blob up to the end
of the piece instead. A host that is alone has that anyhow, and needs no BLAKE3 (docs/decisions/0069).

An entry is written after the piece's bytes, by one `write` of 40 bytes. The file is cut off before the first entry that
is not valid. If the header is not valid, the blob is fetched again.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct, field

from peer.errors import InvalidNameError, StoreBrokenError
from peer.oci.digest import Digest
from scheduler.protocol.geometry import MAX_BLOB_BYTES, MAX_PIECES, piece_count, told_piece_length

MAGIC = b"p2pd rec"
FORMAT = 1
DIVIDED = 2
"""The format of a record of pieces of another length than the usual one: all else is the same. The versions before this
one know only the first, take such a blob for damaged, and fetch it again: they would tell its digests as others'."""
BY_PREFIX = 3
"""The format of a record that may have entries of prefixes. The versions before this one fetch such a blob again."""

COMPLETE = 0xFFFF_FFFF
PREFIX = 0x8000_0000
MAX_HEADER_BYTES = 64 * 1024

_PREAMBLE = struct.Struct("<8sII")
_CRC = struct.Struct("<I")
_ENTRY = struct.Struct("<I32sI")
ENTRY_BYTES = _ENTRY.size


class Header(Struct, frozen=True):
    """The facts of a blob that are known from its first byte on.

    `of_file`: the record is of a file that is not the store's (`peer.store.adopted`), and says what the file was when
    it was read: its device, inode, length, and mtime and ctime in nanoseconds.
    """

    digest: Digest
    size_bytes: int
    piece_length: int
    media_type: str
    of_file: tuple[int, ...] = ()
    by_prefix: bool = False
    """Entries may be of prefixes."""

    @property
    def told_piece_length(self) -> int:
        """The length of pieces as messages tell it (`scheduler.protocol.geometry`): 0 is the usual one."""
        return told_piece_length(self.size_bytes, self.piece_length)


class Record(Struct, frozen=True):
    """A record as read: `pieces` maps indices to BLAKE3 digests, `prefixes` those of other pieces to the SHA-256 of the
    blob up to their ends. `valid_bytes` is the length of the valid part of the file.
    """

    header: Header
    pieces: dict[int, bytes]
    complete: bool
    valid_bytes: int
    prefixes: dict[int, bytes] = field(default_factory=dict)


def encode_header(header: Header) -> bytes:
    text = json.dumps(
        {
            "digest": header.digest,
            "size_bytes": header.size_bytes,
            "piece_length": header.piece_length,
            "media_type": header.media_type,
            **({"of_file": header.of_file} if header.of_file else {}),
        }
    ).encode()
    form = BY_PREFIX if header.by_prefix else DIVIDED if header.told_piece_length else FORMAT
    return _PREAMBLE.pack(MAGIC, form, len(text)) + text + _CRC.pack(zlib.crc32(text))


def encode(
    header: Header, pieces: Mapping[int, bytes], prefixes: Mapping[int, bytes] | None = None, *, complete: bool
) -> bytes:
    """A record in one piece. `pieces` and `prefixes` as of `Record`."""
    entries = [encode_entry(index, digest) for index, digest in pieces.items()]
    entries += [encode_entry(PREFIX | index, digest) for index, digest in (prefixes or {}).items()]
    return b"".join((encode_header(header), *entries, *([encode_entry(COMPLETE)] if complete else [])))


def encode_entry(index: int, digest: bytes = bytes(32)) -> bytes:
    body = struct.pack("<I32s", index, digest)
    return body + _CRC.pack(zlib.crc32(body))


def decode(data: bytes) -> Record:
    """Read a record's file. Raises StoreBrokenError when the header is not valid."""
    header, at = _decode_header(data)
    count = piece_count(header.size_bytes, header.piece_length)
    pieces: dict[int, bytes] = {}
    prefixes: dict[int, bytes] = {}
    for index, digest in _entries(data, at):
        if index == COMPLETE:
            whole = len(pieces) + len(prefixes) == count
            return Record(header, pieces, whole, at + ENTRY_BYTES if whole else at, prefixes)
        is_prefix = header.by_prefix and bool(index & PREFIX)
        piece = index ^ PREFIX if is_prefix else index
        if piece >= count:
            break
        told, other = (prefixes, pieces) if is_prefix else (pieces, prefixes)
        told[piece] = digest
        other.pop(piece, None)
        at += ENTRY_BYTES
    return Record(header, pieces, complete=False, valid_bytes=at, prefixes=prefixes)


def peek(path: Path) -> tuple[Header, int, bool]:
    """The header, the number of entries, and whether the last is COMPLETE, without reading all entries.

    A store that opens does this for thousands of records. Raises StoreBrokenError, OSError.
    """
    with path.open("rb") as file:
        header, at = _decode_header(file.read(_PREAMBLE.size + MAX_HEADER_BYTES + _CRC.size))
        entries, torn = divmod(path.stat().st_size - at, ENTRY_BYTES)
        count = piece_count(header.size_bytes, header.piece_length)
        if torn or entries <= count:
            return header, min(entries, count), False
        file.seek(-ENTRY_BYTES, 2)
        last = list(_entries(file.read(ENTRY_BYTES), 0))
        return header, count, bool(last) and last[0][0] == COMPLETE


def _decode_header(data: bytes) -> tuple[Header, int]:
    try:
        magic, form, length = _PREAMBLE.unpack_from(data)
        text = data[_PREAMBLE.size : _PREAMBLE.size + length]
        (crc,) = _CRC.unpack_from(data, _PREAMBLE.size + length)
    except struct.error:
        raise StoreBrokenError("the record ends within its header") from None
    if (
        magic != MAGIC
        or form not in (FORMAT, DIVIDED, BY_PREFIX)
        or length > MAX_HEADER_BYTES
        or zlib.crc32(text) != crc
    ):
        raise StoreBrokenError("the record's header is damaged, or of a format that this version does not know")
    try:
        fields = json.loads(text)
        header = Header(
            digest=Digest(fields["digest"]),
            size_bytes=int(fields["size_bytes"]),
            piece_length=int(fields["piece_length"]),
            media_type=str(fields["media_type"]),
            of_file=tuple(int(each) for each in fields.get("of_file", ())),
            by_prefix=form == BY_PREFIX,
        )
    except (InvalidNameError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise StoreBrokenError("the record's header lacks a field") from None
    if not 0 <= header.size_bytes <= MAX_BLOB_BYTES or header.piece_length * MAX_PIECES < max(1, header.size_bytes):
        raise StoreBrokenError("the record's header has an impossible length")
    return header, _PREAMBLE.size + len(text) + _CRC.size


def _entries(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + ENTRY_BYTES <= len(data):
        index, digest, crc = _ENTRY.unpack_from(data, at)
        if zlib.crc32(data[at : at + ENTRY_BYTES - _CRC.size]) != crc:
            return
        yield index, digest
        at += ENTRY_BYTES
