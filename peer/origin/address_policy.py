"""Which addresses an upstream may lead p2pd to: by its own name, by a redirect, or by the realm of a challenge.

p2pd stands inside: it reaches this machine, the private network, and the metadata service of a cloud. An upstream that
could choose where p2pd connects would read these through it. So the address is judged, not the name: names can mean
another address a moment later. The caller asks once for each address that it is about to connect to.

Rules:
1. The upstream's own addresses are the operator's choice. An upstream that a client chose (`*`) has to be public.
2. Elsewhere, a public address is always right. Beyond that, nobody leads further inside than where they are:

   | who leads there | private | loopback         | any other (link-local, metadata, multicast, …) |
   |-----------------|---------|------------------|------------------------------------------------|
   | public          | no      | no               | no                                             |
   | private         | yes     | no               | no                                             |
   | loopback        | yes     | the same address | no                                             |

   Of several redirects, the one that came from furthest outside counts. An address that is not known, since a proxy
   connected to it, is taken for public.
3. The operator lists hosts, addresses and networks that are right nevertheless.
4. An address within an IPv6 address (mapped, NAT64, 6to4) is what is judged.

The ranges are those of the IANA special-purpose address registries (RFC 6890).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from peer.origin.upstream import Target

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Reach(Enum):
    """Who can reach an address."""

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    SPECIAL = "special-purpose"


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


_METADATA = _networks(
    "169.254.0.0/16",  # AWS, Azure, Google, and link-local
    "100.100.100.200/32",  # Alibaba
    "168.63.129.16/32",  # Azure's host
    "192.0.0.192/32",  # Oracle
    "fd00:ec2::254/128",  # AWS
    "fd20:ce::254/128",  # Google
)
"""Services of a cloud for this machine alone. Some are in private or public ranges."""

_LOOPBACK = _networks("127.0.0.0/8", "::1/128")
_PRIVATE = _networks(
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "198.18.0.0/15",  # for benchmarks; proxies with "fake addresses" give every name one of these
    "240.0.0.0/4",  # reserved; Google's networks have hosts there, and Istio's proxies names
    "fc00::/7",
)
_SPECIAL = _networks(
    "0.0.0.0/8",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",  # multicast
    "255.255.255.255/32",
    "2001::/23",
    "2001:db8::/32",
    "3fff::/20",
)
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


def reach_of(address: Address) -> Reach:
    """Who can reach `address`."""
    address = _unwrapped(address)
    if _is_in(address, _METADATA):
        return Reach.SPECIAL
    if _is_in(address, _LOOPBACK):
        return Reach.LOOPBACK
    if _is_in(address, _SPECIAL):
        return Reach.SPECIAL
    if _is_in(address, _PRIVATE):
        return Reach.PRIVATE
    return Reach.PUBLIC if address.version == 4 or address in _GLOBAL_IPV6 else Reach.SPECIAL


class Lead(Struct, frozen=True):
    """Whoever named a target: the address that the answer came from; None if it is not known."""

    address: Address | None

    def joined(self, address: Address | None) -> Lead:
        """The lead after a further redirect, from `address`: of the two, the one from further outside."""
        return self if _outside(self.address) >= _outside(address) else Lead(address)


class AddressPolicy(Struct, frozen=True):
    """The policy of one upstream. `homes` are its own targets, `hosts` and `networks` what the operator lists."""

    homes: frozenset[Target]
    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    public_only: bool = False
    """Whether the upstream itself has to be public: a client chose it."""

    @classmethod
    def of(cls, homes: Iterable[Target], listed: Iterable[str], *, public_only: bool) -> AddressPolicy:
        """`listed` are hosts, addresses and networks; `*.corp` is every host below `corp`."""
        hosts, networks = set(), []
        for text in listed:
            try:
                networks.append(ipaddress.ip_network(text))
            except ValueError:
                hosts.add(text)
        return cls(frozenset(homes), frozenset(hosts), tuple(networks), public_only)

    def allows(self, target: Target, address: Address, lead: Lead | None) -> bool:
        """Whether `target` may be connected to at `address`. `lead` is None for the upstream's own targets."""
        if (lead is None or target in self.homes) and not self.public_only:
            return True
        if self._lists(target.host.removesuffix(".")) or _is_in(_unwrapped(address), self.networks):
            return True
        reach = reach_of(address)
        if reach is Reach.PUBLIC:
            return True
        if lead is None or lead.address is None:
            return False
        if reach is Reach.PRIVATE:
            return reach_of(lead.address) in (Reach.PRIVATE, Reach.LOOPBACK)
        return reach is Reach.LOOPBACK and _is_same_loopback(address, lead.address)

    def _lists(self, host: str) -> bool:
        labels = host.split(".")
        return host in self.hosts or any(f"*.{'.'.join(labels[at:])}" in self.hosts for at in range(1, len(labels)))


def refusal(target: Target, address: Address, lead: Lead | None) -> str:
    """Why `AddressPolicy.allows` said no, and what to do if that is wrong."""
    led = "" if lead is None else "another host led there; "
    return (
        f"{target} is at {address}, which is a {reach_of(address).value} address: {led}refused; if it is right, name"
        f" {target.host} in allow_private"
    )


def literal(host: str) -> Address | None:
    """The address that `host` is; None for a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _outside(address: Address | None) -> int:
    return 2 if address is None else {Reach.PUBLIC: 2, Reach.PRIVATE: 1}.get(reach_of(address), 0)


def _is_same_loopback(one: Address, other: Address) -> bool:
    """Both loopback, and the same address. `localhost` is two addresses, which count as one."""
    localhost = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
    one, other = _unwrapped(one), _unwrapped(other)
    return one == other or (one in localhost and other in localhost)


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _unwrapped(address: Address) -> Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
