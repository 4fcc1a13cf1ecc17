"""What was carried to a site: an OCI layout in a directory, or in a tar, of which nothing is unpacked.

Rules:
1. Whoever wrote it is not trusted. A directory is read without following links, and a tar is only looked up: its
   regular files by their names. A tar with anything but files and folders in it, or with names that lead out of it, is
   refused as a whole. So is one that is compressed, or has files with holes: few bytes of those may be any number.
2. Reading the tar's headers takes bounded memory, whatever lengths they give, and however many there are.
3. Nothing is hashed here: whoever reads verifies.
"""

from __future__ import annotations

import os
import posixpath
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from peer.errors import ManifestError, OriginRefusedError, OriginUnreachableError
from peer.oci.descriptor import OCTET_STREAM
from peer.oci.digest import Digest
from peer.oci.layout_index import Listing, parse_listing
from peer.oci.manifest import MAX_MANIFEST_BYTES
from peer.origin.api import Answer, ContentRef, Credential
from peer.origin.layout_file import LayoutBody, open_below

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

MAX_MEMBERS: Final = 200_000
"""Files of a tar: 50 TB of layers as they are on average."""

MAX_HEADER_BYTES: Final = 1 << 20
"""The most that is read for one file while a tar is looked up. Extended headers have some hundred bytes."""

MAX_NAMES_BYTES: Final = 32 << 20
"""Of all names in a tar. A blob's has 77."""

BLOBS: Final = "blobs/sha256"
_INDEX: Final = "index.json"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file's bytes are: an open descriptor, which the reader closes, and its part."""

    file: int
    offset: int
    size_bytes: int


class Archive(Protocol):
    """A layout. `open` raises FileNotFoundError if there is no such file, and OSError."""

    def open(self, name: str) -> Place: ...

    def close(self) -> None: ...


class DirectoryArchive:
    """The layout in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self, name: str) -> Place:
        file = open_below(self._directory, name.split("/"))
        return Place(file, 0, os.fstat(file).st_size)

    def close(self) -> None: ...


class _Bounded:
    """A file for `tarfile` that gives no more than a header, until it is told that the next one is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MAX_HEADER_BYTES
        self.tell, self.seek = file.tell, file.seek

    def next_header(self) -> None:
        self._left = MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise ManifestError(f"a header of {size} bytes and more, and at most {MAX_HEADER_BYTES} are read")
        self._left -= size
        return self._file.read(size)


class TarArchive:
    """The layout in a tar. Raises ManifestError, OSError."""

    def __init__(self, path: Path) -> None:
        import tarfile  # not for a node that imports nothing

        self._path = path
        with ExitStack() as stack:
            self._file = stack.enter_context(open(_opened(path), "rb"))
            try:
                self._members = _look_up(self._file)
            except ManifestError as error:
                raise ManifestError(f"{path}: {error}") from None
            except (tarfile.TarError, ValueError, UnicodeError, OverflowError, RecursionError) as error:
                raise ManifestError(f"{path} is no plain tar ({error}): unpack what is compressed") from None
            stack.pop_all()

    def open(self, name: str) -> Place:
        found = self._members.get(name)
        if found is None:
            raise FileNotFoundError(name)
        return Place(os.dup(self._file.fileno()), *found)

    def files(self) -> list[tuple[str, int]]:
        """Its files, with their lengths."""
        return [(name, size_bytes) for name, (_, size_bytes) in self._members.items()]

    def read(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, in parts. Raises FileNotFoundError, OSError."""
        if name not in self._members:
            raise FileNotFoundError(name)
        position, left = self._members[name]
        while left and (part := os.pread(self._file.fileno(), min(left, MAX_HEADER_BYTES), position)):
            yield part
            position, left = position + len(part), left - len(part)

    def close(self) -> None:
        self._file.close()


def _opened(path: Path) -> int:
    """A regular file: a named pipe would be waited for for ever. Raises ManifestError, OSError."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ManifestError(f"{path} is no file and no directory")
    return file


def _look_up(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Where each file is: its offset and its length. Raises ManifestError, and the errors of `tarfile`."""
    import tarfile

    whole_bytes = os.fstat(file.fileno()).st_size
    found: dict[str, tuple[int, int]] = {}
    names_bytes = 0
    bounded = _Bounded(file)
    fileobj: Any = bounded  # all that `tarfile` calls
    with tarfile.open(fileobj=fileobj, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined] # else it keeps each, with all of its extended headers
            bounded.next_header()
            names_bytes += len(member.name)
            if names_bytes > MAX_NAMES_BYTES:
                raise ManifestError(f"its names have more than {MAX_NAMES_BYTES} bytes")
            name = posixpath.normpath(member.name)
            if name.startswith(("/", "..")):
                raise ManifestError(f"{member.name[:80]!a} leads out of it")
            if not member.isdir():
                if not member.isreg() or member.issparse() or member.size < 0:
                    raise ManifestError(f"{member.name[:80]!a} is a link, a device, or has holes: no layout has that")
                if member.offset_data + member.size > whole_bytes:
                    raise ManifestError(f"it ends within {member.name[:80]!a}: was it copied whole?")
                found[name] = (member.offset_data, member.size)
            if len(found) > MAX_MEMBERS:
                raise ManifestError(f"it has more than {MAX_MEMBERS} files")
    return found


def open_archive(path: Path) -> Archive:
    """The layout at `path`, which is a directory or a tar. Raises ManifestError if it is neither, and OSError."""
    archive = DirectoryArchive(path) if path.is_dir() else TarArchive(path)
    try:
        os.close(archive.open("oci-layout").file)
    except FileNotFoundError:
        archive.close()
        raise ManifestError(f"{path} is no OCI image layout: it has no file oci-layout") from None
    return archive


def listing_of(archive: Archive) -> Listing:
    """The images of a layout. Raises ManifestError, OSError."""
    try:
        place = archive.open(_INDEX)
    except FileNotFoundError:
        raise ManifestError("it has no index.json") from None
    try:
        if place.size_bytes > MAX_MANIFEST_BYTES:
            raise ManifestError(
                f"its index.json has {place.size_bytes} bytes, and at most {MAX_MANIFEST_BYTES} are read"
            )
        return parse_listing(os.pread(place.file, place.size_bytes, place.offset))
    finally:
        os.close(place.file)


class ArchiveOrigin:
    """An `Origin` for the blobs of an archive, by digest alone."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def request(
        self,
        method: Literal["GET", "HEAD"],
        path: str,
        *,
        credential: Credential,  # noqa: ARG002 # the protocol's
        headers: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> Answer:
        """There are no tags to ask for."""
        raise OriginUnreachableError(f"{method} {path}: an archive is asked for blobs alone")

    def open(self, ref: ContentRef, start: int, stop: int | None, *, credential: Credential) -> LayoutBody:  # noqa: ARG002
        """See `Origin.open`."""
        try:
            place = self._archive.open(f"{BLOBS}/{Digest(ref.digest).hex}")
        except FileNotFoundError:
            raise OriginRefusedError(f"{ref.digest} is not in the archive", status=404) from None
        except OSError as error:
            raise OriginUnreachableError(f"{ref.digest} cannot be read: {error.strerror}") from None
        end = place.size_bytes if stop is None else min(stop, place.size_bytes)
        size_bytes = place.size_bytes
        return LayoutBody(
            place.file,
            start=start,
            stop=end,
            size_bytes=size_bytes,
            media_type=OCTET_STREAM,
            digest=ref.digest,
            offset=place.offset,
        )

    def close(self) -> None:
        """The archive is whoever's that opened it."""
