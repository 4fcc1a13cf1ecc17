"""What each of several schedulers tells the others of its hosts and of what they exchange, in Redis.

    PREFIX:roster:ID     the connected hosts of a scheduler (`scheduler.core.roster`), for ROSTER_S
    PREFIX:exchanges     by process (ID:RUN): the time, and its `scheduler.core.exchanges`, for a day
    PREFIX:exchanges-at  the processes, by that time

Rules:
1. Both are written every WRITTEN_EVERY_S, by whoever is on the live list. Whichever scheduler is asked merges them.
2. What a process has told of pulls outlives it, for a day: a pull that was going on ended then.
3. Hosts cannot fill Redis: a roster has MAX_HOSTS, what a process tells of exchanges has MAX_EXCHANGES_BYTES, and there
   are MAX_PROCESSES. What is more is left out, of pulls the oldest.
4. Times are told as ages, and go by Redis's clock: no clock of one machine is compared with that of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final, get_type_hints
from zlib import crc32

from scheduler.core.exchanges import BlobFacts, Exchanges, PullFacts
from scheduler.core.pulls import DAY_S
from scheduler.core.roster import HostFacts
from scheduler.shared import columns
from scheduler.shared.redis_clients import RedisPlace, client, close, translated

WRITTEN_EVERY_S: Final = 5.0
ROSTER_S: Final = 20.0
MAX_HOSTS: Final = 200_000
MAX_EXCHANGES_BYTES: Final = 64 * 1024
MAX_PROCESSES: Final = 128
"""Twice as many as there are schedulers at most: those that live, and what was before."""

OWN_NUMBERS: Final = 2**20
"""The numbers of a scheduler's own pulls are below that; those of others are above, and differ from each other."""

_HOSTS: Final = get_type_hints(HostFacts)
_PULLS: Final = get_type_hints(PullFacts)
_BLOBS: Final = get_type_hints(BlobFacts)
_ABOUT: Final = {"blobs_in_all": int, "began_s": float, "forgot_s": float | None}

