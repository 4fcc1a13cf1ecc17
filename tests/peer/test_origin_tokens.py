"""Challenges: which are answered, with what, how long an answer is remembered, and who never sees the password."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, quote, urlsplit

import pytest

from peer.errors import OriginRefusedError, OriginUnreachableError
from peer.origin.api import Credential
from peer.origin.upstream import Upstream
from tests.peer.origin_fixtures import CONTENT, NOBODY, OURS, REF, StillClock, origin_at, read_all
from tests.support.registry_server import Answering, RegistryServer, Seen, demand_basic, demand_bearer, issue_tokens

BASIC = "Basic dXNlcjpwdw=="  # user:pw
NEW = "Basic dXNlcjpuZXc="  # user:new


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
            assert origin.statistics().refusals == 0  # the first 401 asks for the password
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
            assert origin.statistics().refusals == 2
        assert authorizations(server) == [None, BASIC, BASIC]

    def test_nobody_has_no_answer(self, server: RegistryServer) -> None:
        server.rule = demand_basic("user", "pw")
        with origin_at(server) as origin, pytest.raises(OriginRefusedError) as caught:
            origin.open(REF, 0, None, credential=OURS)
        assert caught.value.headers == {"WWW-Authenticate": 'Basic realm="here"'}
        assert origin.statistics().refusals == 0  # of no password


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

    @pytest.mark.parametrize(
        ("lifetime", "used_s"),
        [
            ({}, 48),
            ({"expires_in": 300}, 240),
            ({"expires_in": "300", "issued_at": "yesterday"}, 240),
            ({"expires_in": "x"}, 48),
            ({"expires_in": 0}, 48),
            ({"expires_in": None, "issued_at": 7}, 48),
        ],
    )
    def test_a_token_is_used_for_most_of_its_life(
        self, server: RegistryServer, tokens: RegistryServer, lifetime: dict[str, object], used_s: float
    ) -> None:
        clock, issued = StillClock(), set[str]()
        tokens.rule = issue_tokens(issued, **lifetime)
        server.rule = demand_bearer(f"{tokens.url}/token", issued)
        with origin_at(server, clock=clock, idle_s=1e6) as origin:
            for passed_s, asked_for in ((0.0, 1), (used_s - 0.5, 1), (1.0, 2)):
                clock.pass_s(passed_s)
                assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
                assert len(tokens.seen) == asked_for

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

    @pytest.mark.parametrize(
        "body",
        [b'{"access_token": "t"}', b'{"token": "", "access_token": "t"}', b'{"token": null, "access_token": "t"}'],
    )
    def test_access_token_will_do(self, server: RegistryServer, tokens: RegistryServer, body: bytes) -> None:
        tokens.script(Answering(200, body))
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

    def test_a_field_that_is_not_understood_does_not_hide_the_next(self, server: RegistryServer) -> None:
        head = 'WWW-Authenticate: Bearer realm="never ends\r\nWWW-Authenticate: basic  realm = "y"\r\n'
        server.script(Answering(wire=f"HTTP/1.1 401 So\r\n{head}Content-Length: 0\r\n\r\n".encode()))
        with origin_at(server, username="user", password="pw") as origin:
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
        assert authorizations(server) == [None, BASIC]

    def test_a_401_without_a_challenge_may_want_basic(self, server: RegistryServer) -> None:
        server.rule = lambda seen: None if seen.headers.get("authorization") == BASIC else Answering(401)
        with origin_at(server, username="user", password="pw") as origin:
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
        with origin_at(server) as origin:
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 401
        assert authorizations(server) == [None, BASIC, BASIC, None]

    @pytest.mark.parametrize("scope", ["", ',scope=""'])
    def test_a_challenge_without_a_scope_means_the_repository(
        self, server: RegistryServer, tokens: RegistryServer, scope: str
    ) -> None:
        tokens.rule = lambda seen: Answering(200, json.dumps({"token": seen.target.partition("scope=")[2]}).encode())
        challenge = f'Bearer realm="{tokens.url}/token",service="registry"{scope}'
        refusal = Answering(401, headers={"WWW-Authenticate": challenge})

        def rule(seen: Seen) -> Answering | None:
            name = seen.path.removeprefix("/v2/").rsplit("/", 2)[0]
            wanted = f"Bearer {quote(f'repository:{name}:pull', safe='')}"
            return Answering(200) if seen.headers.get("authorization") == wanted else refusal

        server.rule = rule
        with origin_at(server) as origin:
            for path in ("app/manifests/1", "app/blobs/1", "team/app/tags/list", "app/tags/list?n=1"):
                assert origin.request("GET", path, credential=OURS).status == 200
        assert len(tokens.seen) == 2

    def test_the_ping_is_of_no_repository(self, server: RegistryServer, tokens: RegistryServer) -> None:
        tokens.rule = issue_tokens({"t"})
        server.rule = demand_bearer(f"{tokens.url}/token", set(), scope="")
        with origin_at(server) as origin:
            origin.request("GET", "", credential=OURS)
        assert tokens.seen[0].target == "/token?service=registry"

    def test_nonsense_is_relayed(self, server: RegistryServer) -> None:
        server.script(Answering(401, headers={"WWW-Authenticate": '"Bearer'}), Answering(401))
        with origin_at(server) as origin:
            assert origin.request("GET", "", credential=OURS).headers["www-authenticate"] == '"Bearer'
            assert origin.request("GET", "", credential=OURS).status == 401


class TestPost:
    """Token servers that know POST only."""

    @pytest.mark.parametrize(
        ("username", "password", "form"),
        [
            ("user", "pw", {"grant_type": "password", "username": "user", "password": "pw"}),
            (None, None, {"grant_type": "password"}),
            ("<token>", "pw", {"grant_type": "refresh_token", "refresh_token": "pw"}),
        ],
    )
    @pytest.mark.parametrize("refusal", [404, 405, 501])
    def test_a_form_is_posted(
        self, server: RegistryServer, tokens: RegistryServer, username: str, password: str, form: object, refusal: int
    ) -> None:
        def rule(seen: Seen) -> Answering:
            return Answering(200, b'{"access_token": "t"}') if seen.method == "POST" else Answering(refusal)

        tokens.rule = rule
        server.rule = demand_bearer(f"{tokens.url}/token?who=us", {"t"}, scope="repository:app:pull repository:b:pull")
        with origin_at(server, username=username, password=password) as origin:
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
        asked = tokens.seen[-1]
        assert (asked.method, asked.target) == ("POST", "/token?who=us")
        assert "authorization" not in asked.headers
        assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
        assert dict(parse_qsl(asked.body.decode())) == {
            "service": "registry",
            "scope": "repository:app:pull repository:b:pull",
            "client_id": "p2pd",
            **form,  # type: ignore[dict-item]  # a dict
        }
        assert len(tokens.seen) == (1 if username == "<token>" else 2)

    def test_a_password_in_a_form_is_not_redirected(self, server: RegistryServer, tokens: RegistryServer) -> None:
        with RegistryServer() as elsewhere:
            tokens.script(Answering(405), Answering(307, headers={"Location": f"{elsewhere.url}/token"}))
            server.rule = demand_bearer(f"{tokens.url}/token", {"t"})
            with origin_at(server, username="user", password="pw") as origin:
                assert origin.request("GET", "app/manifests/1", credential=OURS).status == 401
            assert elsewhere.seen == []


class TestRotation:
    """A password file that changes while p2pd runs."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "password"
        file.write_text("pw\n")
        return file

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_password_that_is_refused_is_read_again(self, server: RegistryServer, file: Path, status: int) -> None:
        server.rule = demand_basic("user", "pw")
        with origin_at(server, username="user", password_file=file) as origin:
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
            file.write_text("new")
            accepts = demand_basic("user", "new")
            server.rule = lambda seen: accepts(seen) and Answering(status)
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
            assert read_all(origin, credential=OURS) == CONTENT
        assert authorizations(server) == [None, BASIC, BASIC, NEW, NEW]

    def test_one_that_has_changed_is_used_before_it_is_refused(self, server: RegistryServer, file: Path) -> None:
        clock = StillClock()
        server.rule = demand_basic("user", "pw")
        with origin_at(server, clock=clock, username="user", password_file=file) as origin:
            origin.request("GET", "app/manifests/1", credential=OURS)
            file.write_text("new")
            clock.pass_s(1.0)
            server.rule = demand_basic("user", "new")
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
        assert authorizations(server) == [None, BASIC, NEW]

    def test_one_that_stays_is_refused_once(self, server: RegistryServer, file: Path) -> None:
        server.rule = demand_basic("user", "other")
        with origin_at(server, username="user", password_file=file) as origin:
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 401
        assert authorizations(server) == [None, BASIC]

    def test_a_file_that_is_being_written_keeps_the_password(self, server: RegistryServer, file: Path) -> None:
        clock = StillClock()
        server.rule = demand_basic("user", "pw")
        with origin_at(server, clock=clock, username="user", password_file=file) as origin:
            file.write_text("")
            clock.pass_s(1.0)
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200

    def test_tokens_of_the_old_password_are_dropped(
        self, server: RegistryServer, tokens: RegistryServer, issued: set[str], file: Path
    ) -> None:
        clock = StillClock()
        with origin_at(server, clock=clock, username="user", password_file=file) as origin:
            origin.request("GET", "app/manifests/1", credential=OURS)
            file.write_text("new")
            clock.pass_s(1.0)
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
        assert authorizations(tokens) == [BASIC, NEW]
        assert authorizations(server)[-1] == "Bearer token-2"
        assert len(issued) == 2

    def test_a_token_server_that_refuses_it_is_asked_with_the_new_one(
        self, server: RegistryServer, tokens: RegistryServer, file: Path
    ) -> None:
        issued: set[str] = set()
        give, accepts = issue_tokens(issued), demand_basic("user", "new")
        tokens.rule = lambda seen: accepts(seen) or give(seen)
        server.rule = demand_bearer(f"{tokens.url}/token", issued)
        with origin_at(server, username="user", password_file=file) as origin:
            file.write_text("new")
            assert origin.request("GET", "app/manifests/1", credential=OURS).status == 200
        assert authorizations(tokens) == [BASIC, NEW]

    @pytest.mark.parametrize("text", [None, "", "\n"])
    def test_the_first_password_must_be_there(self, tmp_path: Path, text: str | None) -> None:
        file = tmp_path / "password"
        if text is not None:
            file.write_text(text)
        with (
            pytest.raises(ValueError, match=r"upstream reg\.test: the password file"),
            origin_at("https://registry.test", username="user", password_file=file),
        ):
            pass


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
        assert tokens.seen[1].headers["host"] == realm.removesuffix(".")

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
