"""What the history says of images and sites: what predictors share. Pure, and bounded.

Rules:
1. Records come in the order of time.
2. A tag moves when it is pushed, or when a pull shows a digest that it did not name before. The digest before is
   remembered, so that a node that still pulls it moves nothing.
3. A site uses a repository if it pulled an image of it within `USED_S`.
4. Of images, and of repositories, the ones that nothing was heard of for longest are forgotten beyond the bounds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from scheduler.core.history import PushRecord, Record

DAY_S: Final = 86_400.0
USED_S: Final = 35 * DAY_S
"""A monthly job is in use."""

MAX_IMAGES: Final = 5_000
MAX_REPOSITORIES: Final = 2_000
MAX_SITES: Final = 32
"""Of an image. Sites beyond these are not predicted for."""

MAX_TIMES: Final = 64
"""The latest pulls that are remembered of an image at a site."""


@dataclass(slots=True)
class AtSite:
    """An image at a site. `digest` is the one that the site pulled, or was given, last."""

    times: list[float] = field(default_factory=list)
    digest: str = ""
    held_at: float = 0.0
    pulled_since_move: bool = False


@dataclass(slots=True)
class ImageFacts:
    """An image. `moved_at` is when its tag last moved; `pushed`: a registry said so."""

    name: str
    repository: str
    digest: str = ""
    before: str = ""
    moved_at: float = 0.0
    pushed: bool = False
    size_bytes: int = 0
    sites: dict[str, AtSite] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        return self.name[len(self.repository) + 1 :]


@dataclass(slots=True)
class RepositoryFacts:
    """A repository. `sites` are those that use it, with the time of their last pull."""

    size_bytes: int = 0
    sites: dict[str, float] = field(default_factory=dict)


def repository_of(image: str) -> str:
    """The repository of an image that is named in full and by its tag."""
    return image.rpartition(":")[0]


class Facts:
    """All of it."""

    def __init__(self) -> None:
        self.began_at: float | None = None
        self.images: Final[OrderedDict[str, ImageFacts]] = OrderedDict()
        self.repositories: Final[OrderedDict[str, RepositoryFacts]] = OrderedDict()

    def moves(self, record: Record) -> bool:
        """Whether a record, which is not observed yet, says that a tag has moved."""
        if isinstance(record, PushRecord):
            return True
        image = self.images.get(record.image)
        return image is None or self._is_other(image, record.digest)

    def observe(self, record: Record) -> None:
        if self.began_at is None:
            self.began_at = record.at
        image, repository = self._known(record.image)
        if isinstance(record, PushRecord):
            self._move(image, record.at, record.digest, pushed=True)
            return
        if self._is_other(image, record.digest):
            self._move(image, record.at, record.digest, pushed=False)
        elif not image.digest and record.digest != image.before:
            image.digest = record.digest
            for each in image.sites.values():  # what was preheated since the push is that
                each.digest = each.digest or record.digest
        image.size_bytes = max(record.size_bytes, image.size_bytes)
        repository.size_bytes = image.size_bytes
        at_site = image.sites.get(record.site)
        if at_site is None:
            if len(image.sites) >= MAX_SITES:
                return
            at_site = image.sites[record.site] = AtSite()
        at_site.times.append(record.at)
        del at_site.times[:-MAX_TIMES]
        self._has(image, at_site, record.digest, record.at)
        if record.site in repository.sites or len(repository.sites) < MAX_SITES:
            repository.sites[record.site] = record.at

    def preheated(self, name: str, site: str, at: float) -> None:
        """The site was given what the tag names."""
        image = self.images.get(name)
        if image is not None and (site in image.sites or len(image.sites) < MAX_SITES):
            at_site = image.sites.setdefault(site, AtSite())
            at_site.digest, at_site.held_at = image.digest, at

    def holds(self, image: ImageFacts, site: str, now: float, kept_s: float) -> bool:
        """Whether the site had what the tag names within `kept_s`, as far as is known."""
        at_site = image.sites.get(site)
        if at_site is None or not at_site.held_at:
            return False
        is_current = at_site.digest == image.digest and at_site.held_at >= image.moved_at
        return is_current and now - at_site.held_at <= kept_s

    def size_of(self, image: ImageFacts) -> int:
        """The bytes of an image, or of the one before it in its repository; 0 if that is not known."""
        return image.size_bytes or self.repositories[image.repository].size_bytes

    def candidates(self, now: float) -> Iterator[tuple[ImageFacts, str]]:
        """The images, and sites that use them or their repositories."""
        for image in self.images.values():
            for site, used_at in self.repositories[image.repository].sites.items():
                if now - used_at <= USED_S and (site in image.sites or now - image.moved_at <= DAY_S):
                    yield image, site

    def _known(self, name: str) -> tuple[ImageFacts, RepositoryFacts]:
        image = self.images.get(name)
        if image is None:
            image = self.images[name] = ImageFacts(name, repository_of(name))
        self.images.move_to_end(name)
        repository = self.repositories.setdefault(image.repository, RepositoryFacts())
        self.repositories.move_to_end(image.repository)
        while len(self.images) > MAX_IMAGES:
            self.images.popitem(last=False)
        while len(self.repositories) > MAX_REPOSITORIES:
            gone, _ = self.repositories.popitem(last=False)
            for each in [each for each in self.images.values() if each.repository == gone]:
                del self.images[each.name]
        return image, repository

    @staticmethod
    def _is_other(image: ImageFacts, digest: str) -> bool:
        return not image.moved_at or digest not in (image.digest or digest, image.before)

    @staticmethod
    def _move(image: ImageFacts, at: float, digest: str, *, pushed: bool) -> None:
        if digest and digest == image.digest and image.moved_at:
            return  # the same again, as of another platform or a retried push
        image.before, image.digest = image.digest, digest
        image.moved_at, image.pushed = at, pushed
        for at_site in image.sites.values():
            at_site.pulled_since_move = False

    @staticmethod
    def _has(image: ImageFacts, at_site: AtSite, digest: str, at: float) -> None:
        at_site.digest, at_site.held_at = digest, at
        if digest == image.digest:
            at_site.pulled_since_move = True
