"""By which tags clients came to manifests: a client that wants `app:1` asks for the tag, then for manifests by digest.

The tag of an index is that of the manifests in it. The least recently used names are forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

from peer.oci.digest import AnyDigest
from peer.oci.reference import Repository, Tag

MAX_NAMES: Final = 2048


class TagName(NamedTuple):
    """A tag, and the manifest that it named."""

    tag: Tag
    digest: AnyDigest


class TagNames:
    """Tags by client, repository and manifest."""

    def __init__(self) -> None:
        self._names: Final[OrderedDict[tuple[str, Repository, AnyDigest], TagName]] = OrderedDict()

    def resolved(self, client: str, repository: Repository, tag: Tag, digest: AnyDigest) -> None:
        """The client was told what a tag names."""
        self._put((client, repository, digest), TagName(tag, digest))

    def served(self, client: str, repository: Repository, index: AnyDigest, children: Iterable[AnyDigest]) -> None:
        """The client was sent an index."""
        name = self.of(client, repository, index)
        if name is not None:
            for child in children:
                self._put((client, repository, child), name)

    def of(self, client: str, repository: Repository, digest: AnyDigest) -> TagName | None:
        """The tag by which the client came to a manifest; None if it came by the digest alone."""
        return self._names.get((client, repository, digest))

    def _put(self, key: tuple[str, Repository, AnyDigest], name: TagName) -> None:
        self._names[key] = name
        self._names.move_to_end(key)
        while len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)
