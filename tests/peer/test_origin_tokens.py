"""Challenges: which are answered, with what, how long an answer is remembered, and who never sees the password."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from peer.errors import OriginRefusedError, OriginUnreachableError
from peer.origin.api import Credential
from peer.origin.upstream import Upstream
from tests.peer.origin_fixtures import CONTENT, NOBODY, OURS, REF, StillClock, origin_at, read_all
from tests.support.registry_server import Answering, RegistryServer, demand_basic, demand_bearer, issue_tokens

BASIC = "Basic dXNlcjpwdw=="  # user:pw


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.add_blob(REF.repository, REF.digest, CONTENT)
        server.add_blob("app", "1", b"manifest", kind="manifests")
        yield server


@pytest.fixture
def issued(server: RegistryServer, tokens: RegistryServer) -> set[str]:
    """The tokens that `tokens` has issued, one of which `server` demands."""
    issued: set[str] = set()
    tokens.rule = issue_tokens(issued)
    server.rule = demand_bearer(f"{tokens.url}/token?who=us", issued)
    return issued


@pytest.fixture
def tokens() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


def authorizations(server: RegistryServer) -> list[str | None]:
    return [seen.headers.get("authorization") for seen in server.seen]


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Upstream("reg.test", ("https://a",), username="user", password="secret"))


class TestBasic:
    """A user and a password."""

    def test_it_is_answered_and_remembered(self, server: RegistryServer) -> None:
        server.rule = demand_basic("user", "pw")
        with origin_at(server, username="user", password="pw") as origin:
            for _ in range(2):
                assert origin.request("GET", "app/manifests/1", credential=OURS).body == b"manifest"
            with origin.open(REF, 0, None, credential=OURS) as body:
                assert body.size_bytes == len(CONTENT)
        assert authorizations(server) == [None, BASIC, BASIC, BASIC]

    @pytest.mark.parametrize("credential", [NOBODY, Credential("Basic d3Jvbmc=")])
    def test_it_is_not_unless_we_may(self, server: RegistryServer, credential: Credential) -> None:
        server.rule = demand_basic("user", "pw")
        with origin_at(server, username="user", password="pw") as origin:
            answer = origin.request("GET", "app/manifests/1", credential=credential)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Basic realm="here"')
        assert authorizations(server) == [credential.authorization]

    def test_a_wrong_password_is_shown_once_and_the_401_relayed(self, server: RegistryServer) -> None:
        server.rule = demand_basic("user", "other")
        with origin_at(server, username="user", password="pw") as origin:
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 401
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 401
        assert authorizations(server) == [None, BASIC, BASIC]

    def test_nobody_has_no_answer(self, server: RegistryServer) -> None:
        server.rule = demand_basic("user", "pw")
        with origin_at(server) as origin, pytest.raises(OriginRefusedError) as caught:
            origin.open(REF, 0, None, credential=OURS)
        assert caught.value.headers == {"WWW-Authenticate": 'Basic realm="here"'}


class TestBearer:
    """Tokens of a token server."""

    @pytest.mark.usefixtures("issued")
    def test_a_token_is_asked_for_as_the_challenge_says_and_used_again(
        self, server: RegistryServer, tokens: RegistryServer
    ) -> None:
        with origin_at(server) as origin:
            for _ in range(2):
                assert origin.request("GET", "app/manifests/1", credential=OURS).body == b"manifest"
            assert read_all(origin, credential=OURS) == CONTENT
        assert authorizations(server) == [None, "Bearer token-1", "Bearer token-1", "Bearer token-1"]
        (seen,) = tokens.seen
        assert seen.path == "/token"
        assert parse_qs(urlsplit(seen.target).query) == {
            "who": ["us"],
            "service": ["registry"],
            "scope": ["repository:app:pull"],
        }
        assert "authorization" not in seen.headers

    def test_several_scopes_are_asked_for_each(self, server: RegistryServer, tokens: RegistryServer) -> None:
        issued: set[str] = set()
        tokens.rule = issue_tokens(issued)
        server.rule = demand_bearer(f"{tokens.url}/token", issued, scope="repository:a:pull repository:b:pull,push")
        with origin_at(server) as origin:
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
        query = parse_qs(urlsplit(tokens.seen[0].target).query)
        assert query["scope"] == ["repository:a:pull", "repository:b:pull,push"]

    @pytest.mark.usefixtures("issued")
    def test_the_configured_user_is_who_asks(self, server: RegistryServer, tokens: RegistryServer) -> None:
        with origin_at(server, username="user", password="pw") as origin:
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
        assert authorizations(tokens) == [BASIC]
        assert authorizations(server) == [None, "Bearer token-1"]

    @pytest.mark.parametrize(("lifetime", "used_s"), [({}, 48), ({"expires_in": 300}, 240), ({"expires_in": "x"}, 48)])
    def test_a_token_is_used_for_most_of_its_life(
        self, server: RegistryServer, tokens: RegistryServer, lifetime: dict[str, object], used_s: float
    ) -> None:
        clock, issued = StillClock(), set[str]()
        tokens.rule = issue_tokens(issued, **lifetime)
        server.rule = demand_bearer(f"{tokens.url}/token", issued)
        with origin_at(server, clock=clock, idle_s=1e6) as origin:
            for passed_s in (0.0, used_s - 0.5, 1.0):
                clock.pass_s(passed_s)
                assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
        assert len(tokens.seen) == 2

    def test_a_token_that_is_no_longer_good_is_replaced(self, server: RegistryServer, issued: set[str]) -> None:
        with origin_at(server) as origin:
            origin.request("GET", "app/manifests/1", credential=OURS)
            issued.clear()
            issued.add("")  # so that the next one has another number
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
        assert authorizations(server) == [None, "Bearer token-1", "Bearer token-1", "Bearer token-2"]

    @pytest.mark.usefixtures("issued")
    def test_another_repository_is_another_token(self, server: RegistryServer) -> None:
        with origin_at(server) as origin:
            origin.request("GET", "app/manifests/1", credential=OURS)
            origin.request("GET", "other/app/manifests/1", credential=OURS)
        assert authorizations(server)[2] is None

    def test_access_token_will_do(self, server: RegistryServer, tokens: RegistryServer) -> None:
        tokens.script(Answering(200, b'{"access_token": "t"}'))
        server.rule = demand_bearer(f"{tokens.url}/token", {"t"})
        with origin_at(server) as origin:
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200

    def test_a_user_whom_the_token_server_does_not_know_is_refused_by_the_registry(
        self, server: RegistryServer, tokens: RegistryServer
    ) -> None:
        tokens.script(Answering(401, b"wrong password"))
        server.rule = demand_bearer(f"{tokens.url}/token", set())
        with origin_at(server) as origin, pytest.raises(OriginRefusedError) as caught:
            origin.open(REF, 0, None, credential=OURS)
        assert (caught.value.status, caught.value.body) == (401, b'{"errors":[]}')
        assert caught.value.headers["WWW-Authenticate"].startswith("Bearer realm=")

    def test_a_token_that_does_not_help_is_not_asked_for_twice(
        self, server: RegistryServer, tokens: RegistryServer
    ) -> None:
        tokens.rule = issue_tokens(set())
        server.rule = demand_bearer(f"{tokens.url}/token", set())
        with origin_at(server) as origin:
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 401
        assert (len(server.seen), len(tokens.seen)) == (2, 1)

    @pytest.mark.parametrize(
        "answering",
        [
            Answering(503),
            Answering(429),
            Answering(200, b"not json"),
            Answering(200, b"[]"),
            Answering(200, b'{"token": 5}'),
            Answering(200, b'{"token": "a\\r\\nX: y"}'),
        ],
    )
    @pytest.mark.usefixtures("issued")
    def test_a_token_server_that_fails_is_asked_again(
        self, server: RegistryServer, tokens: RegistryServer, answering: Answering
    ) -> None:
        tokens.script(answering)
        with origin_at(server) as origin:
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
            assert origin.statistics().retries == 1
        assert len(tokens.seen) == 2

    def test_the_first_challenge_that_we_can_answer_is(self, server: RegistryServer) -> None:
        header = 'Negotiate, Digest realm="x", Bearer service="no realm", Basic realm="y"'
        server.script(Answering(401, headers={"WWW-Authenticate": header}))
        with origin_at(server, username="user", password="pw") as origin:
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
        assert authorizations(server) == [None, BASIC]

    def test_nonsense_is_relayed(self, server: RegistryServer) -> None:
        server.script(Answering(401, headers={"WWW-Authenticate": '"Bearer'}), Answering(401))
        with origin_at(server) as origin:
            assert origin.request("GET", "", credential=OURS).headers["www-authenticate"] == '"Bearer'
            assert origin.request("GET", "", credential=OURS).status == 401


class TestRealm:
    """Who may be asked for a token, and who may see the password."""

    @pytest.mark.parametrize(
        ("realm", "said"),
        [
            ("http://elsewhere.test/token", "name elsewhere.test in token_hosts"),
            ("http://10.0.0.1/token", "name 10.0.0.1 in token_hosts"),
            ("token", "no http or https address"),
            ("ftp://127.0.0.1/token", "no http or https address"),
        ],
    )
    def test_strangers_do_not_get_the_password(self, server: RegistryServer, realm: str, said: str) -> None:
        server.rule = demand_bearer(realm, set())
        with (
            origin_at(server, username="user", password="pw") as origin,
            pytest.raises(OriginUnreachableError, match=said) as caught,
        ):
            origin.request("GET", "app/manifests/1", credential=OURS)
        assert "pw" not in str(caught.value)
        assert len(server.seen) == 1

    @pytest.mark.parametrize(
        ("host", "realm", "token_hosts"),
        [
            ("registry.example.com", "auth.example.com", ()),
            ("registry.example.co.uk", "auth.example.co.uk", ()),
            ("registry.example.com", "auth.example.com.", ()),
            ("example.com", "auth.example.com", ()),
            ("registry.test", "auth.elsewhere.test", ("auth.elsewhere.test",)),
        ],
    )
    def test_the_same_domain_does_and_whom_the_operator_names(
        self, tokens: RegistryServer, host: str, realm: str, token_hosts: tuple[str, ...]
    ) -> None:
        tokens.script(Answering(401, headers={"WWW-Authenticate": f'Bearer realm="http://{realm}/token"'}))
        tokens.rule = lambda seen: Answering(200, b'{"token": "t"}') if seen.path == "/token" else Answering(200)
        # A proxy leads to all of these names, and plays all of their parts.
        with origin_at(
            f"http://{host}",
            environ={"http_proxy": tokens.url},
            username="user",
            password="pw",
            token_hosts=token_hosts,
        ) as origin:
            assert origin.request("GET", "", credential=OURS).status == 200
        assert authorizations(tokens) == [None, BASIC, "Bearer t"]
        assert tokens.seen[1].headers["host"] == realm

    @pytest.mark.parametrize(
        ("host", "realm"),
        [
            ("registry.example.com", "registry.example.org"),
            ("registry.example.co.uk", "evil.co.uk"),
            ("example.com", "notexample.com"),
            ("registry", "auth"),
            ("10.0.0.1", "11.1.0.1"),
        ],
    )
    def test_another_domain_does_not(self, tokens: RegistryServer, host: str, realm: str) -> None:
        tokens.script(Answering(401, headers={"WWW-Authenticate": f'Bearer realm="http://{realm}/token"'}))
        with (
            origin_at(f"http://{host}", environ={"http_proxy": tokens.url}, username="user", password="pw") as origin,
            pytest.raises(OriginUnreachableError, match=f"name {realm} in token_hosts"),
        ):
            origin.request("GET", "", credential=OURS)

    def test_a_redirecting_token_server_does_not_hand_the_password_on(
        self, server: RegistryServer, tokens: RegistryServer
    ) -> None:
        with RegistryServer() as elsewhere:
            issued: set[str] = set()
            elsewhere.rule = issue_tokens(issued)
            tokens.script(Answering(307, headers={"Location": f"{elsewhere.url}/token"}))
            server.rule = demand_bearer(f"{tokens.url}/token", issued)
            with origin_at(server, username="user", password="pw") as origin:
                assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
            assert (authorizations(tokens), authorizations(elsewhere)) == ([BASIC], [None])
