"""Which of several schedulers has the swarm of a blob: rendezvous hashing (Thaler and Ravishankar, 1998).

Each scheduler has a score for each key, and the highest score owns the key. If a scheduler goes, only its own keys
move, and they spread over the others. If a scheduler comes, it takes its share of each, and nothing else moves. Hosts
that know the same ids agree without a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b


def ranked(key: bytes, ids: Iterable[str]) -> list[str]:
    """All of `ids`, the owner of `key` first, then who owns it if those before are gone. Ties go by id."""
    return sorted(ids, key=lambda each: (_score(key, each), each), reverse=True)


def owner_of(key: bytes, ids: Iterable[str]) -> str:
    """The owner of `key`: a blob's raw digest, or any other bytes. Raises ValueError if there are no ids."""
    return max(ids, key=lambda each: (_score(key, each), each))


def _score(key: bytes, scheduler: str) -> bytes:
    """BLAKE2b-64 of id, NUL, key. No id has a NUL, so no two pairs of id and key are the same bytes."""
    return blake2b(scheduler.encode() + b"\0" + key, digest_size=8).digest()