_WRITE: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('HSET', KEYS[2], ARGV[3], string.format('%d:', now) .. ARGV[4])
redis.call('ZADD', KEYS[3], now, ARGV[3])
local gone = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[5])
for _, name in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1 - ARGV[6])) do gone[#gone + 1] = name end
for _, name in ipairs(gone) do
  redis.call('HDEL', KEYS[2], name)
  redis.call('ZREM', KEYS[3], name)
end
"""

_READ: Final = """
local rosters = {}
for at = 2, #KEYS do rosters[at - 1] = redis.call('GET', KEYS[at]) end
return {redis.call('TIME')[1], redis.call('HGETALL', KEYS[1]), rosters}
"""


class RedisSummaries:
    """On the event loop. Raises SharedStateError."""

    def __init__(self, place: RedisPlace) -> None:
        self._place: Final = place
        self._client: Final[Any] = client(place)
        self._exchanges: Final = place.key("exchanges")
        self._times: Final = place.key("exchanges-at")

    async def write(self, process: str, roster: bytes, exchanges: bytes) -> None:
        """What a process (ID:RUN) tells, encoded."""
        keys = [self._roster(process.partition(":")[0]), self._exchanges, self._times]
        bounds = [round(DAY_S), MAX_PROCESSES]
        with translated(self._place):
            await self._client.eval(_WRITE, 3, *keys, roster, round(ROSTER_S * 1000), process, exchanges, *bounds)

    async def read(self, schedulers: Sequence[str]) -> tuple[list[bytes | None], dict[str, tuple[float, bytes]]]:
        """The rosters of these, None of one that has written none lately; and by process, for how many seconds it has
        told nothing, and the exchanges that it told last. All encoded, and by one call.
        """
        keys = [self._exchanges, *map(self._roster, schedulers)]
        with translated(self._place):
            now, flat, rosters = await self._client.eval(_READ, len(keys), *keys)
        found = {}
        for name, told in zip(flat[::2], flat[1::2], strict=True):
            at, _, encoded = told.partition(b":")
            if at.isdigit() and len(at) < 16:
                found[name.decode(errors="replace")] = max(0.0, float(now) - float(at)), encoded
        return rosters, found

    async def close(self) -> None:
        await close(self._client)

    def _roster(self, scheduler: str) -> str:
        return self._place.key(f"roster:{scheduler}")


def encode_roster(hosts: Iterable[HostFacts]) -> bytes:
    """Takes 10 us a host or so, so not on the event loop."""
    cells = list(zip(*islice(hosts, MAX_HOSTS), strict=True)) or [() for _ in _HOSTS]
    return columns.encode({name: list(each) for name, each in zip(_HOSTS, cells, strict=True)})


def decode_roster(stored: bytes | None) -> list[HostFacts]:
    """The hosts in what is stored; none if it is no roster."""
    return [HostFacts(*row) for row in columns.rows(columns.decode(stored), _HOSTS)[:MAX_HOSTS]]


def encode_exchanges(told: Exchanges, now: float) -> bytes:
    """What a scheduler knows at `now` by its clock. Of pulls that are too many for the bound, the newest."""
    blobs = {f"blob.{name}": [getattr(each, name) for each in told.blobs] for name in _BLOBS}
    pulls, forgot_at = list(told.pulls), told.forgot_at
    while True:
        ages = [replace(each, began_at=now - each.began_at, ended_at=_ago(each.ended_at, now)) for each in pulls]
        forgot_s = now - forgot_at if forgot_at > told.began_at else None
        cells = (told.blobs_in_all, now - told.began_at, forgot_s)
        about = {name: [cell] for name, cell in zip(_ABOUT, cells, strict=True)}
        shown = {f"pull.{name}": [getattr(each, name) for each in ages] for name in _PULLS}
        encoded = columns.encode({**about, **blobs, **shown})
        if len(encoded) <= MAX_EXCHANGES_BYTES or not pulls:
            return encoded
        kept = len(pulls) // 2
        forgot_at = max(forgot_at, *(now if each.ended_at is None else each.ended_at for each in pulls[kept:]))
        pulls = pulls[:kept]


def decode_exchanges(process: str, stored: bytes, told_s: float, now: float, *, lives: bool) -> Exchanges | None:
    """What a process told `told_s` ago, by the clock of `now`; None if that is none."""
    found = columns.decode(stored)
    about = columns.rows(found, _ABOUT)
    if len(about) != 1:
        return None
    blobs_in_all, began_s, forgot_s = about[0]
    told_at = now - told_s
    pulls = []
    for row in columns.rows(found, _PULLS, "pull."):
        pull = PullFacts(*row)
        ended_at = None if pull.ended_at is None else told_at - pull.ended_at
        if ended_at is None and not lives:
            ended_at, pull = told_at, replace(pull, left_bytes=0)
        number = _number_of(process, pull.number)
        pulls.append(replace(pull, number=number, began_at=told_at - pull.began_at, ended_at=ended_at))
    blobs = [BlobFacts(*row) for row in columns.rows(found, _BLOBS, "blob.")]
    shown = [replace(each, pull=_number_of(process, each.pull)) for each in blobs] if lives else []
    return Exchanges(
        tuple(pulls),
        tuple(shown),
        blobs_in_all if lives else 0,
        told_at - began_s,
        float("-inf") if forgot_s is None else told_at - forgot_s,
    )


def of_processes(told: Mapping[str, tuple[float, bytes]], own: str, live: Iterable[str], now: float) -> list[Exchanges]:
    """What the processes other than `own` have told. The latest process of a scheduler that lives lives."""
    latest: dict[str, float] = {}
    for process, (told_s, _) in told.items():
        scheduler = process.partition(":")[0]
        latest[scheduler] = min(told_s, latest.get(scheduler, told_s))
    living, own_id = set(live), own.partition(":")[0]
    found = []
    for process, (told_s, encoded) in told.items():
        scheduler = process.partition(":")[0]
        lives = scheduler in living and scheduler != own_id and told_s == latest[scheduler] and told_s <= ROSTER_S
        exchanges = None if process == own else decode_exchanges(process, encoded, told_s, now, lives=lives)
        if exchanges is not None:
            found.append(exchanges)
    return found


def _ago(at: float | None, now: float) -> float | None:
    return None if at is None else now - at


def _number_of(process: str, number: int) -> int:
    """Of another's pull: below 2**53, as JavaScript has whole numbers."""
    return OWN_NUMBERS * (1 + crc32(process.encode())) + number % OWN_NUMBERS
