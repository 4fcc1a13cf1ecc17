"""The notation of sizes, durations, addresses and upstreams in the configuration: parsers and formatters.

Rules:
1. A parser takes any value that a file, a variable or a flag can hold. It returns a value or raises ConfigError, and
   nothing else (property tests check this).
2. An error names the expected form. It never repeats the given text, which may hold a secret.
3. A parsed value passes a parser unchanged: settings can be made from values too.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from peer.core.eviction import DiskShare
from peer.errors import InvalidNameError, P2pdError
from peer.oci.reference import DOCKER_HUB, is_host, parse_upstream_name
from peer.origin.upstream import UpstreamEndpoint
from scheduler.shared.redis_url import RedisAt, RedisUrlError, parse_redis_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


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

ANY_HOST: Final = "*"
"""The name of the upstream that stands for every registry that has no upstream of its own."""

_HUB_URL: Final = "https://registry-1.docker.io"
_SCHEDULER: Final = re.compile(r"https?://[^/]+/*")
_LABEL: Final = r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?"
_NAME: Final = re.compile(rf"(?!.{{254}}){_LABEL}(\.{_LABEL})*", re.ASCII | re.IGNORECASE)  # RFC 1035: at most 253


@dataclass(frozen=True, slots=True)
class Address:
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


@dataclass(frozen=True, slots=True)
class UpstreamSetting:
    """An origin of the images of `name` (`docker.io`, `registry.example:5000`).

    The name `*` stands for every registry that has none of its own; it has no `urls`.

    `urls` are tried in order. `connections` and `rate` (bytes/s) replace `connections_per_origin` and
    `origin_rate` for this origin. `token_hosts` are token servers outside the URLs' domains. `trace`: it is told the
    context of traces. `repr` does not show credentials.
    """

    name: str
    urls: tuple[str, ...]
    ca: Path | None = None
    username: str | None = field(default=None, repr=False)
    password_file: Path | None = field(default=None, repr=False)
    connections: int | None = None
    rate: int | None = None
    token_hosts: tuple[str, ...] = ()
    trace: bool = False

    @property
    def is_any_host(self) -> bool:
        return self.name == ANY_HOST


def url_of(upstream: str) -> str:
    """Where the upstream of that name is reached if the operator does not say it."""
    return _HUB_URL if upstream == DOCKER_HUB else f"https://{upstream}"


def parse_size(value: object) -> int:
    """Bytes from `50GiB`, `500MB`, `64k` or a plain number: powers of 1000, or of 1024 with an i."""
    match = _SIZE.fullmatch(_text(value))
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
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,2})?) ?%", _text(value))
    if match is not None and float(match[1]) <= 100:
        return DiskShare(float(match[1]))
    try:
        return parse_size(value)
    except ConfigError as error:
        raise ConfigError(f"{error}, or a part of the disk such as 20%") from None


def parse_free_room(value: object) -> int | DiskShare:
    """As `parse_room`, or `auto`: see FREE_SHARE."""
    if isinstance(value, DiskShare) or _text(value) != "auto":
        return parse_room(value)
    return DiskShare(FREE_SHARE.percent, yields=True)


def show_room(room: int | DiskShare) -> str:
    """As an operator writes it; a size in whole bytes."""
    if isinstance(room, DiskShare):
        return "auto" if room.yields else f"{room.percent:g}%"
    return str(room)


def parse_duration(value: object) -> float:
    """Seconds from `30d`, `12h`, `5m`, `90s` or a plain number."""
    match = _DURATION.fullmatch(_text(value))
    if match is None:
        raise ConfigError("expected a duration such as 30d, 12h, 5m, 90s or a number of seconds")
    return float(match[1]) * _UNIT_S[match[2]]


def parse_count(value: object) -> int:
    """A whole number from 1 to 9999. A larger number of connections is a typing error."""
    text = _text(value)
    if re.fullmatch(r"[0-9]{1,4}", text) is None or int(text) == 0:
        raise ConfigError("expected a whole number from 1 to 9999")
    return int(text)


def parse_port(value: object) -> int:
    """A port from 1 to 65535."""
    text = _text(value)
    if re.fullmatch(r"[0-9]{1,5}", text) is None or not 0 < int(text) < 65_536:
        raise ConfigError("expected a port from 1 to 65535")
    return int(text)


def parse_depth(value: object) -> int:
    """A whole number from 0 to 99."""
    text = _text(value)
    if re.fullmatch(r"[0-9]{1,2}", text) is None:
        raise ConfigError("expected a whole number from 0 to 99")
    return int(text)


def parse_switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    try:
        return _SWITCH[_text(value).lower()]
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
    text = _text(value)
    if re.fullmatch(r"[!-~]{0,200}", text) is None:
        raise ConfigError("expected a join token, p2pd1_…")
    return text


def parse_file_names(value: object) -> tuple[str, str, str]:
    """Three names of files in a directory, separated by commas."""
    names = value if isinstance(value, tuple | list) else _text(value).split(",")
    texts = [str(name).strip() for name in names]
    if len(texts) != 3 or any(re.fullmatch(r"[A-Za-z0-9._-]{1,128}", name) is None for name in texts):
        raise ConfigError("expected three names: certificate, key and CA, as in tls.crt,tls.key,ca.crt")
    return texts[0], texts[1], texts[2]


def parse_address(value: object) -> Address:
    """`HOST:PORT` or `[IPV6]:PORT`. A port alone is refused: it does not say which machines can connect."""
    if isinstance(value, Address):
        return value
    address = _address(_text(value))
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
    text = _text(value)
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
    text = _text(value)
    try:
        return parse_redis_url(text) if text else None
    except RedisUrlError as error:
        raise ConfigError(str(error)) from None


def parse_redis_prefix(value: object) -> str:
    """What the names of all keys in Redis begin with. It is a hash tag, so braces are not in it."""
    text = _text(value)
    if re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", text) is None:
        raise ConfigError("expected 1 to 64 letters, digits, dots, colons and dashes")
    return text


def parse_share(value: object) -> float:
    """A number from 0 to 1, or per cent: `0.1`, `10%`."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?(%?)", _text(value))
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= share <= 1:
        raise ConfigError("expected a share from 0 to 1, or from 0% to 100%")
    return share


