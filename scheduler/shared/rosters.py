"""The hosts of each of several schedulers, in Redis, so that whichever of them is asked can tell all hosts.

    PREFIX:roster:ID  the connected hosts of a scheduler (`scheduler.core.roster`), as compressed JSON, for a while

A host that is connected to several schedulers is in the roster of each, with what it does there.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, Final

from scheduler.core.roster import HostFacts
from scheduler.shared.redis_clients import RedisPlace, client, close, translated

WRITTEN_EVERY_S: Final = 5.0
KEPT_S: Final = 20.0
MAX_BYTES: Final = 32 * 1024 * 1024
"""Of one roster: some 100,000 hosts."""

_NAMES: Final = tuple(each.name for each in fields(HostFacts))


def encode(roster: Sequence[HostFacts]) -> bytes:
    """Takes 5 us a host, so not on the event loop."""
    return zlib.compress(json.dumps([asdict(each) for each in roster]).encode(), 1)


def decode(stored: bytes | None) -> list[HostFacts]:
    """The hosts in what is stored; none if it is no roster."""
    if not stored:
        return []
    try:
        rows = json.loads(zlib.decompressobj().decompress(stored, MAX_BYTES))
        return [HostFacts(**{name: row[name] for name in _NAMES}) for row in rows]
    except (zlib.error, ValueError, KeyError, TypeError, RecursionError):
        return []


class RedisRosters:
    """On the event loop. Raises SharedStateError."""

    def __init__(self, place: RedisPlace) -> None:
        self._place: Final = place
        self._client: Final[Any] = client(place)

    async def write(self, scheduler: str, encoded: bytes) -> None:
        with translated(self._place):
            await self._client.set(self._key(scheduler), encoded, px=round(KEPT_S * 1000))

    async def read(self, schedulers: Sequence[str]) -> list[bytes | None]:
        """The rosters of these, encoded; None of one that has written none lately."""
        if not schedulers:
            return []
        with translated(self._place):
            found: list[bytes | None] = await self._client.mget([self._key(each) for each in schedulers])
        return found

    async def close(self) -> None:
        await close(self._client)

    def _key(self, scheduler: str) -> str:
        return self._place.key(f"roster:{scheduler}")
