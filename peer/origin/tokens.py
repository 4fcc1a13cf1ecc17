"""The answers to an upstream's challenges, with p2pd's own credentials or anonymously: Basic, and Bearer tokens
(https://distribution.github.io/distribution/spec/auth/token/).

Rules:
1. A token is asked for at the challenge's realm, which is https unless the endpoint itself is plain http.
2. The configured credentials go to the endpoints, and to a realm in an endpoint's domain or named by the operator.
   A mirror passes on the challenge of its registry, so in both rules the registry stands in the mirror's place.
3. What was answered once is remembered per endpoint and repository, so that not each request costs a refusal first.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode, urlsplit

from peer.origin.http1 import ExchangeFailedError
from peer.origin.upstream import Target, Upstream, UpstreamEndpoint, wire_path
from peer.origin.www_authenticate import Challenge, parse_challenges

if TYPE_CHECKING:
    from peer.origin.api import Answer
    from peer.origin.clock import Clock

Fetch = Callable[[Target, str, str | None], "Answer"]
"""Get a path from a target, with an `Authorization` or without."""

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
_SECOND_LEVEL = frozenset({"ac", "co", "com", "edu", "gob", "gov", "ne", "net", "or", "org"})
"""Second-level labels below a country's domain that anyone may register under (`co.uk`, `com.br`): an owner's domain
then has one label more."""


@dataclass(frozen=True, slots=True)
class _Token:
    authorization: str
    use_until: float


class Tokens:
    """p2pd's own tokens at one upstream. They are the configured user's, or anonymous."""

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self._upstream = upstream
        self._clock = clock
        self._basic: str | None = None
        if upstream.username is not None:
            pair = f"{upstream.username}:{upstream.password}"
            self._basic = "Basic " + base64.b64encode(pair.encode()).decode()
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
            if challenge.scheme == "basic":
                return self._basic
            token = self._tokens.get(_key(challenge))
        return token.authorization if token and self._clock.monotonic() < token.use_until else None

    def answer(
        self, endpoint: UpstreamEndpoint, repository: str, header: str, refused: str | None, fetch: Fetch
    ) -> str | None:
        """The `Authorization` that answers a `WWW-Authenticate` header; None if there is no answer.

        `refused` was sent already and is not returned again. Raises ExchangeFailedError if the token server fails, or
        must not be asked.
        """
        for challenge in parse_challenges(header):
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                authorization = self._bearer(endpoint, challenge, refused, fetch)
            elif challenge.scheme == "basic":
                authorization = self._basic
            else:
                continue
            if authorization is None or authorization == refused:
                continue
            with self._lock:
                _remember(self._challenges, (endpoint, repository), challenge)
            return authorization
        return None

    def _bearer(
        self, endpoint: UpstreamEndpoint, challenge: Challenge, refused: str | None, fetch: Fetch
    ) -> str | None:
        key = _key(challenge)
        now = self._clock.monotonic()
        with self._lock:
            token = self._tokens.get(key)
            if token and now < token.use_until and token.authorization != refused:
                return token.authorization
        realm, path = self._realm(self._mirrored or endpoint, challenge)
        answer = fetch(realm, path, self._basic)
        if answer.status != 200:
            if answer.status < 500 and answer.status != 429:
                return None  # it does not know us: the 401 of the endpoint is the answer
            raise ExchangeFailedError(f"the token server {realm} answered {answer.status}")
        text, lifetime_s = _parse(realm, answer.body)
        token = _Token(f"Bearer {text}", now + lifetime_s * _USED_PART)
        with self._lock:
            _remember(self._tokens, key, token)
        return token.authorization

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
        if self._basic and not self._may_have_credentials(realm.host, endpoint.target.host):
            raise ExchangeFailedError(
                f"{endpoint} asks for a token from {realm}, which is not in its domain, so the configured credentials"
                f" are not sent there; if it is right, name {realm.host} in token_hosts",
                lasting=True,
            )
        wanted = [("service", challenge.parameters["service"])] if "service" in challenge.parameters else []
        wanted += [("scope", scope) for scope in challenge.parameters.get("scope", "").split()]
        query = "&".join(part for part in (url.query, urlencode(wanted)) if part)
        return realm, wire_path(url.path or "/") + (f"?{wire_path(query)}" if query else "")

    def _may_have_credentials(self, realm: str, host: str) -> bool:
        return realm == host or realm in self._upstream.token_hosts or _domain(realm) == _domain(host)


def _key(challenge: Challenge) -> tuple[str, str, str]:
    found = challenge.parameters
    return found.get("realm", ""), found.get("service", ""), found.get("scope", "")


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
        text = found.get("token") or found.get("access_token")
        lifetime_s = found.get("expires_in")
    except (ValueError, AttributeError, RecursionError):
        text = lifetime_s = None
    if not isinstance(text, str) or not _TOKEN.fullmatch(text):
        raise ExchangeFailedError(f"the token server {realm} answered with no token that could be used")
    if isinstance(lifetime_s, bool) or not isinstance(lifetime_s, int | float) or not lifetime_s > 0:
        lifetime_s = _DEFAULT_LIFETIME_S
    return text, float(min(lifetime_s, _LONGEST_LIFETIME_S))


def _remember(known: dict[_K, _V], key: _K, value: _V) -> None:
    """Append the value, and drop the oldest if there are too many."""
    known.pop(key, None)
    known[key] = value
    if len(known) > _MOST_REMEMBERED:
        del known[next(iter(known))]