def parse_label(value: object) -> str:
    """A name of at most 64 letters, digits, `.`, `_`, `/` and `-`, or none."""
    text = _text(value)
    if re.fullmatch(r"[A-Za-z0-9._/-]{0,64}", text) is None:
        raise ConfigError("expected at most 64 letters, digits, dots, slashes and dashes")
    return text


def parse_upstream(value: object) -> UpstreamSetting:
    """`NAME=URL[,URL...][;option=value...]`, with the options of `UpstreamSetting`; a name or a URL alone; or `*`."""
    if isinstance(value, UpstreamSetting):
        return value
    head, *options = _text(value).split(";")
    name, urls = _name_and_urls(head)
    upstream = UpstreamSetting(
        name=name,
        urls=urls,
        **_options(options),  # type: ignore[arg-type] # each has the type that its parser returns
    )
    if upstream.is_any_host and (upstream.username or upstream.password_file or upstream.token_hosts):
        raise ConfigError("the upstream * is any registry: credentials need an upstream of their own")
    if upstream.is_any_host and upstream.trace:
        raise ConfigError("the upstream * is any registry: one that is told of traces needs an upstream of its own")
    if (upstream.username is None) != (upstream.password_file is None):
        raise ConfigError("username and password_file are given together or not at all")
    if any(url.startswith("oci-layout:") for url in upstream.urls) and (len(upstream.urls) > 1 or options):
        raise ConfigError("an oci-layout stands alone: without other URLs, and without options")
    return upstream


def parse_upstreams(value: object) -> tuple[UpstreamSetting, ...]:
    """A list of upstreams, or one text with upstreams separated by white space, as in a variable.

    The first of them is the default upstream. If there is none but `*`, that is Docker Hub.
    """
    texts = value.split() if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise ConfigError('expected a list such as ["docker.io=https://registry-1.docker.io"]')
    upstreams: list[UpstreamSetting] = []
    problems: list[str] = []
    for text in texts:
        try:
            upstreams.append(parse_upstream(text))
        except ConfigError as error:
            name = text.partition("=")[0] if isinstance(text, str) else repr(text)
            problems.append(f"{name[:80]!a}: {error}")
    names = [upstream.name for upstream in upstreams]
    repeated = {name for name in names if names.count(name) > 1}
    problems += [f"{name} is given twice: put all its URLs into one, separated by commas" for name in sorted(repeated)]
    if problems or not upstreams:
        raise ConfigError("\n".join(problems) or "expected at least one upstream")
    if all(upstream.is_any_host for upstream in upstreams):
        upstreams.insert(0, UpstreamSetting(DOCKER_HUB, (url_of(DOCKER_HUB),)))
    return tuple(sorted(upstreams, key=lambda upstream: upstream.is_any_host))


