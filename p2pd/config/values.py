"""The notation of sizes, durations and addresses in the configuration: parsers and formatters.

Rules:
1. A parser takes any value that a file, a variable or a flag can hold. It returns a value or raises ConfigError, and
   nothing else (property tests check this).
2. An error names the expected form. It never repeats the given text, which may hold a secret.
3. A parsed value passes a parser unchanged: settings can be made from values too.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from msgspec import Struct

from peer.core.eviction import DiskShare
from peer.errors import P2pdError
from scheduler.shared.redis_url import RedisAt, RedisUrlError, parse_redis_url

if TYPE_CHECKING:
    from collections.abc import Callable


class ConfigError(P2pdError):
    """The configuration is wrong: a line of text per problem."""


_SIZE: Final = re.compile(r"([0-9]{1,18}) ?(?:([kmgt])(i?))?b?", re.ASCII | re.IGNORECASE)
_MAX_SIZE_BYTES: Final = 2**63 - 1  # what a file's offset, and SQLite's integer, can hold
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([smhd]?)")
_UNIT_S: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SWITCH: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
FREE_SHARE: Final = DiskShare(20)
"""What of a disk is left free by default, so that the cache gives way before a kubelet on that disk acts: it removes
images where less than 15 % are free (`imageGCHighThresholdPercent`), until 20 % are, and evicts pods below 10 %
(`nodefs.available`). `auto` is that where there is a kubelet. Elsewhere it is at most half of what others leave."""

_SCHEDULER: Final = re.compile(r"https?://[^/]+/*")
_LABEL: Final = r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?"
_NAME: Final = re.compile(rf"(?!.{{254}}){_LABEL}(\.{_LABEL})*", re.ASCII | re.IGNORECASE)  # RFC 1035: at most 253


class Address(Struct, frozen=True):
    """An address to listen at or to connect to: an IP address or a host name, and a TCP port (0: any free port)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address. The only name that is trusted to mean so is `localhost`."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


def parse_size(value: object) -> int:
    """Bytes from `50GiB`, `500MB`, `64k` or a plain number: powers of 1000, or of 1024 with an i."""
    match = _SIZE.fullmatch(text_of(value))
    if match is not None:
        number, prefix, binary = match.groups()
        power = " kmgt".index(prefix.lower()) if prefix else 0
        size_bytes: int = int(number) * (1024 if binary else 1000) ** power
        if size_bytes <= _MAX_SIZE_BYTES:
            return size_bytes
    raise ConfigError("expected a size such as 50GiB, 500MB or a whole number of bytes")


def parse_room(value: object) -> int | DiskShare:
    """A size, or a part of the file system: `20%`."""
    if isinstance(value, DiskShare):
        return value
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,2})?) ?%", text_of(value))
    if match is not None and float(match[1]) <= 100:
        return DiskShare(float(match[1]))
    try:
        return parse_size(value)
    except ConfigError as error:
        raise ConfigError(f"{error}, or a part of the disk such as 20%") from None


def parse_free_room(value: object) -> int | DiskShare:
    """As `parse_room`, or `auto`: see FREE_SHARE."""
    if isinstance(value, DiskShare) or text_of(value) != "auto":
        return parse_room(value)
    return DiskShare(FREE_SHARE.percent, yields=True)


def show_room(room: int | DiskShare) -> str:
    """As an operator writes it; a size in whole bytes."""
    if isinstance(room, DiskShare):
        return "auto" if room.yields else f"{room.percent:g}%"
    return str(room)


def parse_duration(value: object) -> float:
    """Seconds from `30d`, `12h`, `5m`, `90s` or a plain number."""
    match = _DURATION.fullmatch(text_of(value))
    if match is None:
        raise ConfigError("expected a duration such as 30d, 12h, 5m, 90s or a number of seconds")
    return float(match[1]) * _UNIT_S[match[2]]


def parse_count(value: object) -> int:
    """A whole number from 1 to 9999. A larger number of connections is a typing error."""
    text = text_of(value)
    if re.fullmatch(r"[0-9]{1,4}", text) is None or int(text) == 0:
        raise ConfigError("expected a whole number from 1 to 9999")
    return int(text)


def parse_port(value: object) -> int:
    """A port from 1 to 65535."""
    text = text_of(value)
    if re.fullmatch(r"[0-9]{1,5}", text) is None or not 0 < int(text) < 65_536:
        raise ConfigError("expected a port from 1 to 65535")
    return int(text)


def parse_depth(value: object) -> int:
    """A whole number from 0 to 99."""
    text = text_of(value)
    if re.fullmatch(r"[0-9]{1,2}", text) is None:
        raise ConfigError("expected a whole number from 0 to 99")
    return int(text)


def parse_switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    try:
        return _SWITCH[text_of(value).lower()]
    except KeyError:
        raise ConfigError("expected true or false") from None


def parse_path(value: object) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ConfigError("expected a path")
    return Path(value)


def parse_optional_path(value: object) -> Path | None:
    """A path, or nothing."""
    return None if value is None or value == "" else parse_path(value)


def parse_directories(value: object) -> tuple[Path, ...]:
    """A list of absolute paths, or one text with white space or commas between them."""
    texts = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise ConfigError('expected a list such as ["/var/lib/containerd/io.containerd.content.v1.content"]')
    paths = tuple(dict.fromkeys(parse_path(text) for text in texts))
    if not all(path.is_absolute() for path in paths):
        raise ConfigError("expected absolute paths")
    return paths


def parse_token_text(value: object) -> str:
    """A join token, or nothing. Its text is checked where it is used, and is a secret."""
    text = text_of(value)
    if re.fullmatch(r"[!-~]{0,200}", text) is None:
        raise ConfigError("expected a join token, p2pd1_…")
    return text


