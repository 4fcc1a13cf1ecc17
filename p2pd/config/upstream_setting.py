"""The notation of upstreams in the configuration: `docker.io=https://registry-1.docker.io;ca=/etc/ca.pem`.

The rules of `p2pd.config.values` hold here too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from p2pd.config.values import (
    ConfigError,
    is_host_name,
    parse_count,
    parse_path,
    parse_size,
    parse_switch,
    text_of,
)
from peer.errors import InvalidNameError
from peer.oci.reference import DOCKER_HUB, is_host, parse_upstream_name
from peer.origin.upstream import UpstreamEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ANY_HOST: Final = "*"
"""The name of the upstream that stands for every registry that has no upstream of its own."""

_HUB_URL: Final = "https://registry-1.docker.io"


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


def parse_upstream(value: object) -> UpstreamSetting:
    """`NAME=URL[,URL...][;option=value...]`, with the options of `UpstreamSetting`; a name or a URL alone; or `*`."""
    if isinstance(value, UpstreamSetting):
        return value
    head, *options = text_of(value).split(";")
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
    if endpoint is None or not is_host_name(f"[{host}]" if ":" in host else host) or port == 0:
        raise ConfigError("expected a URL that starts with https://HOST, http://HOST or oci-layout:///PATH")
    return str(endpoint)


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(text.split(","))
    if not all(is_host_name(host) for host in hosts):
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
