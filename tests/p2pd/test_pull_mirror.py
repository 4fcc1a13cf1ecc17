"""The mirror as the origin of a pull: what it is asked, and which registry its challenges come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from p2pd.config.values import Address
from p2pd.pull.docker_config import Login
from p2pd.pull.mirror import PullError, mirror_of, refusal
from peer.errors import OriginUnreachableError
from peer.oci.reference import parse_upstream_name
from peer.origin.api import Answer, Credential
from tests.peer.origin_fixtures import StillClock
from tests.support.registry_server import Answering, RegistryServer, demand_bearer

OURS = Credential(own=True)
USER = Login("user", "pw")


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


def ask(
    server: RegistryServer, upstream: str, path: str = "app/manifests/1", *, login: Login | None = USER
) -> tuple[Answer, StillClock]:
    clock, name = StillClock(), parse_upstream_name(upstream)
    mirror = mirror_of(name, Address("127.0.0.1", server.port), login=login, max_connections=2, clock=clock)
    with closing(mirror):
        return mirror.request("GET", path, credential=OURS), clock


def test_it_is_told_whose_content_is_wanted(server: RegistryServer) -> None:
    server.rule = lambda _: Answering(200)
    ask(server, "127.0.0.1:5000")
    ask(server, "docker.io", "app/tags/list?n=1")
    assert [seen.target for seen in server.seen] == [
        "/v2/app/manifests/1?ns=127.0.0.1%3A5000",
        "/v2/app/tags/list?n=1&ns=docker.io",
    ]
    assert {seen.headers["user-agent"] for seen in server.seen} == {"p2pd-pull"}


@pytest.mark.parametrize(
    ("upstream", "realm", "said"),
    [
        ("registry.example.com", "http://auth.example.com/token", "https://registry.example.com asks .* plain http"),
        ("registry.example.com", "https://127.0.0.1/token", r"name 127\.0\.0\.1 in token_hosts"),
        ("127.0.0.1:5000", "http://10.0.0.1/token", r"name 10\.0\.0\.1 in token_hosts"),
    ],
)
def test_a_challenge_is_judged_as_the_registrys(server: RegistryServer, upstream: str, realm: str, said: str) -> None:
    server.rule = demand_bearer(realm, set())
    with pytest.raises(OriginUnreachableError, match=said):
        ask(server, upstream)
    assert len(server.seen) == 1


def test_a_registry_on_this_machine_may_have_a_plain_token_server(server: RegistryServer) -> None:
    challenged = demand_bearer(f"{server.url}/token", {"t"})
    server.rule = lambda seen: Answering(200, b'{"token": "t"}') if seen.path == "/token" else challenged(seen)
    server.add_blob("app", "1", b"manifest", kind="manifests")
    assert ask(server, "127.0.0.1:5000")[0].body == b"manifest"


def test_a_manifest_is_asked_for_once(server: RegistryServer) -> None:
    server.rule = lambda _: Answering(503)
    with pytest.raises(OriginUnreachableError, match="answered 503"):
        ask(server, "docker.io")
    assert len(server.seen) == 1


def test_a_login_that_cannot_be_used_is_told(server: RegistryServer) -> None:
    with pytest.raises(PullError, match="a username cannot have a colon"):
        ask(server, "docker.io", login=Login("us:er", "pw"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"errors": [{"code": "DENIED", "message": "not for you"}]}', "not for you"),
        (b'{"errors": [{"code": "DENIED"}]}', "DENIED"),
        (b'{"errors": [{"code": "DENIED", "message": "a\\nb\\u001b[31m"}]}', r"a\nb\x1b[31m"),
        (b'{"errors": [{"message": 5}]}', "Forbidden"),
        (b'{"errors": []}', "Forbidden"),
        (b"[" * 100_000, "Forbidden"),
        (b"no json", "Forbidden"),
    ],
)
def test_a_refusal_has_the_mirrors_words_on_one_line(body: bytes, words: str) -> None:
    assert str(refusal("docker.io/app", 403, body)) == f"docker.io/app: 403 {words}"