def parse_networks(value: object) -> tuple[str, ...]:
    """A list of hosts (`*.corp`: all below), addresses and networks (`10.0.0.0/8`), or one text with white space."""
    texts = value.split() if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise ConfigError('expected a list such as ["registry.corp", "10.0.0.0/8"]')
    for text in texts:
        if not isinstance(text, str) or not (_is_host(_domain(text)) or _is_network(text)):
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


def _text(value: object) -> str:
    """A text unchanged, a number in its notation (`-1` and `inf` match no pattern), any other value as empty text."""
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _is_host(text: str) -> bool:
    """Whether the text is a host name, an IPv4 address, or an IPv6 address in brackets."""
    if not text.startswith("["):
        return _NAME.fullmatch(text) is not None
    try:
        return text.endswith("]") and ipaddress.IPv6Address(text[1:-1]).scope_id is None
    except ValueError:
        return False


def _address(text: str) -> Address | None:
    host, _, port = text.rpartition(":")
    if not _is_host(host) or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
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


def _name_and_urls(text: str) -> tuple[str, tuple[str, ...]]:
    name, equals, urls = text.partition("=")
    if name == ANY_HOST:
        if equals:
            raise ConfigError("the upstream * is every registry at its own address: it has no URL")
        return ANY_HOST, ()
    if equals:
        return _upstream_name(name), tuple(_url(url) for url in urls.split(","))
    if "://" in text:
        return _upstream_name(urlsplit(_url(text)).netloc), (_url(text),)
    if not is_host(text):
        raise ConfigError("expected NAME=URL, such as docker.io=https://registry-1.docker.io")
    name = _upstream_name(text)
    return name, (url_of(name),)


def _upstream_name(text: str) -> str:
    """The name of a registry, in the form in which names are compared. It is `host[:port]`."""
    try:
        return parse_upstream_name(text)
    except InvalidNameError:
        raise ConfigError(
            "expected an upstream's name before the =, such as docker.io or registry.example:5000"
        ) from None


def _url(text: str) -> str:
    """A registry's address as `UpstreamEndpoint` writes it, or an OCI layout's."""
    text = text.strip()
    if not text.isprintable() or re.fullmatch(r"[^ ?#]+", text) is None:
        raise ConfigError("expected a URL after the =, without spaces, ? and #")
    if re.match(r"oci-layout:///[^/]", text):
        return text
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ConfigError("the URL has a host or a port that cannot be") from None
    if "@" in url.netloc:
        raise ConfigError("credentials do not belong into a URL: give ;username=NAME;password_file=FILE")
    try:
        endpoint = UpstreamEndpoint.parse(text)
    except ValueError:
        endpoint = None
    host = endpoint.target.host if endpoint else ""
    if endpoint is None or not _is_host(f"[{host}]" if ":" in host else host) or port == 0:
        raise ConfigError("expected a URL that starts with https://HOST, http://HOST or oci-layout:///PATH")
    return str(endpoint)


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(text.split(","))
    if not all(_is_host(host) for host in hosts):
        raise ConfigError("expected host names, separated by commas")
    return hosts


_OPTIONS: Final[Mapping[str, Callable[[str], object]]] = {
    "ca": parse_path,
    "username": str,
    "password_file": parse_path,
    "connections": parse_count,
    "rate": parse_size,
    "token_hosts": _hosts,
    "trace": parse_switch,
}


def _options(options: list[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for option in options:
        name, _, text = option.partition("=")
        parse = _OPTIONS.get(name)
        if parse is None:
            raise ConfigError(f"expected after each ; one of the options {', '.join(_OPTIONS)}")
        if name in found or not text:
            raise ConfigError(f"expected the option {name} once, and with a value")
        try:
            found[name] = parse(text)
        except ConfigError as error:
            raise ConfigError(f"option {name}: {error}") from None
    return found
