"""TLS to origins: verified, with the system's authorities and the operator's own, also through a proxy's tunnel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.errors import OriginBrokenError, OriginUnreachableError
from tests.peer.origin_fixtures import CONTENT, NOBODY, OURS, REF, origin_at, read_all
from tests.support.authority import Authority, make_authority
from tests.support.registry_server import Answering, RegistryServer, demand_bearer

HELLO = Answering(200, b"hello")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def server(authority: Authority) -> Iterator[RegistryServer]:
    with RegistryServer(tls=authority.server) as server:
        server.add_blob(REF.repository, REF.digest, CONTENT)
        yield server


def test_a_ca_of_ones_own_verifies(server: RegistryServer, authority: Authority) -> None:
    with origin_at(server, ca_file=authority.ca_file) as origin:
        assert read_all(origin) == CONTENT
        assert read_all(origin, 1000, 2000) == CONTENT[1000:2000]
    assert server.connections == 1


@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_body_that_is_cut_is_resumed(server: RegistryServer, authority: Authority, then: str) -> None:
    server.script(Answering(200, CONTENT, sent_bytes=100_000, then=then))
    with origin_at(server, ca_file=authority.ca_file) as origin:
        assert read_all(origin) == CONTENT
    assert len(server.seen) == 2


def test_abort_gives_no_ciphertext(server: RegistryServer, authority: Authority) -> None:
    with (
        origin_at(server, ca_file=authority.ca_file) as origin,
        origin.open(REF, 0, None, credential=NOBODY) as body,
    ):
        view = memoryview(bytearray(1000))
        assert body.readinto(view) == 1000
        body.abort()
        with pytest.raises(OriginBrokenError):
            body.readinto(view)
        assert view == CONTENT[:1000]


def test_a_certificate_of_an_unknown_authority_is_refused_once_and_for_all(server: RegistryServer) -> None:
    with origin_at(server) as origin, pytest.raises(OriginUnreachableError, match=r"does not verify.*ca=FILE"):
        origin.request("GET", "", credential=NOBODY)
    assert server.seen == []


def test_a_certificate_for_another_name_is_refused(server: RegistryServer, authority: Authority) -> None:
    url = f"https://localhost:{server.port}"
    with (
        origin_at(url, ca_file=authority.ca_file) as origin,
        pytest.raises(OriginUnreachableError, match=r"does not verify.*not valid for 'localhost'"),
    ):
        origin.request("GET", "", credential=NOBODY)


def test_plain_text_where_tls_should_be_is_unreachable(authority: Authority) -> None:
    with RegistryServer(tls=authority.server) as server:
        url = server.url.replace("https", "http")
        with origin_at(url, max_attempts=1) as origin, pytest.raises(OriginUnreachableError):
            origin.request("GET", "", credential=NOBODY)


def test_the_next_endpoint_may_verify(server: RegistryServer, authority: Authority) -> None:
    server.rule = lambda _: HELLO
    with origin_at(f"https://localhost:{server.port}", server, ca_file=authority.ca_file) as origin:
        assert origin.request("GET", "", credential=NOBODY).body == b"hello"


def test_a_redirect_from_https_to_http_is_refused(server: RegistryServer, authority: Authority) -> None:
    with RegistryServer() as plain:
        server.script(Answering(307, headers={"Location": f"{plain.url}/secret"}))
        with (
            origin_at(server, ca_file=authority.ca_file) as origin,
            pytest.raises(OriginUnreachableError, match=r"plain http at 127\.0\.0\.1: refused") as caught,
        ):
            origin.request("GET", "", credential=NOBODY)
        assert "secret" not in str(caught.value)
        assert plain.seen == []


def test_a_redirect_from_http_to_https_is_followed(server: RegistryServer, authority: Authority) -> None:
    with RegistryServer() as plain:
        plain.script(Answering(307, headers={"Location": f"{server.url}/v2/"}))
        server.rule = lambda _: HELLO
        with origin_at(plain, ca_file=authority.ca_file) as origin:
            assert origin.request("GET", "", credential=NOBODY).body == b"hello"


@pytest.mark.parametrize(("username", "password"), [(None, None), ("user", "pw")])
def test_a_token_is_never_asked_for_over_http_on_behalf_of_https(
    server: RegistryServer, authority: Authority, username: str | None, password: str | None
) -> None:
    with RegistryServer() as plain:
        server.rule = demand_bearer(f"{plain.url}/token", set())
        with (
            origin_at(server, ca_file=authority.ca_file, username=username, password=password) as origin,
            pytest.raises(OriginUnreachableError, match="over plain http"),
        ):
            origin.request("GET", "", credential=OURS)
        assert plain.seen == []


def test_a_proxys_tunnel_ends_at_the_registry(authority: Authority) -> None:
    with RegistryServer(tunnel_tls=authority.server) as proxy:
        proxy.rule = lambda _: HELLO
        environ = {"HTTPS_PROXY": f"http://me:pass@127.0.0.1:{proxy.port}"}
        with origin_at("https://registry.test", environ=environ, ca_file=authority.ca_file) as origin:
            for _ in range(2):
                assert origin.request("GET", "", credential=NOBODY).body == b"hello"
        tunnel, *inside = proxy.seen
        assert (tunnel.method, tunnel.target) == ("CONNECT", "registry.test:443")
        assert tunnel.headers["proxy-authorization"] == "Basic bWU6cGFzcw=="
        assert [seen.target for seen in inside] == ["/v2/", "/v2/"]
        for seen in inside:
            assert seen.headers["host"] == "registry.test"
            assert "proxy-authorization" not in seen.headers


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_cannot_be_read_is_an_error_at_once(tmp_path: Path, content: str | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)
    with (
        pytest.raises(ValueError, match=r"upstream reg\.test: no CA could be read from"),
        origin_at("https://registry.test", ca_file=ca_file),
    ):
        pass
