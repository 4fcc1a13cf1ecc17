"""Grants: the origin's decisions on access, remembered for a short time.

A grant says that the origin lets a client (known by a keyed hash of its credential, or ANYONE) have a digest in one
repository of one upstream. A grant is for that repository only: a blob that is cached because of one repository
is not served in another (registries treat that as a vulnerability).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from peer.oci.digest import AnyDigest
from peer.oci.reference import Repository

ANYONE = "anyone"
"""The client without a credential, and every client if the origin answers without one."""

MAX_GRANTS = 50_000
"""Some 10 MiB at most. The oldest grants are dropped; the origin is asked again."""


@dataclass(slots=True)
class Grants:
    """Grants hold for `ttl_s` seconds. `now` is of a monotonic clock."""

    ttl_s: float
    limit: int = MAX_GRANTS
    _until: OrderedDict[tuple[str, Repository, AnyDigest], float] = field(default_factory=OrderedDict)

    def add(self, client: str, repository: Repository, digests: Iterable[AnyDigest], now: float) -> None:
        for digest in digests:
            key = (client, repository, digest)
            self._until[key] = now + self.ttl_s
            self._until.move_to_end(key)
        while len(self._until) > self.limit:
            self._until.popitem(last=False)

    def holder(self, client: str, repository: Repository, digest: AnyDigest, now: float) -> str | None:
        """The client whose grant lets `client` have `digest` now: itself, else ANYONE, else None."""
        for who in (client, ANYONE):
            if self._until.get((who, repository, digest), now) > now:
                return who
        return None

    def __len__(self) -> int:
        return len(self._until)
