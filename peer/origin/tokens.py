"""The answers to an upstream's challenges, with p2pd's own credentials or anonymously: Basic, and Bearer tokens
(https://distribution.github.io/distribution/spec/auth/token/).

Rules:
1. A token is asked for at the challenge's realm, which is https unless the endpoint itself is plain http.
2. The configured credentials go to the endpoints, and to a realm in an endpoint's domain or named by the operator.
   A mirror passes on the challenge of its registry, so in both rules the registry stands in the mirror's place.
3. What was answered once is remembered per endpoint and repository, so that not each request costs a refusal first.
   Tokens that were got with another password than the present one are not used.
4. A token server is asked by GET, and by POST (OAuth2) where it does not know GET. A challenge without a scope means
   the repository that was asked for.
"""

from __future__ import annotations

import ipaddress
import json
import re
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode, urlsplit

from msgspec import Struct

from peer.origin.credentials import REFRESH_TOKEN_USER, Credentials
from peer.origin.http1 import ExchangeFailedError
from peer.origin.upstream import Target, Upstream, UpstreamEndpoint, wire_path
from peer.origin.www_authenticate import Challenge, parse_challenges

if TYPE_CHECKING:
    from peer.origin.api import Answer
    from peer.origin.clock import Clock

Fetch = Callable[[Target, str, str | None, bytes | None], "Answer"]
"""Get a path from a target, with an `Authorization` or without; or post a form to it."""

_POST_ONLY = frozenset({404, 405, 501})
"""Answers to GET of token servers that know POST only."""

_DEFAULT_LIFETIME_S = 60.0
"""The lifetime of a token that has none (specification)."""
_LONGEST_LIFETIME_S = 24 * 3600.0
_USED_PART = 0.8
"""The share of a token's lifetime in which it is used. The rest allows for other clocks and for requests under way."""
_MOST_REMEMBERED = 1024
"""The most repositories, and tokens. A node uses a few dozen."""

_K = TypeVar("_K")
_V = TypeVar("_V")

_TOKEN = re.compile(r"[\x21-\x7e]+")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_SECOND_LEVEL = frozenset({"ac", "co", "com", "edu", "gob", "gov", "ne", "net", "or", "org"})
"""Second-level labels below a country's domain that anyone may register under (`co.uk`, `com.br`): an owner's domain
then has one label more."""


class _Token(Struct, frozen=True):
    authorization: str
    use_until: float
    basic: str | None
    """The credentials that it was got with."""


