"""What has changed from one reading of the settings to the next, as texts for people. Secrets are not in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from p2pd.config.room import quota_of, room_under
from p2pd.config.settings import KEYS, Settings
from p2pd.config.sources import Loaded
from p2pd.config.upstream_setting import UpstreamSetting
from p2pd.config.values import parse_duration, parse_free_room, parse_room, parse_size, show_room, show_size
from peer.core.eviction import DiskShare
from scheduler.shared.redis_url import RedisAt

HIDDEN: Final = "[hidden]"

_SIZES: Final = {f"{prefix}iB": 1024**power for power, prefix in ((4, "T"), (3, "G"), (2, "M"), (1, "K"))}
_DURATIONS: Final = {"d": 86400, "h": 3600, "m": 60}


@dataclass(frozen=True, slots=True)
class Change:
    """A key, or one upstream of the key `upstream`, with its old and its new value; None: it is not there."""

    what: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.what}: added, {self.after}"
        if self.after is None:
            return f"{self.what}: removed, was {self.before}"
        return f"{self.what}: {self.before or 'none'} -> {self.after or 'none'}"


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload has brought, and what has changed in the sources and counts only after a restart."""

    changed: tuple[Change, ...] = ()
    needs_restart: tuple[Change, ...] = ()


def changes(before: Settings, after: Settings) -> tuple[Change, ...]:
    """What is different, in the order of the keys."""
    return tuple(_changes(before, after))


def in_force(loaded: Loaded, used_bytes: int = 0) -> list[dict[str, str | None]]:
    """Each key with its value, and where the value is from (None: the default).

    `means`: what the value is on the disk of `data`, where blobs take `used_bytes`; for keys of room only.
    """
    means = _on_the_disk(loaded.settings, used_bytes)
    return [
        {
            "key": key,
            "value": shown(key, getattr(loaded.settings, key)),
            "from": loaded.places.get(key),
            "means": means.get(key),
        }
        for key in KEYS
    ]


def _on_the_disk(settings: Settings, used_bytes: int) -> Mapping[str, str]:
    room = room_under(settings.data)
    if room is None or not room.total_bytes:
        return {}
    bounds = quota_of(settings).on(room, used_bytes)
    return {
        key: f"{show_size(size_bytes)}, {100 * size_bytes / room.total_bytes:.0f} % of the disk"
        for key, size_bytes in (("max_bytes", bounds.max_bytes), ("min_free_bytes", bounds.min_free_bytes))
    }


def shown(key: str, value: Any) -> str:
    """The value of a key as an operator would write it, "" for none. Lists are separated by commas."""
    if isinstance(value, RedisAt):
        return str(value)  # without the password
    if KEYS[key].secret:
        return HIDDEN if value else ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(_shown_upstream(each) if isinstance(each, UpstreamSetting) else str(each) for each in value)
    if isinstance(value, DiskShare):
        return show_room(value)
    if KEYS[key].parse in (parse_size, parse_room, parse_free_room):
        return _in_units(value, _SIZES, "")
    if KEYS[key].parse is parse_duration:
        return _in_units(value, _DURATIONS, "s")
    return "" if value is None else str(value)


def _changes(before: Settings, after: Settings) -> Iterator[Change]:
    for key in KEYS:
        old, new = getattr(before, key), getattr(after, key)
        if old == new:
            continue
        if key == "upstream":
            yield from _of_upstreams(old, new)
        else:
            yield Change(key, shown(key, old), shown(key, new))


def _of_upstreams(before: tuple[UpstreamSetting, ...], after: tuple[UpstreamSetting, ...]) -> Iterator[Change]:
    old, new = {each.name: each for each in before}, {each.name: each for each in after}
    for name in (*old, *(name for name in new if name not in old)):
        was, now = old.get(name), new.get(name)
        if was != now:
            texts = [None if each is None else _shown_upstream(each) for each in (was, now)]
            yield Change(f"upstream {name}", *texts)
    if before[0].name != after[0].name:
        yield Change("default upstream", before[0].name, after[0].name)


def _shown_upstream(upstream: UpstreamSetting) -> str:
    """As it is written in p2pd.toml. The user's name is hidden: it is half of a credential."""
    options: Mapping[str, object] = {
        "ca": upstream.ca,
        "username": HIDDEN if upstream.username else None,
        "password_file": upstream.password_file,
        "token_hosts": ",".join(upstream.token_hosts),
        "connections": upstream.connections,
        "rate": None if upstream.rate is None else _in_units(upstream.rate, _SIZES, ""),
        "trace": "true" if upstream.trace else None,
    }
    address = f"={','.join(upstream.urls)}" if upstream.urls else ""
    return f"{upstream.name}{address}" + "".join(f";{name}={value}" for name, value in options.items() if value)


def _in_units(amount: int | float, units: Mapping[str, int], smallest: str) -> str:
    """The whole amount, in the largest unit that needs no fraction."""
    for unit, worth in units.items():
        if amount and amount % worth == 0:
            return f"{amount // worth:.0f}{unit}"
    return f"{amount:g}{smallest}" if isinstance(amount, float) else f"{amount}{smallest}"
