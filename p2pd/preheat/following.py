"""Follows tags where no registry tells of pushes: looks at each now and then, through a mirror, and says what moved.

The mirror asks the registry by HEAD, with its own credentials, at most once in its `tag_ttl_s`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from p2pd.pull.mirror import PullError, mirror_of, refusal
from peer.errors import P2pdError
from peer.oci.digest import AnyDigest
from peer.oci.manifest import KIND_BY_MEDIA_TYPE
from peer.oci.reference import ImageReference, parse_image_reference
from peer.origin.api import Credential
from peer.origin.clock import SystemClock

if TYPE_CHECKING:
    from p2pd.config.values import Address


class Follower:
    """The tags of these images, as they were seen last."""

    def __init__(self, images: Sequence[str], mirror: Address) -> None:
        """Raises InvalidNameError."""
        self._images = [parse_image_reference(each) for each in images]
        self._mirror = mirror
        self._seen: dict[ImageReference, str] = {}

    def moved(self) -> Iterator[str | P2pdError]:
        """The images, by digest, whose tags mean something new since the last call; or why a tag cannot be seen."""
        for image in self._images:
            try:
                digest = self._look(image)
            except P2pdError as error:
                yield error
                continue
            if self._seen.get(image) != digest:
                self._seen[image] = digest
                yield f"{image.repository}@{digest}"

    def _look(self, image: ImageReference) -> str:
        upstream = image.repository.upstream
        with closing(mirror_of(upstream, self._mirror, login=None, max_connections=2, clock=SystemClock())) as mirror:
            path = f"{image.repository.name}/manifests/{image.reference}"
            headers = {"Accept": ", ".join(KIND_BY_MEDIA_TYPE)}
            answer = mirror.request("HEAD", path, credential=Credential(own=True), headers=headers)
        if answer.status != 200:
            raise refusal(str(image), answer.status, answer.body)
        try:
            return AnyDigest(answer.headers.get("docker-content-digest", ""))
        except P2pdError:
            raise PullError(f"{image}: the mirror does not say which manifest it is") from None
