"""Following redirects: a registry often redirects a request for a blob to a storage service, by a signed URL.

Rules:
1. The Authorization header goes to the first target only: not to another scheme, host or port, and not back to the
   first target after another.
2. Of the other headers, only those that describe the request are sent on.
3. A redirect from https to http is followed for content that its digest proves only. Go's client follows all.
4. The path and the query of a redirect are secret, as they are the signed URL: no message has them.
5. Where a redirect may lead to is judged by the address there (`peer.origin.address_policy`).
6. A challenge of another target is removed from the answer: a client would answer it with its credentials for the first
   target.
7. An answer of another target, or of the first one outside of the registry's API, is marked as redirected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from peer.origin.address_policy import Lead
from peer.origin.http1 import ExchangeFailedError, Reply
from peer.origin.upstream import Target, wire_path

if TYPE_CHECKING:
    from peer.origin.cancel import CancelScope
    from peer.origin.connections import Connections

_STATUSES = frozenset({301, 302, 303, 307, 308})
MOST = 10
"""The most redirects of one request, as of Go's client. Registries need 1 or 2."""

_BY_DIGEST = re.compile(r"/(?:blobs|manifests)/sha256:[0-9a-f]{64}(?:\?|\Z)")

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
    lead: Lead | None = None,
) -> Reply:
    """The reply to `method` (GET or HEAD) at `home`, or at the end of its redirects. Raises ExchangeFailedError.

    The names of `headers` are lower case. `lead` is whoever named `home`, if it is not the upstream's own.
    """
    target, sent, proven = home, dict(headers), _BY_DIGEST.search(path) is not None
    api = f"{path.partition('/v2/')[0]}/v2/"
    if authorization is not None:
        sent["authorization"] = authorization
    for hops in range(MOST + 1):
        reply = connections.exchange(cancel_scope, target, method, path, sent, deadline, lead)
        location = reply.headers.get("location")
        if reply.status not in _STATUSES or location is None:
            if target != home:
                reply.drop_challenges()
            reply.redirected = hops > 0 and not (target == home and path.startswith(api))
            return reply
        reply.answer()  # the few bytes of its body are read so that the connection can be kept
        lead = Lead(reply.address) if lead is None else lead.joined(reply.address)
        last = target
        target, path = _next(last, path, location)
        if last.scheme == "https" and target.scheme == "http" and not proven:
            raise ExchangeFailedError(f"{last} redirects to plain http at {target.host}: refused", lasting=True)
        if target != home:
            sent = {name: value for name, value in headers.items() if name in _TRAVELLING}
    raise ExchangeFailedError(f"{home} redirects more than {MOST} times", lasting=True)


def _next(here: Target, path: str, location: str) -> tuple[Target, str]:
    """The target and the path of `location`, which is relative to `path` at `here`.

    Headers are read as latin-1. What is not ASCII in an address is UTF-8 (RFC 3987), or bytes to send back unchanged.
    """
    location = location.encode("latin-1").decode("utf-8", "surrogateescape")
    try:
        url = urlsplit(urljoin(f"{here}{path}", location))
        target = Target.of(url)
    except ValueError:
        raise ExchangeFailedError(f"{here} redirects to what is no http or https address", lasting=True) from None
    query = f"?{url.query}" if url.query else ""
    return target, wire_path(f"{url.path or '/'}{query}")
