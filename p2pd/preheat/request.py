"""The body of a request for a preheat: each member is checked, and each problem is told, with what is expected.

images          names as docker's, 1 to 64
to              "all", "12", "30%", "site=a,zone=b", or hosts by id; a text or a list of texts   [default: all]
platforms       as "linux/arm64"; "all": all   [default: each host's own]
rate            what each host may take: "20mbit", or bytes per second as "2MB"; 0: no limit   [default: 0]
ttl             for how long it is kept: "7d", or seconds   [default: 7d]
within          when it ends at the latest, counted from its beginning: "1h"   [default: 1h; with a window, 7d]
at              when it begins, RFC 3339   [default: now]
window          "22:00-05:00": in these hours alone, by the scheduler's clock
credentials     a docker config.json, for registries that are not public
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from p2pd.config.values import ConfigError, parse_duration, parse_size
from p2pd.preheat.credentials import parse_credentials
from p2pd.pull.platforms import parse_platform
from peer.errors import P2pdError
from peer.oci.reference import parse_image_reference
from scheduler.core.preheat_hosts import SelectionError, parse_selection
from scheduler.core.preheat_window import WindowError, parse_window

T = TypeVar("T")

MAX_BODY_BYTES: Final = 2 * 1024 * 1024
"""20,000 hosts by ids of 64 characters take 1.4 MB."""

MAX_IMAGES: Final = 64
MAX_PLATFORMS: Final = 16
MAX_TTL_S: Final = 365 * 86_400.0
MAX_WITHIN_S: Final = 30 * 86_400.0
MAX_AHEAD_S: Final = 366 * 86_400.0
MAX_RATE_BYTES_PER_S: Final = 2**40
DEFAULT_TTL: Final = "7d"
DEFAULT_WITHIN: Final = "1h"
DEFAULT_WITHIN_HOURS: Final = "7d"
"""With a window."""

_BITS: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?([kmg]?)bit(?:/s|ps)?", re.IGNORECASE | re.ASCII)
_MEMBERS: Final = frozenset({"images", "to", "platforms", "rate", "ttl", "within", "at", "window", "credentials"})


class RequestError(P2pdError):
    """A request that is wrong. `problems` has a line for each member that is."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class PreheatRequest:
    """What a preheat is to do. Times are Unix seconds; `at` None: at once. `credentials` is docker's config.json."""

    images: tuple[str, ...]
    to: tuple[str, ...] = ("all",)
    platforms: tuple[str, ...] = ()
    rate_bytes_per_s: int = 0
    ttl_s: float = parse_duration(DEFAULT_TTL)
    within_s: float = parse_duration(DEFAULT_WITHIN)
    at: float | None = None
    window: str = ""
    credentials: str = field(default="", repr=False)


def parse_request(body: object, now: float) -> PreheatRequest:
    """The request in a decoded body of JSON. Raises RequestError with all that is wrong."""
    if not isinstance(body, dict):
        raise RequestError("the body is to be a JSON object")
    problems = [f"{_shown(name)}: there is no such member" for name in body if name not in _MEMBERS]

    def read(name: str, parse: Callable[[Any], T], default: T) -> T:
        if body.get(name) is None:
            return default
        try:
            return parse(body[name])
        except (P2pdError, SelectionError, WindowError) as error:
            problems.append(f"{name}: {error}")
            return default

    within_s = parse_duration(DEFAULT_WITHIN if body.get("window") is None else DEFAULT_WITHIN_HOURS)
    found = PreheatRequest(
        images=read("images", _images, ()),
        to=read("to", _hosts, ("all",)),
        platforms=read("platforms", _platforms, ()),
        rate_bytes_per_s=read("rate", parse_rate, 0),
        ttl_s=read("ttl", lambda value: _duration(value, MAX_TTL_S), parse_duration(DEFAULT_TTL)),
        within_s=read("within", lambda value: _duration(value, MAX_WITHIN_S, 1.0), within_s),
        at=read("at", lambda value: parse_time(value, now), None),
        window=read("window", _window, ""),
        credentials=read("credentials", _credentials, ""),
    )
    if body.get("images") is None:
        problems.append("images: expected the names of 1 to 64 images")
    if problems:
        raise RequestError(*problems[:20])
    return found


def parse_rate(value: object) -> int:
    """Bytes per second from `20mbit` or `2MB`. Raises ConfigError."""
    bits = _BITS.fullmatch(value) if isinstance(value, str) else None
    if bits is not None:
        rate = int(float(bits[1]) * 1000 ** (" kmg".index(bits[2].lower()) if bits[2] else 0) / 8)
    elif isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        rate = parse_size(value)
    else:
        raise ConfigError("expected a rate such as 20mbit, or bytes per second such as 2MB")
    if rate > MAX_RATE_BYTES_PER_S:
        raise ConfigError("expected a rate such as 20mbit, or bytes per second such as 2MB")
    return rate


def parse_time(value: object, now: float) -> float:
    """Unix seconds from RFC 3339, as `2030-01-31T22:00:00Z`. Raises ConfigError."""
    try:
        if not isinstance(value, str) or len(value) > 40:
            raise ValueError
        time = datetime.fromisoformat(value)
        if time.tzinfo is None:
            raise ValueError
        seconds = time.timestamp()
    except (ValueError, OverflowError, OSError):
        raise ConfigError("expected a time with its zone, such as 2030-01-31T22:00:00Z") from None
    if seconds > now + MAX_AHEAD_S:
        raise ConfigError("it is more than a year ahead")
    return seconds


def show_time(seconds: float) -> str:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _images(value: object) -> tuple[str, ...]:
    names = dict.fromkeys(_texts(value, MAX_IMAGES, "the names of 1 to 64 images"))
    for name in names:
        parse_image_reference(name)
    return tuple(names)


def _hosts(value: object) -> tuple[str, ...]:
    terms = (value,) if isinstance(value, str) else _texts(value, 20_000, "a text, or a list of texts")
    parse_selection(terms)
    return terms


def _platforms(value: object) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else _texts(value, MAX_PLATFORMS, "platforms such as linux/arm64")
    for name in names:
        if name != "all":
            parse_platform(name)
    return tuple(dict.fromkeys(names))


def _duration(value: object, most_s: float, least_s: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError("expected a duration such as 7d, 12h or a number of seconds")
    duration_s = parse_duration(value) if isinstance(value, str) else value
    if not least_s <= duration_s <= most_s:
        raise ConfigError(f"expected {least_s:.0f} s to {most_s / 86_400:.0f} days")
    return float(duration_s)


def _window(value: object) -> str:
    text = value if isinstance(value, str) else ""
    parse_window(text)
    return text


def _credentials(value: object) -> str:
    if not isinstance(value, Mapping):
        raise ConfigError('expected a docker config.json: {"auths": {"REGISTRY": {"auth": "base64 of USER:PASSWORD"}}}')
    text = json.dumps(value)
    parse_credentials(text)
    return text


def _texts(value: object, most: int, expected: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= most:
        raise ConfigError(f"expected {expected}")
    if not all(isinstance(each, str) for each in value):
        raise ConfigError(f"expected {expected}")
    return tuple(value)


def _shown(name: object) -> str:
    return ascii(str(name)[:40])
