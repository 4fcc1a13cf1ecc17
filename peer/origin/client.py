"""An origin over HTTP(S): the distribution API of a registry, with its replicas, redirects, tokens and failures.

The parts, from the outside in: `HttpOrigin` makes requests and checks answers; `retry` tries endpoints until one
answers; `tokens` answers challenges; `redirects` follows redirects; `connections` and `http1` carry one exchange.
"""

from __future__ import annotations

import os
import random as random_numbers
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlencode

from peer.errors import OriginCorruptError, OriginRefusedError
from peer.oci.manifest import ANY_MANIFEST
from peer.origin import redirects
from peer.origin.api import Answer, ContentRef, Credential, Kind
from peer.origin.body import HttpBody, Opened
from peer.origin.cancel import CancelScope, CancelScopes
from peer.origin.clock import Clock, SystemClock
from peer.origin.connections import Connections
from peer.origin.headers import content_range
from peer.origin.proxies import Proxies
from peer.origin.rates import OriginStatistics, Traffic
from peer.origin.retry import Attempts
from peer.origin.tokens import Tokens

if TYPE_CHECKING:
    from peer.origin.http1 import Reply
    from peer.origin.upstream import Target, Upstream, UpstreamEndpoint

# A content-encoded blob has neither the length nor the digest that its name promises.
_ALWAYS_SENT = {"accept-encoding": "identity", "user-agent": "p2pd"}

_KEPT = ("WWW-Authenticate", "Retry-After", "Content-Range")
"""The headers of a refusal that are kept: those for clients, and the length in a 416."""


