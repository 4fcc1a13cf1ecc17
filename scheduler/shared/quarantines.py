"""Quarantines of several schedulers, in Redis: what one of them has proved holds at all.

    PREFIX:quarantine:DIGEST  [host, came_from, reason] as JSON, and its time to live; DIGEST is of the first two
    PREFIX:quarantined        the DIGESTs

Redis counts the time down: no clock of one machine is compared with that of another. A scheduler by itself has the same
in its memory (`scheduler.core.quarantine`), and a restart forgets it there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final

from scheduler.core.events import QuarantineHeard
from scheduler.core.quarantine import QUARANTINE_S, QuarantineFacts
from scheduler.shared.redis_clients import RedisPlace, client, close, translated

SHARE_EVERY_S: Final = 2.0
MAX_SHARED: Final = 1024
LAST_S: Final = 1.0
"""What ends sooner is not shared: it would be put back after Redis has let it go."""

_SHARE: Final = """
for at = 2, #ARGV, 3 do
  redis.call('SET', KEYS[2] .. ARGV[at], ARGV[at + 1], 'NX', 'PX', ARGV[at + 2])
  redis.call('SADD', KEYS[1], ARGV[at])
end
local found = {}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local left = redis.call('PTTL', KEYS[2] .. name)
  if left <= 0 then
    redis.call('SREM', KEYS[1], name)
  elseif #found < 2 * tonumber(ARGV[1]) then
    found[#found + 1] = redis.call('GET', KEYS[2] .. name)
    found[#found + 1] = left
  end
end
return found
"""


class RedisQuarantines:
    """On the event loop. Raises SharedStateError."""

    def __init__(self, place: RedisPlace) -> None:
        self._place: Final = place
        self._client: Final[Any] = client(place)
        self._keys: Final = [place.key("quarantined"), place.key("quarantine:")]

    async def share(self, own: Iterable[QuarantineFacts], now: float) -> list[QuarantineHeard]:
        """Put these there, whose `until` is of the clock of `now`; return all that are there."""
        arguments: list[str | int] = [MAX_SHARED]
        for each in own:
            if each.until - now > LAST_S:
                name = blake2b(f"{each.id}\0{each.came_from}".encode(), digest_size=16).hexdigest()
                told = json.dumps([each.id, each.came_from, each.reason])
                arguments += [name, told, int((each.until - now) * 1000)]
        with translated(self._place):
            found = await self._client.eval(_SHARE, 2, *self._keys, *arguments)
        heard = [_heard(text, int(left)) for text, left in zip(found[::2], found[1::2], strict=True)]
        return [each for each in heard if each is not None]

    async def close(self) -> None:
        await close(self._client)


def _heard(text: bytes, left_ms: int) -> QuarantineHeard | None:
    try:
        host, came_from, reason = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (host, came_from, reason)
    if not all(isinstance(each, str) and len(each) <= 512 for each in texts):
        return None
    return QuarantineHeard(*texts, min(left_ms / 1000, QUARANTINE_S))
