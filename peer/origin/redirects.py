"""Following redirects: a registry often sends a blob's reader on to a storage service, with a signed URL.

Rules:
1. What authorises at home goes nowhere else: not to another scheme, host or port, nor back home after a detour.
2. Of the other fields only those that say what is wanted travel.
3. From https nothing leads to http.
4. A redirect's path and query are secrets (they are what a signed URL consists of): no message has them.
5. A challenge from elsewhere is taken out of the answer: whoever it is relayed to would answer it with credentials
   that were meant for home.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from peer.origin.http1 import ExchangeFailedError, Reply
from peer.origin.upstream import Target, wire_path

if TYPE_CHECKING:
    from peer.origin.cancel import CancelScope
    from peer.origin.connections import Connections

_STATUSES = frozenset({301, 302, 303, 307, 308})
_MOST = 5
"""Redirects of one request; Go's and curl's bounds are 10 and 50, registries need 1 or 2."""

_TRAVELLING = frozenset({"accept", "accept-encoding", "if-none-match", "range", "user-agent"})


def exchange(
    connections: Connections,
    cancel_scope: CancelScope,
    home: Target,
    method: str,
    path: str,
    headers: Mapping[str, str],
    authorization: str | None,
    deadline: float,
) -> Reply:
    """The reply to `method` (GET or HEAD) at `home`, or where that leads to. Raises ExchangeFailedError.

    The names of `headers` are lower case.
    """
    target, sent = home, dict(headers)
    if authorization is not None:
        sent["authorization"] = authorization
    for _ in range(_MOST + 1):
        reply = connections.exchange(cancel_scope, target, method, path, sent, deadline)
        location = reply.headers.get("location")
        if reply.status not in _STATUSES or location is None:
            if target != home:
                reply.headers.pop("www-authenticate", None)
            return reply
        reply.answer()  # its few bytes are read so that the connection can be used again
        last = target
        target, path = _next(last, path, location)
        if target != home:
            sent = {name: value for name, value in headers.items() if name in _TRAVELLING}
    raise ExchangeFailedError(f"{home} redirects more than {_MOST} times", lasting=True)


def _next(here: Target, path: str, location: str) -> tuple[Target, str]:
    """Where `location` leads to from `path` at `here`."""
    try:
        url = urlsplit(urljoin(f"{here}{path}", location))
        target = Target.of(url)
    except ValueError:
        raise ExchangeFailedError(f"{here} redirects to what is no http or https address", lasting=True) from None
    if here.scheme == "https" and target.scheme == "http":
        raise ExchangeFailedError(f"{here} redirects to plain http at {target.host}: refused", lasting=True)
    query = f"?{url.query}" if url.query else ""
    return target, wire_path(f"{url.path or '/'}{query}")
