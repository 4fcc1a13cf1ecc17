"""The mirror's own address for each upstream: 127.64.0.0/10, of which every address is this machine's.

A client that names the upstream in a path (podman, CRI-O, dockerd by path) first asks for `/v2/`, without any path. The
answer says where its password goes. At an upstream's own address it is that upstream's challenge, and at the mirror's
usual address the first upstream's.

An address is made from the upstream's name alone, so that `p2pd configure` and every daemon agree.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence

from p2pd.config.values import Address


def own_addresses(mirror: Address, upstreams: Sequence[str]) -> dict[str, Address]:
    """The own address of each upstream, by name; none if there is one upstream, or other machines reach the mirror.

    Of two upstreams that would have the same address, the second has none.
    """
    try:
        host = ipaddress.ip_address(mirror.host)
    except ValueError:
        return {}
    if host.version != 4 or not host.is_loopback or len(upstreams) < 2:
        return {}
    by_host: dict[str, str] = {}
    for name in upstreams:
        by_host.setdefault(_host_of(name), name)
    return {name: Address(host_text, mirror.port) for host_text, name in by_host.items()}


def _host_of(upstream: str) -> str:
    one, two, three = hashlib.blake2b(upstream.encode(), digest_size=3).digest()
    return f"127.{64 + one % 64}.{two}.{1 + three % 254}"
