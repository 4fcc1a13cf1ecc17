"""Gathers what hosts tell of pulls into records of sites. Pure, and bounded.

A host counts once in a slot for an image, however often it tells: a client may pull an image in two parts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from peer.errors import InvalidNameError
from peer.oci.digest import Digest
from peer.oci.reference import parse_image_reference
from scheduler.core.events import PullSeen
from scheduler.core.history import PullRecord
from scheduler.shell.history_store import MAX_TOTAL_BYTES, SLOT_S

MAX_WAITING: Final = 10_000
MAX_HOSTS: Final = 50_000
MAX_IMAGE_BYTES: Final = 2**40
"""What an image may have. A host that says more is taken to have said so much."""

Key = tuple[str, str, str]
"""Image, digest and site."""


class Gathering:
    """What was told since `take`."""

    def __init__(self, most: int = MAX_WAITING) -> None:
        """It takes `most` records at a time."""
        self.dropped = 0
        self._most: Final = most
        self._waiting: Final[dict[Key, PullRecord]] = {}
        self._counted: Final[set[tuple[Key, str]]] = set()
        self._slot = 0

    def seen(self, seen: PullSeen, now: float) -> None:
        """A host tells of a pull. What is no image, or too much, is dropped."""
        told = seen.pulled
        try:
            image = parse_image_reference(f"{told.upstream}/{told.repository}:{told.tag}")
        except InvalidNameError:
            self.dropped += 1
            return
        if int(now // SLOT_S) != self._slot or len(self._counted) >= MAX_HOSTS:
            self._slot = int(now // SLOT_S)
            self._counted.clear()
        key = (str(image), str(Digest.from_raw(told.digest)), seen.site)
        before = self._waiting.get(key)
        if before is None and len(self._waiting) >= self._most:
            self.dropped += 1
            return
        before = before or PullRecord(now, *key, 0, 0, 0, 0)
        size_bytes = min(told.size_bytes, MAX_IMAGE_BYTES)
        is_new = (key, seen.host) not in self._counted
        self._counted.add((key, seen.host))
        self._waiting[key] = replace(
            before,
            hosts=before.hosts + is_new,
            size_bytes=max(before.size_bytes, size_bytes),
            total_bytes=min(before.total_bytes + size_bytes, MAX_TOTAL_BYTES),
            warm_bytes=min(before.warm_bytes + min(told.warm_bytes, size_bytes), MAX_TOTAL_BYTES),
        )

    def take(self) -> list[PullRecord]:
        """What is to be kept now, in the order of time."""
        taken = sorted(self._waiting.values(), key=lambda each: each.at)
        self._waiting.clear()
        return taken
