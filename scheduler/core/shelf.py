"""Blobs that hosts hold whole and that nobody asks for. A thousand hosts hold millions of them together.

A swarm of one member takes about 8 KiB, and each further member 1 KiB. A blob on the shelf takes about 500 bytes, and
each further holder 100. A blob leaves the shelf when a host wants the blob or holds a part of it, and becomes a swarm
of its holders (`scheduler.core.join`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from scheduler.core.members import Host


@dataclass(slots=True, eq=False)
class _Blob:
    digest: bytes
    size_bytes: int
    """As the first holder says."""
    holders: dict[Host, int] = field(default_factory=dict)
    """Each with the size that it says. They may disagree."""


class Shelf:
    """Blobs by digest and by holder. Each blob has at least one holder."""

    def __init__(self) -> None:
        self._blobs: Final[dict[bytes, _Blob]] = {}
        self._of_host: Final[dict[Host, set[_Blob]]] = {}

    def __len__(self) -> int:
        return len(self._blobs)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._blobs

    @property
    def holdings(self) -> int:
        """The holders of all blobs together."""
        return sum(map(len, self._of_host.values()))

    def count(self, host: Host) -> int:
        """The blobs of one host."""
        return len(self._of_host.get(host, ()))

    def holds(self, host: Host, digest: bytes) -> bool:
        """Whether the host is known to hold the blob."""
        blob = self._blobs.get(digest)
        return blob is not None and host in blob.holders

    def put(self, host: Host, digest: bytes, size_bytes: int) -> None:
        """Record a holder."""
        blob = self._blobs.get(digest)
        if blob is None:
            blob = self._blobs[digest] = _Blob(digest, size_bytes)
        # Equal integers are one object, which saves 32 bytes for each holder.
        blob.holders[host] = blob.size_bytes if size_bytes == blob.size_bytes else size_bytes
        self._of_host.setdefault(host, set()).add(blob)

    def take(self, digest: bytes) -> dict[Host, int]:
        """Take a blob off the shelf: its holders, in the order in which they came, each with the size that it says."""
        blob = self._blobs.pop(digest, None)
        if blob is None:
            return {}
        for host in blob.holders:
            self._forget(host, blob)
        return blob.holders

    def discard(self, host: Host, digest: bytes) -> None:
        """A host does not hold the blob any more."""
        blob = self._blobs.get(digest)
        if blob is not None and host in blob.holders:
            self._drop(host, blob)
            self._forget(host, blob)

    def remove_host(self, host: Host) -> None:
        """A host has left, with all its blobs."""
        for blob in self._of_host.pop(host, ()):
            self._drop(host, blob)

    def validate(self) -> None:
        """Raise AssertionError if the two sides contradict each other."""
        assert all(blob.holders for blob in self._blobs.values())
        by_blob = {(host, blob) for blob in self._blobs.values() for host in blob.holders}
        assert by_blob == {(host, blob) for host, blobs in self._of_host.items() for blob in blobs}

    def _drop(self, host: Host, blob: _Blob) -> None:
        del blob.holders[host]
        if not blob.holders:
            del self._blobs[blob.digest]

    def _forget(self, host: Host, blob: _Blob) -> None:
        blobs = self._of_host[host]
        blobs.remove(blob)
        if not blobs:
            del self._of_host[host]
