"""Who may have what: the origin's decisions, remembered for a short time.

A grant says that the origin lets a client (known by a keyed hash of its credential, or ANYONE) have a digest in one
repository of one upstream. It holds for that digest alone: a blob that is cached because of one repository is not
served to those who ask for it in another (registries treat that as a vulnerability).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from peer.oci.reference import UpstreamName

ANYONE = "anyone"
"""The client that sent no credential, or whose origin answered without one."""

MAX_GRANTS = 50_000
"""Some 10 MiB at most; the oldest go first and are asked again."""


@dataclass(frozen=True, slots=True)
class Place:
    """A repository of an upstream."""

    upstream: UpstreamName
    repository: str


@dataclass(slots=True)
class Grants:
    """Grants hold for `ttl_s` seconds of a monotonic clock, which is handed in as `now`."""

    ttl_s: float
    limit: int = MAX_GRANTS
    _until: OrderedDict[tuple[str, Place, str], float] = field(default_factory=OrderedDict)

    def add(self, client: str, place: Place, digests: Iterable[str], now: float) -> None:
        for digest in digests:
            key = (client, place, digest)
            self._until[key] = now + self.ttl_s
            self._until.move_to_end(key)
        while len(self._until) > self.limit:
            self._until.popitem(last=False)

    def holder(self, client: str, place: Place, digest: str, now: float) -> str | None:
        """Whose grant lets `client` have `digest` there now: its own, else ANYONE's, else None."""
        for who in (client, ANYONE):
            if self._until.get((who, place, digest), now) > now:
                return who
        return None

    def __len__(self) -> int:
        return len(self._until)
