"""How values are written: what is understood, and that nothing but a value or a ConfigError ever comes out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.config.upstream_setting import UpstreamSetting, parse_upstream, parse_upstreams
from p2pd.config.values import (
    Address,
    ConfigError,
    parse_address,
    parse_collector,
    parse_count,
    parse_depth,
    parse_duration,
    parse_free_room,
    parse_networks,
    parse_path,
    parse_room,
    parse_share,
    parse_size,
    parse_switch,
    show_duration,
    show_room,
    show_size,
)
from peer.core.eviction import DiskShare

NUMBERS = [parse_size, parse_duration, parse_count, parse_depth]
VALUED = [parse_switch, parse_path, parse_address, parse_upstream]

# Text at random says little about a grammar: most of it is made of the grammar's own pieces.
PIECES = st.lists(
    st.sampled_from(
        [*"=/:;,@[].-_%?#07k\u212a\u0660\n\0", "docker.io", "https://", "http://", "oci-layout:///", "[::1]"]
    )
    | st.sampled_from(["127.0.0.1", ":65001", "99999", "GiB", "d", "ca=", "username=", "password_file=", "rate="])
).map("".join)
VALUES = st.one_of(
    st.text(), PIECES, st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.text()), st.binary()
)


@pytest.mark.parametrize("parse", [*NUMBERS, *VALUED])
@given(value=VALUES)
def test_any_value_is_understood_or_refused(parse: Callable[[object], object], value: object) -> None:
    with suppress(ConfigError):
        assert parse(value) is not None


@pytest.mark.parametrize("parse", VALUED)
@given(value=VALUES)
def test_what_was_understood_is_understood_again(parse: Callable[[object], object], value: object) -> None:
    with suppress(ConfigError):
        parsed = parse(value)
        assert parse(parsed) is parsed


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("50GiB", 50 * 2**30),
        ("500MB", 500_000_000),
        ("64k", 64_000),
        ("64Ki", 65_536),
        ("1 TiB", 2**40),
        ("12", 12),
        ("12B", 12),
        (12, 12),
        (0, 0),
    ],
)
def test_sizes(text: object, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "GiB", "1.5GiB", "-1", -1, 1.5, True, "1PiB", "9999999TiB", "5i", "1e3", "50\u212a"]
)
def test_sizes_that_are_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="expected a size such as 50GiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "room"),
    [
        ("20%", DiskShare(20)),
        ("7.5 %", DiskShare(7.5)),
        ("100%", DiskShare(100)),
        ("0%", DiskShare(0)),
        ("1GiB", 2**30),
    ],
)
def test_room(text: str, room: int | DiskShare) -> None:
    assert parse_room(text) == room
    assert parse_free_room(text) == room
    assert parse_free_room(show_room(room)) == room


def test_room_that_is_left_free_by_default() -> None:
    assert parse_free_room("auto") == DiskShare(20, yields=True)
    assert show_room(parse_free_room("auto")) == "auto"


@pytest.mark.parametrize("text", ["", "%", "101%", "-1%", "20%%", "1e1%", "auto", "20 per cent", True, [1]])
def test_room_that_is_refused(text: object) -> None:
    with pytest.raises(ConfigError, match=r"expected a size such as 50GiB.* or a part of the disk such as 20%"):
        parse_room(text)


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [("30d", 2_592_000), ("12h", 43_200), ("5m", 300), ("90s", 90), ("90", 90), (90, 90), (0.5, 0.5), ("1.5h", 5400)],
)
def test_durations(text: object, duration_s: float) -> None:
    assert parse_duration(text) == duration_s


@pytest.mark.parametrize("text", ["", "d", "1y", "-1s", -0.5, float("inf"), float("nan"), True, "1h30m", [1]])
def test_durations_that_are_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="expected a duration such as 30d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", ""),
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://otel.corp/", "https://otel.corp/v1/traces"),
        ("http://[::1]:4318/in/v1/traces", "http://[::1]:4318/in/v1/traces"),
    ],
)
def test_collectors(text: str, url: str) -> None:
    assert parse_collector(text) == url
    assert parse_collector(url) == url


@pytest.mark.parametrize("text", ["otel:4318", "grpc://otel:4317", "http://", "http://u:p@otel/", "http://a b/", 1])
def test_collectors_that_are_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="address of a collector"):
        parse_collector(text)


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), ("0.5 %", 0.005), (1, 1.0), ("0", 0.0), ("0.25", 0.25)])
def test_shares(text: object, share: float) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["", "101%", "2", "-1", "%", "1/2", True])
def test_shares_that_are_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="expected a share from 0 to 1"):
        parse_share(text)


@given(size_bytes=st.integers(0, 2**63 - 1))
def test_any_size_is_shown_shortly(size_bytes: int) -> None:
    assert len(show_size(size_bytes)) <= 12


def test_shown_sizes_and_durations() -> None:
    assert [show_size(size) for size in (0, 1023, 1536, 5 * 2**30)] == ["0B", "1023B", "1.5KiB", "5.0GiB"]
    assert [show_duration(s) for s in (0.4, 59, 61, 7200, 864_000)] == ["0s", "59s", "1m", "2h", "10d"]


def test_counts_and_depths() -> None:
    assert (parse_count("16"), parse_count(16), parse_depth("0"), parse_depth(3)) == (16, 16, 0, 3)
    for refused in (0, -1, 10_000, "1.0", 1.0, True, ""):
        with pytest.raises(ConfigError, match="from 1 to 9999"):
            parse_count(refused)
    for refused in (-1, 100, "1.0", True, ""):
        with pytest.raises(ConfigError, match="from 0 to 99"):
            parse_depth(refused)


@pytest.mark.parametrize(
    ("text", "host", "port", "is_loopback"),
    [
        ("127.0.0.1:65001", "127.0.0.1", 65001, True),
        ("127.9.9.9:0", "127.9.9.9", 0, True),
        ("[::1]:80", "::1", 80, True),
        ("localhost:1", "localhost", 1, True),
        ("0.0.0.0:1", "0.0.0.0", 1, False),
        ("[::]:1", "::", 1, False),
        ("localhost.example:1", "localhost.example", 1, False),
    ],
)
def test_addresses(text: str, host: str, port: int, is_loopback: bool) -> None:
    address = parse_address(text)
    assert address == Address(host, port)
    assert address.is_loopback is is_loopback
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "65001", ":65001", "h:", "h:65536", "::1:80", "[::1]", "[h]:1", "a b:1", "[::1:80", 1]
)
def test_addresses_that_are_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="expected an address such as"):
        parse_address(text)


def test_an_upstream_with_all_its_options() -> None:
    upstream = parse_upstream(
        "Reg.Example:5000=https://a/,http://b:81/v;ca=/etc/ca.pem;username=u;password_file=/f;connections=8;rate=50MB"
    )
    assert upstream == UpstreamSetting(
        name="reg.example:5000",
        urls=("https://a", "http://b:81/v"),
        ca=Path("/etc/ca.pem"),
        username="u",
        password_file=Path("/f"),
        connections=8,
        rate=50_000_000,
    )


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("GHCR.io=HTTPS://GHCR.io/", "ghcr.io", "https://ghcr.io"),
        ("ghcr.io.:443=https://ghcr.io", "ghcr.io", "https://ghcr.io"),
        ("index.docker.io=https://cache.corp", "docker.io", "https://cache.corp"),
        ("GHCR.io", "ghcr.io", "https://ghcr.io"),
        ("docker.io", "docker.io", "https://registry-1.docker.io"),
        ("localhost:5000", "localhost:5000", "https://localhost:5000"),
        ("https://ghcr.io/", "ghcr.io", "https://ghcr.io"),
        ("http://Harbor.corp:5001/v2/hub", "harbor.corp:5001", "http://harbor.corp:5001/v2/hub"),
    ],
)
def test_an_upstream_as_people_write_it(text: str, name: str, url: str) -> None:
    upstream = parse_upstream(text)
    assert (upstream.name, upstream.urls) == (name, (url,))
    assert parse_upstream(f"{text};connections=3").connections == 3


def test_the_upstream_for_everything() -> None:
    everything = parse_upstream("*")
    assert everything.is_any_host
    assert everything.urls == ()
    assert parse_upstream("*;rate=1MB;connections=3").rate == 1_000_000
    hub, last = parse_upstreams(["*"])
    assert (hub.name, last) == ("docker.io", everything)
    assert [upstream.name for upstream in parse_upstreams("* ghcr.io=https://ghcr.io")] == ["ghcr.io", "*"]
    with pytest.raises(ConfigError, match="given twice"):
        parse_upstreams(["*", "*"])


def test_hosts_and_networks() -> None:
    found = parse_networks("Registry.corp. *.Corp 10.0.0.0/8 10.1.2.3 [fd00::1] fd00::/8")
    assert found == ("registry.corp", "*.corp", "10.0.0.0/8", "10.1.2.3", "fd00::1", "fd00::/8")
    assert parse_networks(list(found)) == found
    assert parse_networks("") == ()


@pytest.mark.parametrize(
    "value", ["10.0.0.1/8", "10.0.0.0/33", "*", "a.*", "*.10.0.0.0/8", "https://a", "a:5000", "a/b", [3], 3, None]
)
def test_what_is_no_host_and_no_network(value: object) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse_networks(value)


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("https://registry.example/", "https://registry.example"),
        ("https://registry.example/v2/", "https://registry.example"),
        ("https://registry.example/v2", "https://registry.example"),
        ("https://registry.example:443//", "https://registry.example"),
        ("http://registry.example:80/some/prefix/v2/", "http://registry.example/some/prefix"),
        ("HTTPS://Registry.EXAMPLE", "https://registry.example"),
        ("https://registry.example.", "https://registry.example"),
        ("https://[2001:DB8::1]:5000/", "https://[2001:db8::1]:5000"),
        ("https://b\u00fccher.example/v2/", "https://xn--bcher-kva.example"),
    ],
)
def test_loose_addresses_of_one_meaning(written: str, url: str) -> None:
    assert parse_upstream(f"a= {written} ").urls == (url,)
    assert parse_upstream(f"a=https://b, {written}").urls == ("https://b", url)


def test_an_upstream_that_is_a_directory() -> None:
    assert parse_upstream("docker.io=oci-layout:///srv/images").urls == ("oci-layout:///srv/images",)


def test_what_belongs_to_credentials_is_not_shown() -> None:
    shown = repr(parse_upstream("a=https://a;username=someone;password_file=/run/pw"))
    assert "someone" not in shown
    assert "/run/pw" not in shown


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("docker", "expected NAME=URL"),
        ("", "expected NAME=URL"),
        ("a_b.example", "expected an upstream's name"),
        ("http://u:p@a", "credentials do not belong into a URL"),
        ("https://[::1]:5000", "expected an upstream's name"),
        ("*=https://a", "it has no URL"),
        ("*;username=u;password_file=/f", "credentials need an upstream of their own"),
        ("*;token_hosts=a", "credentials need an upstream of their own"),
        ("*;trace=true", "told of traces needs an upstream of its own"),
        ("[::1]:5000=https://a", "expected an upstream's name"),
        ("=https://a", "expected an upstream's name"),
        ("a/b=https://a", "expected an upstream's name"),
        ("a=", "expected a URL after the ="),
        ("a=https://a,", "expected a URL after the ="),
        ("a=ftp://a", "expected a URL that starts with"),
        ("a=https://a b", "without spaces"),
        ("a=https://\u2024", "expected a URL that starts with"),
        ("a=https://", "expected a URL that starts with"),
        ("a=https://a:99999", "a host or a port that cannot be"),
        ("a=https://[a", "a host or a port that cannot be"),
        ("a=https://u:p@a", "credentials do not belong into a URL"),
        ("a=https://a?x=1", "without spaces"),
        ("a=oci-layout://host/x", "expected a URL that starts with"),
        ("a=oci-layout:///x,https://a", "stands alone"),
        ("a=oci-layout:///x;rate=1", "stands alone"),
        ("a=https://a;password=x", "one of the options ca, username"),
        ("a=https://a;", "one of the options ca, username"),
        ("a=https://a;ca=", "the option ca once, and with a value"),
        ("a=https://a;ca=/x;ca=/y", "the option ca once, and with a value"),
        ("a=https://a;connections=0", "option connections: expected a whole number"),
        ("a=https://a;username=u", "given together"),
    ],
)
def test_upstreams_that_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_upstream(text)
