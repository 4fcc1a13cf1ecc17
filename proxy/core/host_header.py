"""The hosts that a request may name in its Host header: the guard against DNS rebinding.

The owner of `evil.example` can point that name to 127.0.0.1 after a browser has loaded a page from it. The browser then
takes this machine for the page's own origin: the page may send any header and read every answer. The Host header still
has the page's name. So a name is accepted only if it is ours. Every address is accepted: a page cannot bind an address
to another machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

LOCALHOST = "localhost"

NOT_FOR_US = (
    "the Host header names no address and no name of this machine: connect to 127.0.0.1, or to the name that the "
    "configuration says"
)


def is_for_us(headers: Iterable[str], names: frozenset[str]) -> bool:
    """Whether all of a request's Host headers have an IP address, `localhost`, or one of `names` (in lower case).

    A request without a Host header passes: browsers always send one.
    """
    return all(_is_ours(header, names) for header in headers)


def _host(header: str) -> str:
    """The host of `host`, `host:port`, `[IPv6]` or `[IPv6]:port`."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].removesuffix(".")


@lru_cache(maxsize=64)  # the clients of a machine have few ways to name it
def _is_ours(header: str, names: frozenset[str]) -> bool:
    host = _host(header)
    if host == LOCALHOST or host in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
