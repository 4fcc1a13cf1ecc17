"""An origin over HTTP(S): the distribution API of a registry, with its replicas, redirects, tokens and failures.

The parts, from the outside in: `HttpOrigin` makes requests and checks answers; `retry` tries endpoints until one
answers; `tokens` answers challenges; `redirects` follows redirects; `connections` and `http1` carry one exchange.
"""

from __future__ import annotations

import contextlib
import os
import random as random_numbers
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from msgspec.structs import replace

from peer import tracing
from peer.errors import OriginRefusedError, OriginUnreachableError, OriginUnusableError
from peer.oci.manifest import ANY_MANIFEST
from peer.origin import opening, redirects
from peer.origin.address_policy import Lead
from peer.origin.api import Answer, ContentRef, Credential, Kind
from peer.origin.body import HttpBody, Opened
from peer.origin.cancel import CancelScope, CancelScopes
from peer.origin.clock import Clock, SystemClock
from peer.origin.connections import Connections
from peer.origin.dialing import Resolve, resolve
from peer.origin.headers import content_length, content_range, is_web_page
from peer.origin.http1 import ExchangeFailedError, Reply, unusable
from peer.origin.opening import LengthUnknown
from peer.origin.proxies import Proxies
from peer.origin.rates import OriginStatistics, Traffic
from peer.origin.retry import Attempts
from peer.origin.tokens import Tokens

if TYPE_CHECKING:
    from peer.origin.upstream import Target, Upstream, UpstreamEndpoint

# A blob in a content coding has neither the length nor the digest that its name promises.
_ALWAYS_SENT = {"accept-encoding": "identity", "user-agent": "p2pd"}

_KEPT = ("WWW-Authenticate", "Retry-After", "Content-Range")
"""The headers of a refusal that are kept: those for clients, and the length in a 416."""

_MOST_TURNS = 4
"""Requests of one attempt: without a credential, with one, and both again with a password that has changed."""

_WITHOUT_RANGE_S = 60.0
"""How long an endpoint is not asked for ranges after it gave an answer to one that could not be used."""


