"""TLS to origins: verified, with the system's authorities and the operator's own, also through a proxy's tunnel."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from peer.errors import OriginBrokenError, OriginUnreachableError
from peer.origin.api import Credential
from peer.origin.trust import _new_context
from tests.peer.origin_fixtures import CONTENT, NOBODY, OURS, REF, StillClock, origin_at, read_all
from tests.support.authority import KEY, Authority, make_authority, openssl
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


@dataclass(frozen=True)
class Chain:
    """A registry whose certificate an intermediate authority issued, and the certificates of the chain."""

    server: ssl.SSLContext
    directory: Path

    def pem(self, name: str) -> bytes:
        return (self.directory / f"{name}.pem").read_bytes()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    directory = tmp_path_factory.mktemp("chain")
    openssl(
        directory, "req", "-x509", *KEY, "-keyout", "root.key", "-out", "root.pem", "-subj", "/CN=root", "-days", "2"
    )
    (directory / "issuing.ext").write_text("basicConstraints=critical,CA:TRUE")
    (directory / "leaf.ext").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE")
    for name, issuer in (("issuing", "root"), ("leaf", "issuing")):
        openssl(directory, "req", *KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ("-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key", "-CAcreateserial", "-days", "2")
        files = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", f"{name}.ext")
        openssl(directory, "x509", "-req", *files, *signing)
    (directory / "chain.pem").write_bytes(
        b"".join((directory / f"{name}.pem").read_bytes() for name in ("leaf", "issuing"))
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "chain.pem", directory / "leaf.key")
    return Chain(context, directory)


class TestAuthorities:
    """What may stand in the file or directory that `ca` names."""

    @pytest.mark.parametrize("trusted", ["root", "issuing", "leaf"])
    def test_any_certificate_of_the_chain_does(self, chain: Chain, trusted: str) -> None:
        with RegistryServer(tls=chain.server) as server:
            server.rule = lambda _: HELLO
            with origin_at(server, ca_file=chain.directory / f"{trusted}.pem") as origin:
                assert origin.request("GET", "", credential=NOBODY).body == b"hello"

    def test_another_certificate_does_not(self, chain: Chain, authority: Authority) -> None:
        with (
            RegistryServer(tls=chain.server) as server,
            origin_at(server, ca_file=authority.ca_file) as origin,
            pytest.raises(OriginUnreachableError, match="does not verify"),
        ):
            origin.request("GET", "", credential=NOBODY)

    def test_a_file_may_have_several_and_text_between_them(
        self, chain: Chain, authority: Authority, tmp_path: Path
    ) -> None:
        broken = b"-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n"
        texts = b"# ours\n", authority.ca_file.read_bytes(), b"subject: x\n", broken, b"\xff", chain.pem("issuing")
        ca_file = tmp_path / "ca.crt"
        ca_file.write_bytes(b"".join(texts).replace(b"\n", b"\r\n"))
        with RegistryServer(tls=chain.server) as server:
            server.rule = lambda _: HELLO
            with origin_at(server, ca_file=ca_file) as origin:
                assert origin.request("GET", "", credential=NOBODY).body == b"hello"

    def test_a_directory_means_its_certificates(self, chain: Chain, tmp_path: Path) -> None:
        (tmp_path / "ca.crt").write_bytes(chain.pem("root"))
        (tmp_path / "client.key").write_text("not for us")
        (tmp_path / "more").mkdir()
        with RegistryServer(tls=chain.server) as server:
            server.rule = lambda _: HELLO
            with origin_at(server, ca_file=tmp_path) as origin:
                assert origin.request("GET", "", credential=NOBODY).body == b"hello"

    def test_a_file_that_has_changed_is_read_again(self, chain: Chain, authority: Authority, tmp_path: Path) -> None:
        ca_file, clock = tmp_path / "ca.crt", StillClock()
        ca_file.write_bytes(authority.ca_file.read_bytes())
        with RegistryServer(tls=chain.server) as server:
            server.rule = lambda _: HELLO
            with origin_at(server, ca_file=ca_file, clock=clock) as origin:
                with pytest.raises(OriginUnreachableError, match="does not verify"):
                    origin.request("GET", "", credential=NOBODY)
                ca_file.write_bytes(chain.pem("root"))
                clock.pass_s(1.0)
                assert origin.request("GET", "", credential=NOBODY).body == b"hello"

    def test_an_authority_without_identifiers_does(self, tmp_path: Path) -> None:
        """Go and curl do not miss them. Python's own contexts do from 3.13 on."""
        bare = ("-addext", "subjectKeyIdentifier=none", "-addext", "authorityKeyIdentifier=none")
        names = ("-addext", "subjectAltName=IP:127.0.0.1")
        files = ("-keyout", "key", "-out", "pem", "-subj", "/CN=x", "-days", "2")
        openssl(tmp_path, "req", "-x509", *KEY, *files, *bare, *names)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "pem", tmp_path / "key")
        with RegistryServer(tls=context) as server:
            server.rule = lambda _: HELLO
            with origin_at(server, ca_file=tmp_path / "pem") as origin:
                assert origin.request("GET", "", credential=NOBODY).body == b"hello"
        assert not _new_context().verify_flags & ssl.VERIFY_X509_STRICT


def test_a_dot_that_ends_the_name_is_not_part_of_the_certificates(authority: Authority) -> None:
    with RegistryServer(tunnel_tls=authority.server) as proxy:
        proxy.rule = lambda _: HELLO
        environ = {"HTTPS_PROXY": proxy.url}
        with origin_at("https://Registry.TEST.:443/v2/", environ=environ, ca_file=authority.ca_file) as origin:
            assert origin.request("GET", "", credential=NOBODY).body == b"hello"
        assert (proxy.seen[1].target, proxy.seen[1].headers["host"]) == ("/v2/", "registry.test")


def test_a_redirect_to_http_is_followed_for_what_a_digest_proves(server: RegistryServer, authority: Authority) -> None:
    with RegistryServer() as plain:
        server.script(Answering(307, headers={"Location": f"{plain.url}/data"}))
        plain.blobs["/data"] = CONTENT
        with origin_at(server, ca_file=authority.ca_file) as origin:
            assert read_all(origin, credential=Credential("Bearer secret")) == CONTENT
        assert "authorization" not in plain.seen[0].headers


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
