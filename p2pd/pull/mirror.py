"""The mirror as an origin: requests have `?ns=` like those of container runtimes, and the user's credentials.

The time limits are long, as a client's: a mirror sends nothing while it fetches a large first piece from far away.
"""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Final

from p2pd.config.values import Address
from peer.errors import P2pdError
from peer.origin.client import HttpOrigin
from peer.origin.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pd.pull.docker_config import Login
    from peer.oci.reference import UpstreamName
    from peer.origin.clock import Clock

MAX_ATTEMPTS: Final = 5
"""dockerd's `max-download-attempts`."""

_CONNECT_S: Final = 10.0
_STALL_S: Final = 120.0
_MOST_SHOWN: Final = 200
"""Characters of an error's text."""


class PullError(P2pdError):
    """The image could not be pulled, or not be written."""


def mirror_of(
    upstream: UpstreamName,
    mirror: Address,
    *,
    login: Login | None,
    token_hosts: Sequence[str] = (),
    max_connections: int,
    clock: Clock,
) -> HttpOrigin:
    """`upstream` through `mirror`, as the user of `login` or anonymously. Raises PullError for an unusable argument."""
    # A registry on this machine may speak plain http, as docker too allows.
    scheme = "http" if Address(upstream.partition(":")[0], 0).is_loopback else "https"
    try:
        settings = Upstream(
            upstream,
            (f"http://{mirror}",),
            username=login.username if login else None,
            password=login.password if login else None,
            token_hosts=tuple(token_hosts),
            mirrored=f"{scheme}://{upstream}",
            max_connections=max_connections,
            connect_s=_CONNECT_S,
            stall_s=_STALL_S,
            metadata_s=_STALL_S,
            max_attempts=MAX_ATTEMPTS,
            metadata_attempts=1,  # the mirror has tried the registry several times before it answers 5xx
            default_retry_after_s=0.0,
        )
        return HttpOrigin(settings, headers={"user-agent": "p2pd-pull"}, clock=clock)
    except ValueError as error:
        raise PullError(str(error)) from None


def refusal(where: str, status: int, body: bytes, advice: str = "") -> PullError:
    """The error for a status that is no success, with the message of the distribution API's error in `body`, if any.

    `advice` is for a client that may not have what it asked for.
    """
    try:
        error = json.loads(body)["errors"][0]
        told = error.get("message") or error["code"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        told = None
    words = ascii(told[:_MOST_SHOWN])[1:-1] if isinstance(told, str) else http.client.responses.get(status, "")
    behind = f"; {advice}" if advice and status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN) else ""
    return PullError(f"{where}: {status} {words}".rstrip() + behind)