class HttpOrigin:
    """`peer.origin.api.Origin` over HTTP.

    `environ` has the variables of proxies. `headers` go with every request. `random` gives numbers in [0, 1),
    `resolve` the addresses of a host. It counts on from the origin `before`, whose place it takes by `take_over`.
    Raises ValueError for an upstream, a CA file or a proxy that cannot be used.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        environ: Mapping[str, str] = os.environ,
        headers: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] = random_numbers.random,
        resolve: Resolve = resolve,
        before: HttpOrigin | None = None,
    ) -> None:
        self.upstream = upstream
        self._query = urlencode({"ns": upstream.name}) if upstream.mirrored else ""
        self._always_sent = _ALWAYS_SENT | dict(headers or {})
        self._clock = clock or SystemClock()
        traffic = None if before is None else before.traffic
        self.traffic: Traffic = traffic or Traffic(upstream.rate_bytes_per_s, self._clock)
        self._connections = Connections(upstream, Proxies(environ), self.traffic, self._clock, resolve)
        self._cancel_scopes = CancelScopes(upstream.name, upstream.max_connections, self._clock)
        self._tokens = Tokens(upstream, self._clock)
        self._attempts = Attempts(upstream, self.traffic, self._clock, random)
        self._without_range_until: dict[UpstreamEndpoint, float] = {}

    def request(
        self,
        method: Literal["GET", "HEAD"],
        path: str,
        *,
        credential: Credential,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """See `peer.origin.api.Origin.request`. OriginUnusableError for an answer that is too large."""
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        sent.pop("authorization", None)  # that is what `credential` is for
        sent |= self._always_sent
        began = self._clock.monotonic()
        cancel_scope = self._cancel_scopes.begin(for_body=False, patience_s=self.upstream.metadata_s)
        try:
            return self._attempts.run(
                cancel_scope,
                lambda endpoint, deadline: self._ask(cancel_scope, endpoint, method, path, sent, credential, deadline),
                lambda _, reply: _small(method, path, reply),
                began + self.upstream.metadata_s,
                self.upstream.metadata_attempts,
            )
        finally:
            self._cancel_scopes.finish(cancel_scope)

    def open(self, ref: ContentRef, start: int, stop: int | None, *, credential: Credential) -> HttpBody:
        """See `peer.origin.api.Origin.open`."""
        if start < 0 or (stop is not None and stop <= start):
            raise ValueError(f"[{start}, {stop}) is not a range of bytes")

        def reopen(start: int, stop: int | None) -> Opened:
            known = replace(ref, size_bytes=opened.size_bytes)
            return self._open_range(cancel_scope, known, start, stop, credential)

        cancel_scope = self._cancel_scopes.begin(for_body=True, patience_s=self.upstream.slot_wait_s)
        try:
            opened = self._open_range(cancel_scope, ref, start, stop, credential)
            return HttpBody(
                self._name(ref),
                opened,
                cancel_scope,
                self._attempts,
                self.traffic,
                self.upstream.max_attempts,
                reopen,
                self._cancel_scopes.finish,
            )
        except BaseException:
            self._cancel_scopes.finish(cancel_scope)
            raise

    def close(self) -> None:
        """See `peer.origin.api.Origin.close`. Bodies that are open are aborted."""
        self._cancel_scopes.close()
        self._connections.close()

    def take_over(self) -> None:
        """Its rate is that of the origin before it too, which has transfers under way."""
        self.traffic.set_rate(self.upstream.rate_bytes_per_s)

    def retire(self) -> None:
        """Close idle connections, now and from now on. Whatever is under way goes on."""
        self._connections.close()

    def statistics(self) -> OriginStatistics:
        """The counters so far."""
        return self.traffic.statistics(self._connections.open_count)

    def _open_range(
        self, cancel_scope: CancelScope, ref: ContentRef, start: int, stop: int | None, credential: Credential
    ) -> Opened:
        found = self._get(cancel_scope, ref, start, stop, credential)
        if isinstance(found, Opened):
            return found
        size_bytes = self._length(cancel_scope, ref, credential)
        found = self._get(cancel_scope, replace(ref, size_bytes=size_bytes), start, stop, credential)
        assert isinstance(found, Opened)  # the length is known
        return found

    def _get(
        self, cancel_scope: CancelScope, ref: ContentRef, start: int, stop: int | None, credential: Credential
    ) -> Opened | LengthUnknown:
        path, plain = _path(ref), self._headers(ref)
        ranged = plain | {"range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        wants_range = start > 0 or (stop is not None and (ref.size_bytes is None or stop < ref.size_bytes))
        is_ranged = False

        def ask(endpoint: UpstreamEndpoint, deadline: float) -> Reply:
            nonlocal is_ranged
            is_ranged = wants_range and self._without_range_until.get(endpoint, 0.0) <= self._clock.monotonic()
            if not is_ranged:
                return self._ask(cancel_scope, endpoint, "GET", path, plain, credential, deadline)
            reply = self._ask(cancel_scope, endpoint, "GET", path, ranged, credential, deadline)
            if opening.is_usable_range(reply, ref, start, stop):
                return reply
            _discard(reply)
            is_ranged, is_coded = False, "content-encoding" in reply.headers
            reply = self._ask(cancel_scope, endpoint, "GET", path, plain, credential, deadline)
            if reply.status < 300 and not is_coded:  # the whole of a coded blob is asked for, not of others
                self._without_range_until[endpoint] = self._clock.monotonic() + _WITHOUT_RANGE_S
            return reply

        outcome = self._attempts.run(
            cancel_scope,
            ask,
            lambda endpoint, reply: opening.open_range(ref, endpoint, reply, start, stop, ranged=is_ranged),
            self._clock.monotonic() + self.upstream.stall_s,
            last_until=self._clock.monotonic() + self.upstream.first_byte_s,
        )
        if isinstance(outcome, Answer):
            raise self._refused(ref, outcome)
        return outcome

    def _length(self, cancel_scope: CancelScope, ref: ContentRef, credential: Credential) -> int:
        """The length of content whose answer to GET does not tell it. Raises OriginUnusableError."""
        ways: tuple[tuple[str, dict[str, str]], ...] = (("HEAD", {}), ("GET", {"range": "bytes=0-0"}))
        for method, more in ways:

            def ask(endpoint: UpstreamEndpoint, deadline: float, method: str = method, more: Any = more) -> Reply:
                headers = self._headers(ref) | more
                return self._ask(cancel_scope, endpoint, method, _path(ref), headers, credential, deadline)

            deadline = self._clock.monotonic() + self.upstream.stall_s
            with contextlib.suppress(OriginUnreachableError, OriginUnusableError):
                found = self._attempts.run(cancel_scope, ask, lambda _, reply: _told_length(reply), deadline, 1)
                if isinstance(found, int):
                    return found
            cancel_scope.check()
        raise OriginUnusableError(
            f"{self._name(ref)}: the answer does not tell its length, and neither does the answer to HEAD or to a range"
        )

    def _refused(self, ref: ContentRef, answer: Answer) -> OriginRefusedError:
        return OriginRefusedError(
            f"{self._name(ref)} was refused with status {answer.status}",
            status=answer.status,
            headers={name: answer.headers[name.lower()] for name in _KEPT if name.lower() in answer.headers},
            body=answer.body,
            challenges=answer.challenges,
            redirected=answer.redirected,
        )

    def _headers(self, ref: ContentRef) -> dict[str, str]:
        return self._always_sent | ({"accept": ANY_MANIFEST} if ref.kind is Kind.MANIFEST else {})

    def _ask(
        self,
        cancel_scope: CancelScope,
        endpoint: UpstreamEndpoint,
        method: str,
        path: str,
        headers: Mapping[str, str],
        credential: Credential,
        deadline: float,
    ) -> Reply:
        """One attempt at one endpoint. A challenge is answered if the credential is our own.

        It is answered once, and once more if the password has changed meanwhile.
        """

        context = tracing.outgoing.get() if self.upstream.traced else ""
        sent = {**headers, tracing.HEADER: context} if context else headers

        def exchange(
            target: Target, method: str, path: str, authorization: str | None, lead: Lead | None = None
        ) -> Reply:
            return redirects.exchange(
                self._connections,
                cancel_scope,
                target,
                method,
                path,
                headers if lead is not None else sent,
                authorization,
                deadline,
                lead,
            )

        def fetch(realm: Target, path: str, authorization: str | None, form: bytes | None) -> Answer:
            lead = Lead(reply.address)
            if form is None:
                return exchange(realm, "GET", path, authorization, lead).answer()
            posted = self._always_sent | {"content-type": "application/x-www-form-urlencoded"}
            # Without its redirects: the form has the password.
            return self._connections.exchange(cancel_scope, realm, "POST", path, posted, deadline, lead, form).answer()

        # The repository is the path without its last two components: <name>/blobs/<digest>, <name>/tags/list.
        repository = endpoint.repository(path.partition("?")[0].rsplit("/", 2)[0])
        asked = endpoint.path(path) + (("&" if "?" in path else "?") + self._query if self._query else "")
        shown = credential.authorization
        if shown is None and credential.own:
            shown = self._tokens.remembered(endpoint, repository)
        answered = False
        for _ in range(_MOST_TURNS):
            reply = exchange(endpoint.target, method, asked, shown)
            if not credential.own or reply.status not in (401, 403) or reply.target != endpoint.target:
                return reply
            if shown is not None and self._tokens.look():
                answered = False
            if reply.status == 403:
                found = self._tokens.remembered(endpoint, repository)
                if shown is None or found == shown:
                    break
                reply.answer()
            else:
                challenges = reply.challenges or ("Basic",)  # some registries do not say which scheme they want
                if answered:
                    break
                reply.answer()  # read it whole: a client gets it if we have no answer
                found = self._tokens.answer(endpoint, repository, challenges, shown, fetch)
                if found is None:
                    break
                answered = True
            shown = found
        self._count_refusal()
        return reply

    def _count_refusal(self) -> None:
        if self.upstream.username is not None:  # else there is no right to be let in
            self.traffic.refused_us()

    def _name(self, ref: ContentRef) -> str:
        return f"upstream {self.upstream.name}: {ref.digest} of {ref.repository}"


def _small(method: str, path: str, reply: Reply) -> Answer:
    """The reply as a small answer. A web page is none: another endpoint may have one. Raises ExchangeFailedError.

    Frameworks say of any answer to HEAD that it is a web page, so that is the answer if no endpoint has a better one.
    """
    answer = reply.answer()
    is_useless = path and answer.status == 200 and is_web_page(answer.headers)
    if is_useless and not answer.body.lstrip().startswith((b"{", b"[")):
        message = f"{reply.target} answers with a web page where {path} was asked for; is its address right?"
        if method == "HEAD" and "docker-content-digest" in answer.headers:
            return answer
        if method == "HEAD":
            raise ExchangeFailedError(message, lasting=True, answer=answer)
        raise unusable(message)
    return answer


def _path(ref: ContentRef) -> str:
    return f"{ref.repository}/{ref.kind.value}/{ref.digest}{f'?{ref.query}' if ref.query else ''}"


def _told_length(reply: Reply) -> int | LengthUnknown:
    """The whole length by the headers of an answer to HEAD, or to a range."""
    told = reply.headers
    reply.close()
    size_bytes = None
    if reply.status == 206:
        found = content_range(told.get("content-range", ""))
        size_bytes = found.size_bytes if found else None
    elif reply.status == 200:
        size_bytes = content_length(told.get("content-length", ""))
    return LengthUnknown() if size_bytes is None or "content-encoding" in told else size_bytes


def _discard(reply: Reply) -> None:
    """Make the connection free for another request."""
    if reply.status >= 400:
        with contextlib.suppress(ExchangeFailedError):
            reply.answer()
    reply.close()
