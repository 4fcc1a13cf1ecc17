"""The live list in Redis: one value, a hash of beats, and a stream that tells whoever listens that something changed.

PREFIX:live     the list, as `live_list.encode` writes it
PREFIX:beats    the beats, by `live_list.beat_of`
PREFIX:changes  an entry for each change of anything that is shared; the newest few
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from scheduler.shared.live_list import LiveList, beat_of, decode, encode
from scheduler.shared.redis_clients import RedisPlace, client, close, translated

MAX_DIGITS: Final = 19
"""Of a number that Redis counts. Whatever is longer is none of ours."""

_LOOK: Final = """
if ARGV[1] ~= '' then redis.call('HINCRBY', KEYS[2], ARGV[1], 1) end
return {redis.call('GET', KEYS[1]) or '', redis.call('HGETALL', KEYS[2])}
"""
_REPLACE: Final = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
for at = 3, #ARGV do redis.call('HDEL', KEYS[2], ARGV[at]) end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', 64, '*', 'what', 'live')
return 1
"""


class RedisLiveStore:
    """A `live.LiveStore`. Made on the event loop; raises SharedStateError for a password that cannot be read."""

    def __init__(self, place: RedisPlace) -> None:
        self._place: Final = place
        self._client: Final[Any] = client(place)
        self._keys: Final = [place.key(name) for name in ("live", "beats", "changes")]
        self._raw: tuple[LiveList, bytes] = LiveList(), b""
        """The latest list that was read, and as it was stored."""
        self._heard: bytes = b"0-0"

    async def look(self, beat: str) -> tuple[LiveList, Mapping[str, int]]:
        with translated(self._place):
            stored, flat = await self._client.eval(_LOOK, 2, *self._keys[:2], beat)
        found = decode(stored or None)
        self._raw = found, stored
        return found, {
            name.decode(errors="replace"): int(count)
            for name, count in zip(flat[::2], flat[1::2], strict=True)
            if count.isdigit() and len(count) <= MAX_DIGITS
        }

    async def replace(self, stored: LiveList, wanted: LiveList) -> bool:
        found, raw = self._raw
        if found != stored:
            return False
        gone = {beat_of(each) for each in stored.entries} - {beat_of(each) for each in wanted.entries}
        with translated(self._place):
            return bool(await self._client.eval(_REPLACE, 3, *self._keys, raw, encode(wanted), *gone))

    async def changed(self, within_s: float) -> None:
        if within_s <= 0:
            return
        with translated(self._place):
            found = await self._client.xread({self._keys[2]: self._heard}, block=max(1, round(within_s * 1000)))
        for _, entries in found.items() if isinstance(found, dict) else found or ():
            while entries and isinstance(entries[0], list):  # RESP3 has one more level
                entries = entries[0]
            if entries:
                self._heard = entries[-1][0]

    async def close(self) -> None:
        await close(self._client)
