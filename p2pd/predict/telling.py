"""A host tells its scheduler of the pulls of its clients, by tag, if the scheduler keeps a history of pulls.

What is not exchanged in this cluster is not told either: without certificates, private images.
"""

from __future__ import annotations

from collections.abc import Callable

from peer.errors import P2pdError
from peer.oci.digest import AnyDigest, Digest
from peer.oci.reference import Repository, parse_image_reference
from proxy.core.pulls import PullSummary
from scheduler.protocol.from_host import Pulled

MayTell = Callable[[Repository, AnyDigest], bool]
"""Whether the scheduler may hear of a manifest of a repository."""


def pulled_of(pull: PullSummary, may_tell: MayTell) -> Pulled | None:
    """What is told of a pull; None if nothing is: no blob was sent, or it was by digest alone."""
    size_bytes = pull.store_bytes + pull.peer_bytes + pull.origin_bytes
    if not pull.tag or not size_bytes:
        return None
    try:
        image, digest = parse_image_reference(pull.tag), Digest(pull.digest)
    except P2pdError:
        return None  # a digest of another algorithm than SHA-256
    if image.tag is None or not may_tell(image.repository, digest):
        return None
    where = image.repository
    return Pulled(where.upstream, where.name, image.tag, digest.raw, size_bytes, min(size_bytes, pull.store_bytes))
