"""The files of a store's blobs: taken in at the start, and again when the directory is another one.

Rules:
1. A blob without a valid record, and a blob's file without a record, are removed.
2. The caller holds the store's lock.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

from peer.errors import StoreError
from peer.store.blob import Blob
from peer.store.data_file import DataFile
from peer.store.directory import StoreDirectory, raise_if_limited
from peer.store.disk import is_file, remove_files, translate_disk_error
from peer.store.health import Health
from peer.store.held_blobs import HeldBlobs
from peer.store.record import peek
from scheduler.protocol.geometry import said_piece_length

log = structlog.get_logger("peer.store")


class BlobFiles:
    """Of the store in `directory`, into `held`."""

    def __init__(self, directory: StoreDirectory, held: HeldBlobs, health: Health) -> None:
        self._directory: Final = directory
        self._held: Final = held
        self._health: Final = health

    def scan(self) -> list[float]:
        """Take in the blobs that are not known yet; returns when each was last used. Raises OSError, FileLimitError."""
        uses = []
        for found in self._directory.files():
            if found.record is None:
                remove_files(found.data)
            elif (blob := self.load(found.data, found.record)) is not None:
                self._held.add(blob)
                uses.append(blob.last_used)
        return uses

    def load(self, data: Path, record: Path) -> Blob | None:
        """The blob of these files, if it is not known yet and its record is valid. Raises FileLimitError."""
        try:
            header, held_pieces, complete = peek(record)
            facts = data.lstat()
            said_piece_length(header.size_bytes, header.told_piece_length)
            belongs = self._directory.paths(header.digest)[0] == data and facts.st_size == header.size_bytes
            used = record.stat().st_mtime
        except (StoreError, OSError, ValueError) as error:  # the last of pieces that no blob of this length has
            if isinstance(error, OSError):
                raise_if_limited(error, record)
            belongs = False
        if not belongs:
            log.warning("a blob with a damaged record was removed, it is fetched again", path=str(data))
            remove_files(record, *([data] if is_file(data) else []))
            return None
        if header.digest in self._held:
            return None
        held_bytes = min(held_pieces * header.piece_length, header.size_bytes)
        file = DataFile(data, header.size_bytes)
        blob = Blob(header, file, record, whole=complete, held_bytes=held_bytes, recovered=False, health=self._health)
        blob.last_used = used
        return blob

    def retake_if_changed(self) -> StoreError | None:
        """Take the directory anew if it is another one. Returns why nothing can be written to it, if so.

        Raises StoreError.
        """
        return None if self._directory.is_same() else self._retake()

    def _retake(self) -> StoreError | None:
        """The directory was made anew, or mounted again."""
        identity, before = self._directory.identity, {blob.digest for blob in self._held}
        unable = self._directory.retake()
        try:
            self.scan()
            self._held.date()
        except OSError as error:
            raise translate_disk_error(error, self._directory.path) from error
        if identity not in (None, self._directory.identity):
            log.warning(
                "the directory of the store was replaced", path=str(self._directory.path), found=len(self._held)
            )
        for blob in self._held:
            if blob.digest not in before:
                self._held.on_found(self._held.info(blob))
        ours = [blob for blob in self._held if not blob.is_adopted]
        for blob in [blob for blob in ours if not blob.pinned and not blob.data_path.exists()]:
            self._held.drop(blob, "it went with the directory of the store")
        return unable
