"""The HTTP proxy for a host, by the environment variables that other programs obey.

Rules:
1. The variables are `https_proxy`, `http_proxy` and `no_proxy`, also in upper case. Lower case takes precedence.
2. A proxy's own credentials, from its URL, go to the proxy and are never shown.
3. Loopback is never reached through a proxy.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from peer.origin.upstream import Target

_DEFAULT_PORT = 80


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy's address, and its `Proxy-Authorization`."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """The headers to send to the proxy."""
        return {"Proxy-Authorization": self.authorization} if self.authorization else {}


class Proxies:
    """The proxies of one environment. Raises ValueError for a proxy that cannot be used."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._by_scheme = {
            scheme: _parse(f"{scheme}_proxy", url)
            for scheme in ("http", "https")
            if (url := _variable(environ, f"{scheme}_proxy"))
        }
        self._direct = [entry.strip().lower() for entry in _variable(environ, "no_proxy").split(",") if entry.strip()]

    def leading_to(self, target: Target) -> Proxy | None:
        """The proxy for `target`; None for a direct connection."""
        proxy = self._by_scheme.get(target.scheme)
        if proxy is None or _is_loopback(target.host) or any(_covers(entry, target) for entry in self._direct):
            return None
        return proxy


def _variable(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _parse(name: str, text: str) -> Proxy:
    wrong = f"{name} is not of the form http://[user:password@]host:port (p2pd talks plain HTTP to a proxy)"
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        port = url.port or _DEFAULT_PORT
    except ValueError:
        raise ValueError(wrong) from None
    if url.scheme != "http" or not url.hostname:
        raise ValueError(wrong)
    if url.username is None:
        return Proxy(url.hostname, port)
    pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return Proxy(url.hostname, port, "Basic " + base64.b64encode(pair.encode()).decode())


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _covers(entry: str, target: Target) -> bool:
    """Whether a `no_proxy` entry means this target: `*`, a domain and all below it, an address, or a network.

    A port in the entry narrows it to that port.
    """
    if entry == "*":
        return True
    host, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and _address(entry) is None:
        if int(port) != target.port:
            return False
        entry = host.strip("[]")
    address = _address(target.host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    domain = entry.removeprefix("*").lstrip(".")
    return target.host == domain or target.host.endswith(f".{domain}")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
