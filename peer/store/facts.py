"""What a store tells of itself and of its blobs."""

from __future__ import annotations

from msgspec import Struct

from peer.oci.digest import Digest


class Came(Struct, frozen=True):
    """Bytes of a blob that came from its origin, and from other hosts."""

    origin_bytes: int = 0
    peer_bytes: int = 0

    def plus(self, *, origin_bytes: int = 0, peer_bytes: int = 0) -> Came:
        return Came(self.origin_bytes + origin_bytes, self.peer_bytes + peer_bytes)


class BlobInfo(Struct, frozen=True):
    """One blob, as `p2pd cache ls` shows it. `last_used` is in Unix seconds; it is kept for `pinned_s` from now on.

    `adopted`: its file is a container runtime's. `piece_length` is that of its pieces, in bytes.
    """

    digest: Digest
    size_bytes: int
    held_bytes: int
    complete: bool
    media_type: str
    last_used: float
    in_use: bool
    pinned_s: float = 0.0
    adopted: bool = False
    piece_length: int = 0


class VerifyReport(Struct, frozen=True):
    """`bad` are the digests of blobs with wrong bytes. They were removed; readers that had them open keep the file."""

    checked: int
    bad: tuple[str, ...]


class StoreStatistics(Struct, frozen=True):
    """`lost` counts blobs that were gone from the disk, or had other bytes there than were stored.

    `adopted_bytes` are in files of container runtimes; they do not count as used, nor their blobs as `blobs`.

    `preheated_bytes` came by preheats, and of these clients have asked for `preheated_used_bytes` since. Both are since
    the start, and of whole blobs.

    `max_bytes` and `min_free_bytes` are the bounds in force, of a file system of `disk_bytes` (0: not known yet).
    """

    blobs: int
    used_bytes: int
    adopted_bytes: int
    max_bytes: int
    min_free_bytes: int
    disk_bytes: int
    evicted: int
    lost: int
    condition: str
    cause: str
    preheated_bytes: int = 0
    preheated_used_bytes: int = 0
