"""Grants: the origin's decisions on access, remembered for a short time.

A grant says that the origin lets a client (known by a keyed hash of its credential, or ANYONE) have a digest in one
repository of one upstream, at one endpoint.

Rules:
1. A grant is for that repository only: a blob that is cached because of one repository is not served in another
   (registries treat that as a vulnerability).
2. A grant is for that endpoint only: most registries answer 404 for a layer below `/manifests/`.
3. A grant ends at its time. Only a new word of the origin makes a later one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from peer.oci.digest import AnyDigest
from peer.oci.reference import Repository
from proxy.core.routing import Endpoint

ANYONE = "anyone"
"""The client without a credential, and every client if the origin answers without one."""

MAX_GRANTS = 50_000
"""Some 10 MiB at most. The oldest grants are dropped; the origin is asked again."""


class Grant(NamedTuple):
    """Who may have a digest, and until when."""

    holder: str
    until: float


@dataclass(slots=True)
class Grants:
    """Times are of a monotonic clock."""

    limit: int = MAX_GRANTS
    _until: OrderedDict[tuple[str, Repository, Endpoint, AnyDigest], float] = field(default_factory=OrderedDict)

    def add(
        self, client: str, repository: Repository, endpoint: Endpoint, digests: Iterable[AnyDigest], until: float
    ) -> None:
        """Grant `digests` until that time; a grant that ends later stays."""
        for digest in digests:
            key = (client, repository, endpoint, digest)
            self._until[key] = max(until, self._until.get(key, until))
            self._until.move_to_end(key)
        while len(self._until) > self.limit:
            self._until.popitem(last=False)

    def find(
        self, client: str, repository: Repository, endpoint: Endpoint, digest: AnyDigest, now: float
    ) -> Grant | None:
        """The grant that lets `client` have `digest` now: its own, else that of ANYONE, else None."""
        for holder in (client, ANYONE):
            until = self._until.get((holder, repository, endpoint, digest), now)
            if until > now:
                return Grant(holder, until)
        return None

    def forget(self, upstreams: Collection[str]) -> None:
        """End all grants of these upstreams."""
        for key in [key for key in self._until if key[1].upstream in upstreams]:
            del self._until[key]

    def __len__(self) -> int:
        return len(self._until)
