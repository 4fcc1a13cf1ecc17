"""What hosts were told of tags, between several schedulers, in Redis (`scheduler.core.tags` has the rules).

    PREFIX:tags  a stream: each entry one TagAsked or TagTold, as MessagePack, compressed

Each scheduler reads the stream and adds to it, beside what it does for hosts: no message of a host waits for Redis.
Nobody can fill Redis: the stream has the latest MAX_ENTRIES of at most MAX_BYTES, and is gone KEPT_S after the last.
While Redis is gone, each scheduler knows what its own hosts say, as a scheduler by itself does.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from scheduler.core.events import TagAsked, TagTold, ToldWord
from scheduler.core.tags import MAX_TOLD, VOTER_BYTES
from scheduler.protocol.fields import Digest, MediaType, Record, Repository, SizeBytes, Tag, Upstream
from scheduler.protocol.from_host import MAX_AGE_S
from scheduler.shared.errors import SharedStateError
from scheduler.shared.redis_clients import RedisPlace, client, close, translated

MAX_BYTES: Final = 16 * 1024
MAX_ENTRIES: Final = 1024
KEPT_S: Final = 60.0
WAIT_S: Final = 1.0
"""How long one call waits for news."""

MAX_WAITING: Final = 1024
"""Entries that are not written yet. More are dropped: Redis is too slow, and the lookups will be over."""

MAX_DECOMPRESSED: Final = 1024 * 1024
MAX_STARTER: Final = 512

_Name = Annotated[str, Meta(max_length=MAX_STARTER)]

_ADD: Final = """
redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[1], '*', 'told', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

SharedTag = TagAsked | TagTold


class RedisTags:
    """On the event loop. `write` and `read` exchange what is given to `share`. Other calls raise SharedStateError."""

    def __init__(self, place: RedisPlace) -> None:
        self._place: Final = place
        self._client: Final[Any] = client(place)
        self._key: Final = place.key("tags")
        self._heard = b""
        """The latest entry that was read; empty before the first look."""
        self._waiting: Final[asyncio.Queue[SharedTag]] = asyncio.Queue(MAX_WAITING)

    def share(self, told: SharedTag) -> None:
        """Have the other schedulers hear this soon. It does not block."""
        with suppress(asyncio.QueueFull):
            self._waiting.put_nowait(told)

    async def write(self, ends: Callable[[], bool]) -> None:
        """Write what is shared, until cancelled or until `ends` says so: the library may swallow a cancellation."""
        while not ends():
            with suppress(TimeoutError, SharedStateError):  # `Live` tells of the latter
                async with asyncio.timeout(WAIT_S):
                    told = await self._waiting.get()
                await self.add(told)

    async def read(self, hear: Callable[[SharedTag], None], ends: Callable[[], bool]) -> None:
        """Hand on what is written, by whomever, in the same way."""
        while not ends():
            try:
                for each in await self.news(WAIT_S):
                    hear(each)
            except SharedStateError:
                self._heard = b""
                await asyncio.sleep(WAIT_S)

    async def add(self, told: SharedTag) -> None:
        """Write this now."""
        with translated(self._place):
            await self._client.eval(_ADD, 1, self._key, MAX_ENTRIES, round(KEPT_S * 1000), encode(told))

    async def news(self, within_s: float) -> list[SharedTag]:
        """What was written since the last call, by whomever; waits for the first of it. At first nothing is news."""
        with translated(self._place):
            if not self._heard:
                latest = await self._client.xrevrange(self._key, count=1)
                self._heard = latest[0][0] if latest else b"0-0"
            found = await self._client.xread({self._key: self._heard}, block=max(1, round(within_s * 1000)))
        told = []
        for _, entries in found.items() if isinstance(found, dict) else found or ():
            while entries and isinstance(entries[0], list):  # RESP3 has one more level
                (entries,) = entries
            for name, fields in entries:
                self._heard = name
                told.append(decode(fields.get(b"told", b"")))
        return [each for each in told if each is not None]

    async def close(self) -> None:
        await close(self._client)


def encode(told: SharedTag) -> bytes:
    """At most MAX_BYTES. Of words that take more, fewer: they are in no order."""
    names = (told.scheduler, told.upstream, told.repository, told.tag)
    if isinstance(told, TagAsked):
        return zlib.compress(msgspec.msgpack.encode([*names, told.starter[:MAX_STARTER]]))
    words = told.words
    while True:
        manifests = list(dict.fromkeys(word[1:4] for word in words))
        number = {manifest: at for at, manifest in enumerate(manifests)}
        rows = [[word.voter, number[word[1:4]], round(word.age_s, 1)] for word in words]
        encoded = zlib.compress(msgspec.msgpack.encode([*names, manifests, rows]))
        if len(encoded) <= MAX_BYTES:
            return encoded
        words = words[: len(words) // 2]


class _Manifest(Record, frozen=True):
    digest: Digest
    size_bytes: SizeBytes
    media_type: MediaType


class _Word(Record, frozen=True):
    voter: Annotated[bytes, Meta(min_length=VOTER_BYTES, max_length=VOTER_BYTES)]
    manifest: Annotated[int, Meta(ge=0)]
    age_s: Annotated[float, Meta(ge=0, le=MAX_AGE_S)]


class _Entry(Record, frozen=True):
    scheduler: _Name
    upstream: Upstream
    repository: Repository
    tag: Tag
    told: _Name | tuple[_Manifest, ...]
    """Who asks, or what others were told."""
    words: tuple[_Word, ...] = ()


_ENTRIES: Final = msgspec.msgpack.Decoder(_Entry)


def decode(stored: bytes) -> SharedTag | None:
    """None if it is none: Redis is not ours alone."""
    try:
        unpacked = zlib.decompressobj().decompress(stored, MAX_DECOMPRESSED)
        entry = _ENTRIES.decode(unpacked)
        names = (entry.scheduler, entry.upstream, entry.repository, entry.tag)
        if isinstance(entry.told, str):
            return TagAsked(*names, entry.told)
        manifests = [(each.digest, each.size_bytes, each.media_type) for each in entry.told]
        words = [ToldWord(each.voter, *manifests[each.manifest], each.age_s) for each in entry.words[:MAX_TOLD]]
        return TagTold(*names, tuple(words))
    except (zlib.error, ValueError, IndexError, RecursionError):
        return None