class HttpOrigin:
    """`peer.origin.api.Origin` over HTTP.

    `environ` has the variables of proxies. `headers` go with every request. `random` gives numbers in [0, 1). Raises
    ValueError for an upstream, a CA file or a proxy that cannot be used.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        environ: Mapping[str, str] = os.environ,
        headers: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] = random_numbers.random,
    ) -> None:
        self._upstream = upstream
        self._query = urlencode({"ns": upstream.name}) if upstream.mirrored else ""
        self._always_sent = _ALWAYS_SENT | dict(headers or {})
        self._clock = clock or SystemClock()
        self._traffic = Traffic(upstream.rate_bytes_per_s, self._clock)
        self._connections = Connections(upstream, Proxies(environ), self._traffic, self._clock)
        self._cancel_scopes = CancelScopes(upstream.name, upstream.max_connections, self._clock)
        self._tokens = Tokens(upstream, self._clock)
        self._attempts = Attempts(upstream, self._traffic, self._clock, random)

    def request(
        self,
        method: Literal["GET", "HEAD"],
        path: str,
        *,
        credential: Credential,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """See `peer.origin.api.Origin.request`. OriginCorruptError for an answer that is too large, or encoded."""
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        sent.pop("authorization", None)  # that is what `credential` is for
        sent |= self._always_sent
        began = self._clock.monotonic()
        cancel_scope = self._cancel_scopes.begin(for_body=False, patience_s=self._upstream.metadata_s)
        try:
            return self._attempts.run(
                cancel_scope,
                lambda endpoint, deadline: self._ask(cancel_scope, endpoint, method, path, sent, credential, deadline),
                self._whole,
                began + self._upstream.metadata_s,
                self._upstream.metadata_attempts,
            )
        finally:
            self._cancel_scopes.finish(cancel_scope)

    def open(self, ref: ContentRef, start: int, stop: int | None, *, credential: Credential) -> HttpBody:
        """See `peer.origin.api.Origin.open`."""
        if start < 0 or (stop is not None and stop <= start):
            raise ValueError(f"[{start}, {stop}) is not a range of bytes")

        def reopen(start: int, stop: int | None) -> Opened:
            return self._open_range(cancel_scope, ref, start, stop, credential)

        cancel_scope = self._cancel_scopes.begin(for_body=True, patience_s=self._upstream.slot_wait_s)
        try:
            return HttpBody(
                self._name(ref),
                reopen(start, stop),
                cancel_scope,
                self._attempts,
                self._traffic,
                self._upstream.max_attempts,
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

    def statistics(self) -> OriginStatistics:
        """The counters so far."""
        return self._traffic.statistics(self._connections.open_count)

    def _open_range(
        self, cancel_scope: CancelScope, ref: ContentRef, start: int, stop: int | None, credential: Credential
    ) -> Opened:
        path = f"{ref.repository}/{ref.kind.value}/{ref.digest}"
        headers = dict(self._always_sent)
        if ref.kind is Kind.MANIFEST:
            headers["accept"] = ANY_MANIFEST
        if start or stop is not None:
            headers["range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        outcome = self._attempts.run(
            cancel_scope,
            lambda endpoint, deadline: self._ask(cancel_scope, endpoint, "GET", path, headers, credential, deadline),
            lambda endpoint, reply: self._opened(ref, endpoint, reply, start, stop),
            self._clock.monotonic() + self._upstream.stall_s,
            last_until=self._clock.monotonic() + self._upstream.first_byte_s,
        )
        if isinstance(outcome, Opened):
            return outcome
        raise OriginRefusedError(
            f"{self._name(ref)} was refused with status {outcome.status}",
            status=outcome.status,
            headers={name: outcome.headers[name.lower()] for name in _KEPT if name.lower() in outcome.headers},
            body=outcome.body,
        )

    def _opened(
        self, ref: ContentRef, endpoint: UpstreamEndpoint, reply: Reply, start: int, stop: int | None
    ) -> Opened:
        """The good reply as a body. Raises OriginCorruptError if it is not the range that was asked for."""

        def corrupt(what: str) -> OriginCorruptError:
            return OriginCorruptError(f"{self._name(ref)} is not usable from {reply.target}: {what}")

        self._refuse_encoded(reply)
        if reply.length is None:
            raise corrupt("the answer does not tell its length")
        media_type = reply.headers.get("content-type", "")
        if reply.status == 200:
            opened = Opened(reply, endpoint, 0, reply.length, reply.length, media_type)
        elif reply.status == 206:
            told = reply.headers.get("content-range", "")
            found = content_range(told)
            if found is None:
                raise corrupt(f"the Content-Range {told!r} does not tell a range and the whole length")
            most = found.size_bytes if stop is None else min(stop, found.size_bytes)
            if found.start != start or found.stop > most or found.stop - found.start != reply.length:
                raise corrupt(f"bytes [{start}, {most}) were asked for, {reply.length} bytes came as {told!r}")
            opened = Opened(reply, endpoint, start, most, found.size_bytes, media_type)
        else:
            raise corrupt(f"the status is {reply.status}")
        reply.stream()
        return opened

    def _whole(self, _endpoint: UpstreamEndpoint, reply: Reply) -> Answer:
        self._refuse_encoded(reply)
        return reply.answer()

    def _refuse_encoded(self, reply: Reply) -> None:
        encoding = reply.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise OriginCorruptError(
                f"upstream {self._upstream.name}: {reply.target} answers in the encoding {encoding!r} though"
                " identity was asked for; something on the way compresses what it must not touch"
            )

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
        """One attempt at one endpoint. A challenge is answered if the credential is our own."""

        def exchange(target: Target, method: str, path: str, authorization: str | None) -> Reply:
            return redirects.exchange(
                self._connections, cancel_scope, target, method, path, headers, authorization, deadline
            )

        def fetch(realm: Target, path: str, authorization: str | None) -> Answer:
            return exchange(realm, "GET", path, authorization).answer()

        # The repository is the path without its last two components: <name>/blobs/<digest>, <name>/tags/list.
        repository = path.partition("?")[0].rsplit("/", 2)[0]
        asked = endpoint.path(path) + (("&" if "?" in path else "?") + self._query if self._query else "")
        shown = credential.authorization
        if shown is None and credential.own:
            shown = self._tokens.remembered(endpoint, repository)
        reply = exchange(endpoint.target, method, asked, shown)
        challenge = reply.headers.get("www-authenticate")
        if reply.status != 401 or challenge is None or not credential.own:
            return reply
        reply.answer()  # read it whole: a client gets it if we have no answer
        authorization = self._tokens.answer(endpoint, repository, challenge, shown, fetch)
        if authorization is None:
            return reply
        return exchange(endpoint.target, method, asked, authorization)

    def _name(self, ref: ContentRef) -> str:
        return f"upstream {self._upstream.name}: {ref.digest} of {ref.repository}"