def parse_file_names(value: object) -> tuple[str, str, str]:
    """Three names of files in a directory, separated by commas."""
    names = value if isinstance(value, tuple | list) else text_of(value).split(",")
    texts = [str(name).strip() for name in names]
    if len(texts) != 3 or any(re.fullmatch(r"[A-Za-z0-9._-]{1,128}", name) is None for name in texts):
        raise ConfigError("expected three names: certificate, key and CA, as in tls.crt,tls.key,ca.crt")
    return texts[0], texts[1], texts[2]


def parse_address(value: object) -> Address:
    """`HOST:PORT` or `[IPV6]:PORT`. A port alone is refused: it does not say which machines can connect."""
    if isinstance(value, Address):
        return value
    address = _address(text_of(value))
    if address is None:
        raise ConfigError("expected an address such as 127.0.0.1:65001 or [::1]:65001")
    return address


def parse_optional_address(value: object) -> Address | None:
    """An address, or nothing."""
    return None if value is None or value == "" else parse_address(value)


def parse_urls(value: object) -> tuple[str, ...]:
    """A list of http:// or https:// addresses, or one text with addresses separated by white space."""
    texts = value.split() if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise ConfigError('expected a list such as ["http://10.0.0.1:65003"]')
    for text in texts:
        if not isinstance(text, str) or _SCHEDULER.fullmatch(text) is None:
            raise ConfigError("expected addresses such as http://10.0.0.1:65003")
        if _address(text.partition("://")[2].rstrip("/")) is None:
            raise ConfigError("expected addresses such as http://10.0.0.1:65003")
    return tuple(text.rstrip("/") for text in texts)


def parse_collector(value: object) -> str:
    """Where traces go, as a whole URL, or nothing. The path is OTLP's own if there is none."""
    text = text_of(value)
    if not text:
        return ""
    url = urlsplit(text) if re.fullmatch(r"https?://[!-~]{1,500}", text) else None
    if url is None or _address(f"{url.netloc}:1" if url.netloc.rpartition(":")[1] == "" else url.netloc) is None:
        raise ConfigError("expected the address of a collector, such as http://127.0.0.1:4318/v1/traces")
    return text if url.path.strip("/") else f"{url.scheme}://{url.netloc}/v1/traces"


def parse_redis(value: object) -> RedisAt | None:
    """Where Redis is (`scheduler.shared.redis_url`), or nothing."""
    if value is None or isinstance(value, RedisAt):
        return value
    text = text_of(value)
    try:
        return parse_redis_url(text) if text else None
    except RedisUrlError as error:
        raise ConfigError(str(error)) from None


def parse_redis_prefix(value: object) -> str:
    """What the names of all keys in Redis begin with. It is a hash tag, so braces are not in it."""
    text = text_of(value)
    if re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", text) is None:
        raise ConfigError("expected 1 to 64 letters, digits, dots, colons and dashes")
    return text


def parse_share(value: object) -> float:
    """A number from 0 to 1, or per cent: `0.1`, `10%`."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?(%?)", text_of(value))
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= share <= 1:
        raise ConfigError("expected a share from 0 to 1, or from 0% to 100%")
    return share


def parse_label(value: object) -> str:
    """A name of at most 64 letters, digits, `.`, `_`, `/` and `-`, or none."""
    text = text_of(value)
    if re.fullmatch(r"[A-Za-z0-9._/-]{0,64}", text) is None:
        raise ConfigError("expected at most 64 letters, digits, dots, slashes and dashes")
    return text


def parse_networks(value: object) -> tuple[str, ...]:
    """A list of hosts (`*.corp`: all below), addresses and networks (`10.0.0.0/8`), or one text with white space."""
    texts = value.split() if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise ConfigError('expected a list such as ["registry.corp", "10.0.0.0/8"]')
    for text in texts:
        if not isinstance(text, str) or not (is_host_name(_domain(text)) or _is_network(text)):
            raise ConfigError("expected hosts, addresses and networks, such as registry.corp, *.corp or 10.0.0.0/8")
    return tuple(text.lower().removesuffix(".").strip("[]") for text in texts)


def one_of(*words: str) -> Callable[[object], str]:
    """A parser that accepts only these words."""

    def parse(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise ConfigError(f"expected one of {', '.join(words)}")

    return parse


def show_size(size_bytes: int) -> str:
    """A size for people, such as `1.5GiB`."""
    amount, units = float(size_bytes), iter(("B", "KiB", "MiB", "GiB"))
    for unit in units:
        if amount < 1024:
            return f"{amount:.1f}{unit}" if unit != "B" else f"{size_bytes}B"
        amount /= 1024
    return f"{amount:.1f}TiB"


def show_duration(duration_s: float) -> str:
    """A duration for people, in the largest unit that is not longer than it, such as `3d`."""
    for unit in "dhm":
        if duration_s >= _UNIT_S[unit]:
            return f"{duration_s / _UNIT_S[unit]:.0f}{unit}"
    return f"{duration_s:.0f}s"


def text_of(value: object) -> str:
    """A text unchanged, a number in its notation (`-1` and `inf` match no pattern), any other value as empty text."""
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def is_host_name(text: str) -> bool:
    """Whether the text is a host name, an IPv4 address, or an IPv6 address in brackets."""
    if not text.startswith("["):
        return _NAME.fullmatch(text) is not None
    try:
        return text.endswith("]") and ipaddress.IPv6Address(text[1:-1]).scope_id is None
    except ValueError:
        return False


def _address(text: str) -> Address | None:
    host, _, port = text.rpartition(":")
    if not is_host_name(host) or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        return None
    return Address(host.strip("[]"), int(port))


def _domain(text: str) -> str:
    return text.removesuffix(".").removeprefix("*.")


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
