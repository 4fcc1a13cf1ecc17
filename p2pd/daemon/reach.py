"""From where an address can be reached, as far as the address itself tells."""

from __future__ import annotations

import ipaddress
from enum import Enum, auto


class Reach(Enum):
    """The machines that can connect to an address."""

    NOWHERE = auto()
    """It is none to connect to: unspecified, or multicast."""
    THIS_MACHINE = auto()
    """Loopback."""
    THIS_LINK = auto()
    """Link-local: 169.254.0.0/16 or fe80::/10."""
    NETWORK = auto()
    """Any other address, and every name but `localhost`."""


def is_ip(host: str) -> bool:
    """Whether a host is given by its address, and not by a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def reach_of(host: str) -> Reach:
    """The reach of an IP address or a host name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.lower().rstrip(".")
        is_local = name == "localhost" or name.endswith(".localhost")  # RFC 6761, section 6.3
        return Reach.THIS_MACHINE if is_local else Reach.NETWORK
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_unspecified or address.is_multicast:
        return Reach.NOWHERE
    if address.is_loopback:
        return Reach.THIS_MACHINE
    return Reach.THIS_LINK if address.is_link_local else Reach.NETWORK