class Tokens:
    """p2pd's own tokens at one upstream. They are the configured user's, or anonymous."""

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self._upstream = upstream
        self._clock = clock
        self._credentials = Credentials(upstream, clock)
        self._mirrored = UpstreamEndpoint.parse(upstream.mirrored) if upstream.mirrored else None
        self._lock = threading.Lock()
        self._challenges: dict[tuple[UpstreamEndpoint, str], Challenge] = {}
        self._tokens: dict[tuple[str, str, str], _Token] = {}

    def remembered(self, endpoint: UpstreamEndpoint, repository: str) -> str | None:
        """The `Authorization` for this repository at this endpoint, if it is known and still valid."""
        with self._lock:
            challenge = self._challenges.get((endpoint, repository))
            if challenge is None:
                return None
            token = self._tokens.get(_key(challenge, repository))
        basic = self._credentials.basic
        if challenge.scheme == "basic":
            return basic
        return token.authorization if token and self._is_good(token, basic) else None

    def look(self) -> bool:
        """The credentials were refused: see whether there are others by now."""
        return self._credentials.look()

    def answer(
        self, endpoint: UpstreamEndpoint, repository: str, headers: Sequence[str], refused: str | None, fetch: Fetch
    ) -> str | None:
        """The `Authorization` that answers one of the `WWW-Authenticate` fields; None if there is no answer.

        `refused` was sent already and is not returned again. Raises ExchangeFailedError if the token server fails, or
        must not be asked.
        """
        if refused is not None:
            self._credentials.look()
        for challenge in (each for header in headers for each in parse_challenges(header)):
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                authorization = self._bearer(endpoint, repository, challenge, refused, fetch)
            elif challenge.scheme == "basic":
                authorization = self._credentials.basic
            else:
                continue
            if authorization is None or authorization == refused:
                continue
            with self._lock:
                _remember(self._challenges, (endpoint, repository), challenge)
            return authorization
        return None

    def _is_good(self, token: _Token, basic: str | None) -> bool:
        return self._clock.monotonic() < token.use_until and token.basic == basic

    def _bearer(
        self, endpoint: UpstreamEndpoint, repository: str, challenge: Challenge, refused: str | None, fetch: Fetch
    ) -> str | None:
        key = _key(challenge, repository)
        basic = self._credentials.basic
        with self._lock:
            token = self._tokens.get(key)
            if token and self._is_good(token, basic) and token.authorization != refused:
                return token.authorization
        now = self._clock.monotonic()
        realm, path = self._realm(self._mirrored or endpoint, challenge)
        answer = self._ask_for_token(realm, path, key, fetch)
        if answer.status in (400, 401, 403) and self._credentials.look():
            basic = self._credentials.basic
            answer = self._ask_for_token(realm, path, key, fetch)
        if answer.status not in (200, 201):
            if answer.status < 500 and answer.status != 429:
                return None  # it does not know us: the 401 of the endpoint is the answer
            raise ExchangeFailedError(f"the token server {realm} answered {answer.status}")
        text, lifetime_s = _parse(realm, answer.body)
        token = _Token(f"Bearer {text}", now + lifetime_s * _USED_PART, basic)
        with self._lock:
            _remember(self._tokens, key, token)
        return token.authorization

    def _ask_for_token(self, realm: Target, path: str, key: tuple[str, str, str], fetch: Fetch) -> Answer:
        """By GET with Basic, or else by POST with a form (https://distribution.github.io/distribution/spec/auth/oauth/)."""
        _, service, scope = key
        credentials = self._credentials
        if credentials.username != REFRESH_TOKEN_USER:
            asked = [("service", service)] if service else []
            asked += [("scope", each) for each in scope.split()]
            found = wire_path(urlencode(asked))
            query = "&".join(part for part in (path.partition("?")[2], found) if part)
            answer = fetch(realm, path.partition("?")[0] + (f"?{query}" if query else ""), credentials.basic, None)
            if answer.status not in _POST_ONLY:
                return answer
        form = {"grant_type": "password", "service": service, "scope": scope, "client_id": "p2pd"}
        if credentials.username == REFRESH_TOKEN_USER:
            form |= {"grant_type": "refresh_token", "refresh_token": credentials.password}
        elif credentials.username is not None:
            form |= {"username": credentials.username, "password": credentials.password}
        return fetch(realm, path, None, urlencode(form).encode())

    def _realm(self, endpoint: UpstreamEndpoint, challenge: Challenge) -> tuple[Target, str]:
        """The token server of a challenge, and the path to ask there."""
        try:
            url = urlsplit(challenge.parameters["realm"])
            realm = Target.of(url)
        except ValueError:
            raise ExchangeFailedError(
                f"{endpoint} asks for a token from a realm that is no http or https address", lasting=True
            ) from None
        if realm.scheme == "http" and endpoint.target.scheme == "https":
            raise ExchangeFailedError(
                f"{endpoint} asks for a token over plain http, from {realm}: refused", lasting=True
            )
        if self._credentials.username is not None and not self._may_have_credentials(realm.host, endpoint.target.host):
            raise ExchangeFailedError(
                f"{endpoint} asks for a token from {realm}, which is not in its domain, so the configured credentials"
                f" are not sent there; if it is right, name {realm.host} in token_hosts",
                lasting=True,
            )
        return realm, wire_path(url.path or "/") + (f"?{wire_path(url.query)}" if url.query else "")

    def _may_have_credentials(self, realm: str, host: str) -> bool:
        return realm == host or realm in self._upstream.token_hosts or _domain(realm) == _domain(host)


def _key(challenge: Challenge, repository: str) -> tuple[str, str, str]:
    """The realm, the service and the scope of the token that a challenge asks for.

    The scope is optional; Artifactory, GitLab and Nexus leave it out.
    """
    found = challenge.parameters
    scope = found.get("scope", "").strip() or (f"repository:{repository}:pull" if repository else "")
    return found.get("realm", ""), found.get("service", ""), scope


def _domain(host: str) -> tuple[str, ...]:
    """The domain that the hosts of one owner have in common. It is close to the public suffix list, which p2pd lacks.

    An address, or a name of one label, is its own domain.
    """
    labels = tuple(host.rstrip(".").split("."))
    try:
        ipaddress.ip_address(host)
    except ValueError:
        of_country = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL
        return labels[-3:] if of_country else labels[-2:]
    return (host,)


def _parse(realm: Target, body: bytes) -> tuple[str, float]:
    """The token in a token server's answer, and its lifetime in seconds."""
    try:
        found = json.loads(body)
        texts = found.get("token"), found.get("access_token")
        text = next((each for each in texts if isinstance(each, str) and each), None)
        lifetime_s = found.get("expires_in")
    except (ValueError, AttributeError, RecursionError):
        text = lifetime_s = None
    if text is None or not _TOKEN.fullmatch(text):
        raise ExchangeFailedError(f"the token server {realm} answered with no token that could be used")
    if isinstance(lifetime_s, str) and _SECONDS.fullmatch(lifetime_s):
        lifetime_s = float(lifetime_s)
    if isinstance(lifetime_s, bool) or not isinstance(lifetime_s, int | float) or not lifetime_s > 0:
        lifetime_s = _DEFAULT_LIFETIME_S
    return text, float(min(lifetime_s, _LONGEST_LIFETIME_S))


def _remember(known: dict[_K, _V], key: _K, value: _V) -> None:
    """Append the value, and drop the oldest if there are too many."""
    known.pop(key, None)
    known[key] = value
    if len(known) > _MOST_REMEMBERED:
        del known[next(iter(known))]
