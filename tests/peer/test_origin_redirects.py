"""Redirects: followed, bounded, and without anything that is for the registry only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from peer.errors import OriginRefusedError, OriginUnreachableError
from peer.origin.api import Credential
from tests.peer.origin_fixtures import CONTENT, NOBODY, OURS, REF, origin_at, read_all
from tests.support.registry_server import Answering, RegistryServer

CLIENT = Credential("Bearer client-secret")


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture
def storage() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.blobs["/bucket/data"] = CONTENT
        yield server


def to(location: str, status: int = 307) -> Answering:
    return Answering(status, b"<a>see there</a>", {"Location": location})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_they_are_followed(server: RegistryServer, storage: RegistryServer, status: int, method: str) -> None:
    server.script(to(f"{storage.url}/bucket/data?sig=x%2Fy&e=1", status))
    with origin_at(server) as origin:
        answer = origin.request(method, "app/blobs/1", credential=NOBODY)  # type: ignore[arg-type]  # a Literal
    assert (answer.status, answer.body) == (200, CONTENT if method == "GET" else b"")
    (seen,) = storage.seen
    assert (seen.method, seen.target) == (method, "/bucket/data?sig=x%2Fy&e=1")


def test_another_host_gets_what_is_wanted_and_nothing_that_authorises(
    server: RegistryServer, storage: RegistryServer
) -> None:
    server.script(to(f"{storage.url}/bucket/data"))
    with origin_at(server, username="user", password="pw") as origin:
        headers = {"Accept": "a/b", "Cookie": "c", "X-Registry-Auth": "d", "Authorization": "e"}
        origin.request("GET", "app/blobs/1", credential=CLIENT, headers=headers)
    assert server.seen[0].headers["authorization"] == "Bearer client-secret"
    assert server.seen[0].headers["cookie"] == "c"
    assert dict(storage.seen[0].headers) == {
        "host": f"127.0.0.1:{storage.port}",
        "accept": "a/b",
        "accept-encoding": "identity",
        "user-agent": "p2pd",
    }


def test_the_same_host_gets_the_credential_too(server: RegistryServer) -> None:
    server.script(to("/elsewhere"), to("../v2/relative"), Answering(200))
    with origin_at(server) as origin:
        origin.request("GET", "app/blobs/1", credential=CLIENT)
    assert [seen.target for seen in server.seen] == ["/v2/app/blobs/1", "/elsewhere", "/v2/relative"]
    assert {seen.headers["authorization"] for seen in server.seen} == {"Bearer client-secret"}
    assert server.connections == 1


def test_a_detour_back_home_does_not_get_it(server: RegistryServer, storage: RegistryServer) -> None:
    storage.script(to(f"{server.url}/back"))
    server.script(to(storage.url), Answering(200))
    with origin_at(server) as origin:
        origin.request("GET", "app/blobs/1", credential=CLIENT)
    assert server.seen[1].target == "/back"
    assert "authorization" not in server.seen[1].headers


def test_bodies_come_by_them_and_resume_at_the_registry(server: RegistryServer, storage: RegistryServer) -> None:
    server.rule = lambda _: to(f"{storage.url}/bucket/data")
    storage.script(Answering(200, CONTENT, sent_bytes=1000, then="close"))
    with origin_at(server) as origin:
        assert read_all(origin) == CONTENT
        assert origin.statistics().open_connections == 2
    assert [seen.headers.get("range") for seen in server.seen] == [None, "bytes=1000-1048575"]
    assert [seen.headers.get("range") for seen in storage.seen] == [None, "bytes=1000-1048575"]


def test_a_challenge_from_elsewhere_is_not_relayed_and_not_answered(
    server: RegistryServer, storage: RegistryServer
) -> None:
    server.script(to(storage.url))
    storage.script(Answering(401, b"who?", {"WWW-Authenticate": 'Basic realm="give me"'}))
    with origin_at(server, username="user", password="pw") as origin, pytest.raises(OriginRefusedError) as caught:
        origin.open(REF, 0, None, credential=OURS)
    assert (caught.value.status, caught.value.headers) == (401, {})
    assert len(storage.seen) == 1


def test_ten_are_followed_and_no_more(server: RegistryServer) -> None:
    server.script(*[to("/again")] * 10, Answering(200))
    with origin_at(server) as origin:
        assert origin.request("GET", "", credential=NOBODY).status == 200
        server.script(*[to("/again")] * 11)
        with pytest.raises(OriginUnreachableError, match="more than 10 times"):
            origin.request("GET", "", credential=NOBODY)
    assert len(server.seen) == 22


@pytest.mark.parametrize(
    "location", ["ftp://host/secret", "http://[::1/secret", "http://h:99999/secret", "file:///secret"]
)
def test_addresses_that_lead_nowhere_fail_at_once(server: RegistryServer, location: str) -> None:
    server.script(to(location))
    with origin_at(server) as origin, pytest.raises(OriginUnreachableError, match="no http or https") as caught:
        origin.request("GET", "", credential=NOBODY)
    assert "secret" not in str(caught.value)
    assert len(server.seen) == 1


def test_a_host_that_fails_is_named_without_its_signed_url(server: RegistryServer, storage: RegistryServer) -> None:
    server.rule = lambda _: to(f"{storage.url}/secret?sig=secret")
    storage.rule = lambda _: Answering(503)
    with origin_at(server) as origin, pytest.raises(OriginUnreachableError, match=storage.url) as caught:
        origin.open(REF, 0, None, credential=NOBODY)
    assert "secret" not in str(caught.value)
    assert len(storage.seen) == 4


def test_a_status_that_redirects_without_saying_where_is_an_answer(server: RegistryServer) -> None:
    server.script(Answering(302))
    with origin_at(server) as origin:
        assert origin.request("GET", "", credential=NOBODY).status == 302


@pytest.mark.parametrize(
    ("location", "redirected"),
    [("/storage/v2/app/blobs/1", True), ("/v2/library/app/blobs/1", False), ("manifests/1", False)],
)
@pytest.mark.parametrize("status", [200, 401, 403, 404])
def test_an_answer_says_whether_it_is_the_registrys_own(
    server: RegistryServer, location: str, redirected: bool, status: int
) -> None:
    server.script(Answering(status), to(location), Answering(status))
    with origin_at(server) as origin:
        assert not origin.request("HEAD", "app/blobs/1", credential=NOBODY).redirected
        assert origin.request("HEAD", "app/blobs/1", credential=NOBODY).redirected is redirected


def test_so_does_the_refusal_of_a_body(server: RegistryServer, storage: RegistryServer) -> None:
    server.script(Answering(403), to(f"{storage.url}/bucket/other"))
    with origin_at(server) as origin:
        for redirected in (False, True):
            with pytest.raises(OriginRefusedError) as caught:
                origin.open(REF, 0, None, credential=NOBODY)
            assert caught.value.redirected is redirected


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/bucket/da ta?sig=a b", "/bucket/da%20ta?sig=a%20b"),
        ("/bucket/d\u00c3\u00a4ta", "/bucket/d%C3%A4ta"),  # UTF-8 on the wire
        ("/bucket/d\u00e4ta", "/bucket/d%E4ta"),  # bytes that are no UTF-8 go back unchanged
        ("../data", "/v2/app/data"),
        ("?sig=x", "/v2/app/blobs/?sig=x"),
        ("/bucket/data?sig=" + "x" * 70_000, "/bucket/data?sig=" + "x" * 70_000),
    ],
    ids=["spaces", "utf-8", "latin-1", "relative", "query", "long"],
)
def test_addresses_written_loosely(server: RegistryServer, location: str, target: str) -> None:
    server.script(to(location), Answering(200))
    with origin_at(server) as origin:
        assert origin.request("GET", "app/blobs/", credential=NOBODY).status == 200
    assert server.seen[1].target == target
