"""Which hosts a request may be meant for: the guard against DNS rebinding.

A web page of `evil.example` may have its name point to 127.0.0.1 a moment later. To the browser what is there is then
of the page's own origin, which may read it, and send any header. What gives it away is the Host header, which still
has the page's name. So of names only ours are taken; addresses are, for no page can bind one to another machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable

LOCALHOST = "localhost"

NOT_FOR_US = (
    "the Host header names no address and no name of this machine: connect to 127.0.0.1, or to the name that the "
    "configuration says"
)


def is_for_us(headers: Iterable[str], names: Collection[str]) -> bool:
    """Whether all of a request's Host headers have an IP address, `localhost`, or one of `names` (in lower case).

    A request without any is from no browser, and passes.
    """
    return all(_is_ours(_host(header), names) for header in headers)


def _host(header: str) -> str:
    """The host of `host`, `host:port`, `[IPv6]` or `[IPv6]:port`."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].removesuffix(".")


def _is_ours(host: str, names: Collection[str]) -> bool:
    if host == LOCALHOST or host in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
