"""Where an upstream may lead p2pd to: the policy by itself, and what comes of it on real sockets."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import OriginUnreachableError
from peer.origin.address_policy import AddressPolicy, Lead, Reach, reach_of
from peer.origin.upstream import Target
from tests.peer.origin_fixtures import NOBODY, OURS, origin_at
from tests.support.registry_server import Answering, RegistryServer

PUBLIC, PRIVATE, HERE, THERE = "1.1.1.1", "10.1.2.3", "127.0.0.1", "127.0.0.7"
LINK_LOCAL = "169.254.169.254"
TARGET = Target("https", "elsewhere.example", 443)
HOME = Target("https", "registry.example", 443)


@pytest.mark.parametrize(
    ("reach", "addresses"),
    [
        (Reach.PUBLIC, ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::1.1.1.1"]),
        (Reach.PRIVATE, ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"]),
        (Reach.PRIVATE, ["fc00::1", "fdff::1", "198.18.0.1", "240.0.0.1"]),
        (Reach.PRIVATE, ["::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::"]),
        (Reach.LOOPBACK, ["127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1", "2002:7f00:1::"]),
        (Reach.SPECIAL, ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::169.254.169.254"]),
        (Reach.SPECIAL, ["fe80::1", "fe80::1%eth0"]),
        (Reach.SPECIAL, ["fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"]),
        (Reach.SPECIAL, ["0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "255.255.255.255", "ff02::1"]),
        (Reach.SPECIAL, ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"]),
        (Reach.SPECIAL, ["fec0::1", "::7f00:1"]),
        (Reach.SPECIAL, ["2001:0:1::1"]),
    ],
)  # fmt: skip
def test_who_can_reach_an_address(reach: Reach, addresses: list[str]) -> None:
    assert {text: reach_of(ipaddress.ip_address(text)) for text in addresses} == dict.fromkeys(addresses, reach)


@given(st.ip_addresses())
def test_no_public_address_is_what_the_standard_library_takes_for_private(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if reach_of(address) is Reach.PUBLIC and not (address.version == 6 and int(address) >> 96 == 0x64FF9B):
        assert address.is_global or getattr(address, "sixtofour", None)


def allows(address: str, lead: str | None, *, listed: tuple[str, ...] = (), public_only: bool = False) -> bool:
    policy = AddressPolicy.of([HOME], listed, public_only=public_only)
    return policy.allows(TARGET, ipaddress.ip_address(address), Lead(ipaddress.ip_address(lead) if lead else None))


@pytest.mark.parametrize(
    ("lead", "right", "wrong"),
    [
        (PUBLIC, [PUBLIC], [PRIVATE, HERE, LINK_LOCAL, "fd00::1", "::1"]),
        (None, [PUBLIC], [PRIVATE, HERE, LINK_LOCAL]),  # behind a proxy
        (PRIVATE, [PUBLIC, PRIVATE, "192.168.0.1", "fd00::1"], [HERE, "::1", LINK_LOCAL, "100.100.100.200"]),
        (HERE, [PUBLIC, PRIVATE, HERE, "::1", "::ffff:127.0.0.1"], [THERE, LINK_LOCAL, "0.0.0.0"]),
        ("::1", [HERE], [THERE]),
        (LINK_LOCAL, [PUBLIC], [PRIVATE, HERE, LINK_LOCAL]),
    ],
)
def test_nobody_leads_further_inside_than_where_they_are(lead: str | None, right: list[str], wrong: list[str]) -> None:
    assert [address for address in right + wrong if allows(address, lead)] == right


def test_the_redirect_from_furthest_outside_counts() -> None:
    here, private, public = (Lead(ipaddress.ip_address(text)) for text in (HERE, PRIVATE, PUBLIC))
    assert here.joined(private.address) == private
    assert private.joined(here.address) == private
    assert private.joined(public.address) == public
    assert public.joined(here.address) == public
    assert private.joined(None) == Lead(None)


@pytest.mark.parametrize("listed", ["elsewhere.example", "*.example", "10.0.0.0/8", "10.1.2.3"])
def test_what_is_listed_is_right(listed: str) -> None:
    assert allows(PRIVATE, PUBLIC, listed=(listed,))
    assert allows("::ffff:10.1.2.3", PUBLIC, listed=(listed,))
    assert not allows("192.168.0.1", PUBLIC, listed=("10.0.0.0/8", "other.example", "*.elsewhere.example"))


def test_the_upstreams_own_address_is_the_operators_choice_unless_a_client_chose_the_upstream() -> None:
    for address in map(ipaddress.ip_address, (PUBLIC, PRIVATE, HERE, LINK_LOCAL)):
        configured = AddressPolicy.of([HOME], (), public_only=False)
        chosen = AddressPolicy.of([HOME], (), public_only=True)
        listed = AddressPolicy.of([HOME], ("registry.example",), public_only=True)
        assert configured.allows(HOME, address, None)
        assert configured.allows(HOME, address, Lead(ipaddress.ip_address(PUBLIC)))  # back home
        assert chosen.allows(HOME, address, None) == (reach_of(address) is Reach.PUBLIC)
        assert listed.allows(HOME, address, None)


# On sockets. The registry is at 127.0.0.1, and what is inside at another address of loopback.


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture
def inside() -> Iterator[RegistryServer]:
    with RegistryServer(host=THERE) as server:
        server.rule = lambda _: Answering(200, b'{"token": "inside"}')
        yield server


def test_a_redirect_inside_is_refused_before_anything_is_sent(registry: RegistryServer, inside: RegistryServer) -> None:
    registry.rule = lambda _: Answering(307, headers={"Location": f"http://{THERE}:{inside.port}/secret"})
    with (
        origin_at(registry) as origin,
        pytest.raises(OriginUnreachableError, match=rf"loopback address.*name {THERE} in allow_private") as caught,
    ):
        origin.request("GET", "app/tags/list", credential=NOBODY)
    assert "secret" not in str(caught.value)
    assert inside.connections == 0


def test_a_realm_inside_is_not_asked(registry: RegistryServer, inside: RegistryServer) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{THERE}:{inside.port}/token"'}
    registry.rule = lambda seen: Answering(200 if "authorization" in seen.headers else 401, headers=challenge)
    with origin_at(registry) as origin, pytest.raises(OriginUnreachableError, match="loopback address"):
        origin.request("GET", "app/tags/list", credential=OURS)
    assert inside.connections == 0
    with origin_at(registry, allow_private=(THERE,)) as origin:
        assert origin.request("GET", "app/tags/list", credential=OURS).status == 200
    with origin_at(registry, token_hosts=(THERE,)) as origin:
        assert origin.request("GET", "app/tags/list", credential=OURS).status == 200


def test_a_kept_connection_is_judged_too(registry: RegistryServer, inside: RegistryServer) -> None:
    """Both endpoints lead to the same storage, and only one of them may."""
    with RegistryServer(host=THERE) as storage:
        storage.rule = lambda _: Answering(200)
        to_storage = Answering(307, headers={"Location": storage.url})
        registry.rule = lambda _: to_storage
        inside.rule = lambda _: to_storage
        inside.script(to_storage, Answering(503))
        with origin_at(inside, registry, max_attempts=1) as origin:
            assert origin.request("GET", "", credential=NOBODY).status == 200
            with pytest.raises(OriginUnreachableError, match="another host led there"):
                origin.request("GET", "", credential=NOBODY)
    assert (len(storage.seen), len(registry.seen)) == (1, 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "2130706433"])
def test_an_upstream_that_a_client_chose_has_to_be_public(registry: RegistryServer, host: str) -> None:
    url = f"http://{host}:{registry.port}"
    with (
        origin_at(url, public_only=True, max_attempts=1) as origin,
        pytest.raises(OriginUnreachableError, match="is a loopback address: refused"),
    ):
        origin.request("GET", "", credential=NOBODY)
    assert registry.connections == 0
    with origin_at(url, public_only=True, allow_private=("127.0.0.0/8", "::1")) as origin:
        assert origin.request("GET", "", credential=NOBODY).status != 500


@pytest.mark.parametrize("host", ["10.0.0.1", "0xa.1", "[fd00::1]"])
def test_behind_a_proxy_an_address_is_judged_and_a_name_is_not(registry: RegistryServer, host: str) -> None:
    environ = {"http_proxy": registry.url}
    registry.rule = lambda _: Answering(200)
    with (
        origin_at(f"http://{host}", environ=environ, public_only=True) as origin,
        pytest.raises(OriginUnreachableError, match="is a private address"),
    ):
        origin.request("GET", "", credential=NOBODY)
    assert registry.connections == 0
    with origin_at("http://registry.test", environ=environ, public_only=True) as origin:
        assert origin.request("GET", "", credential=NOBODY).status == 200
