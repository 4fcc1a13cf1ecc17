"""What the daemon that runs here says of itself: the settings in force, which need not be those of p2pd.toml.

Whatever answers at the admin port is checked like any other input: what does not parse counts as not said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from p2pd.config.settings import Settings
from p2pd.config.upstream_setting import ANY_HOST, UpstreamSetting, parse_upstream
from p2pd.config.values import (
    ConfigError,
    parse_address,
    parse_free_room,
    parse_optional_path,
    parse_path,
    parse_room,
    parse_urls,
)
from p2pd.doctor.environment import Environment, UnreachableError
from p2pd.doctor.result import CheckResult, Level
from peer.core.eviction import DiskShare


def status_of(settings: Settings, around: Environment) -> Mapping[str, Any]:
    """The daemon's `/status`; empty if there is none."""
    try:
        found = json.loads(around.get(f"http://{settings.admin}/status").body)
    except (UnreachableError, ValueError, RecursionError):  # check_ready reports it
        return {}
    return found if isinstance(found, dict) else {}


def in_force(settings: Settings, around: Environment) -> Settings:
    """`settings` with those that the daemon at their admin address has; as they are if no daemon answers."""
    status = status_of(settings, around)
    said: dict[str, Any] = {}
    for key, read in _READ.items():
        try:
            value = read(status)
        except (ConfigError, KeyError, TypeError, ValueError, AttributeError):
            continue
        if value not in ((), None):
            said[key] = value
    return replace(settings, **said)


def differing(here: Settings, daemon: Settings) -> Iterator[CheckResult]:
    """The keys in which the daemon differs from the settings that this command found."""
    keys = [key for key in _COMPARED if _plain(key, getattr(here, key)) != _plain(key, getattr(daemon, key))]
    if keys:
        title = f"the daemon has other settings than are found here: {', '.join(keys)}; the daemon's are looked at"
        advice = "that is so after a start with flags; if p2pd.toml was changed since, restart p2pd"
        yield CheckResult(Level.OK, "settings", title, advice)


def _upstreams(status: Mapping[str, Any]) -> tuple[UpstreamSetting, ...]:
    found = [
        replace(
            parse_upstream(f"{each['name']}={','.join(each['urls'])}"),
            ca=parse_optional_path(each.get("ca")),
            password_file=parse_optional_path(each.get("password_file")),
        )
        for each in status["upstream_settings"]
    ]
    others = [parse_upstream(ANY_HOST)] if found and ANY_HOST in status["upstreams"] else []
    return (*found, *others)


_READ: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    "data": lambda status: parse_path(status["data"]),
    "mirror": lambda status: parse_address(status["mirror"]),
    "advertise": lambda status: parse_address(status["advertise"]),
    "scheduler": lambda status: parse_urls(status["scheduler"].replace(",", " ")),
    "upstream": _upstreams,
    "max_bytes": lambda status: parse_room(status["cache"]["limits"]["max_bytes"]),
    "min_free_bytes": lambda status: parse_free_room(status["cache"]["limits"]["min_free_bytes"]),
}
_COMPARED: Final = ("data", "mirror", "upstream", "max_bytes", "min_free_bytes")
"""Not the addresses: the daemon says where it listens, and settings may leave that to it."""


def _plain(key: str, value: Any) -> object:
    if key == "mirror":
        return value.port or None
    if isinstance(value, DiskShare):
        return value.percent  # a daemon beside a kubelet has that of `auto`
    if key == "upstream":
        return [(each.name, each.urls, each.ca, each.password_file) for each in value]
    return value
