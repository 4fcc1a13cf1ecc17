"""Writes images as an OCI layout, or as a tar of one, from a node's cache or else through it from their registries.

Rules:
1. Each image comes through the mirror, as by `p2pd pull`, and every byte is hashed. What the layout has is hashed too,
   and is not fetched again: a run that was ended is gone on with by the next.
2. A tar is written from a layout beside it, `FILE.tar.partial`, and replaces an older one in one step. What an older
   one has is taken from it, once it was hashed. The layout beside it stays until the tar is whole.
3. A rule of `[[preheat]]` with `*` in it means those images that match in this node's cache: registries do not tell
   what repositories they have.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from p2pd.config.preheat_rules import PreheatRule
from p2pd.pull.layout_writer import BlobFile, LayoutWriter
from p2pd.pull.mirror import PullError
from p2pd.site.archive import BLOBS, TarArchive
from peer.errors import ManifestError


def images_of_rules(rules: Sequence[PreheatRule], cached: Sequence[str]) -> list[str]:
    """The images of these rules, by their full names: those that are named, and those of the cache that match."""
    named = [rule.match for rule in rules if not rule.is_pattern]
    found = [image for image in cached if "@" not in image and any(rule.matches(image) for rule in rules)]
    return list(dict.fromkeys([*named, *sorted(found)]))


@contextmanager
def destination(path: Path) -> Iterator[Path]:
    """The layout's directory to write to. At the end of the block, if it raises nothing, a tar is made of it.

    Raises PullError for what cannot be written.
    """
    if path.suffix != ".tar":
        yield path
        return
    layout = path.with_name(f"{path.name}.partial")
    try:
        if path.exists():
            _take_over(path, LayoutWriter(layout))
        yield layout
        _pack(layout, path)
        shutil.rmtree(layout)
    except OSError as error:
        raise PullError(f"{path} cannot be written: {error.strerror or error}") from None


def _take_over(path: Path, writer: LayoutWriter) -> None:
    """Copy the blobs of an older tar that are right, and its list of images. Raises OSError."""
    try:
        archive = TarArchive(path)
    except ManifestError as error:
        raise PullError(f"{error}: name another file") from None
    try:
        for name, size_bytes in archive.files():
            folder, _, hexadecimal = name.rpartition("/")
            if folder == BLOBS and not (writer.blobs / hexadecimal).exists():
                with BlobFile(writer.blobs) as blob:
                    for part in archive.read(name):
                        blob.write(part)
                    if blob.digest.hex == hexadecimal and blob.size_bytes == size_bytes:
                        blob.keep()
        writer.take_over_index(b"".join(archive.read("index.json")))
    except FileNotFoundError:
        pass  # it lists no images
    finally:
        archive.close()


def _pack(layout: Path, path: Path) -> None:
    """Write a tar of a layout. Raises OSError."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    blobs = sorted(each for each in (layout / BLOBS).iterdir() if not each.name.startswith("."))
    try:
        with tarfile.open(unfinished, "w", format=tarfile.GNU_FORMAT) as tar:
            for file in (layout / "oci-layout", layout / "index.json", *blobs):
                tar.add(file, str(file.relative_to(layout)), recursive=False, filter=_anonymous)
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    member.mtime = 0
    return member
