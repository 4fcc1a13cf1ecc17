"""The guard against DNS rebinding, on the mirror's port and on the admin ports: a request for another host is refused.

`proxy.core.host_header` has the attack, and says which Host headers are ours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from aiohttp import web

from proxy.core.host_header import NOT_FOR_US, is_for_us

log = structlog.get_logger("proxy.host_guard")

MISDIRECTED = 421
"""RFC 9110, section 15.5.20."""

R = TypeVar("R", bound=web.BaseRequest)


async def guarded(
    request: R,
    handler: Callable[[R], Awaitable[web.StreamResponse]],
    names: frozenset[str] | None,
    refuse: Callable[[int, str], web.StreamResponse],
) -> web.StreamResponse:
    """Answer with `handler`. If the Host header names another host, answer with `refuse(status, reason)` instead.

    `names` are the names of the port, in lower case; None accepts every name.
    """
    if names is None or is_for_us(request.headers.getall("Host", ()), names):
        return await handler(request)
    log.warning("refused a request for another host", peer=request.remote, path=request.path)
    return refuse(MISDIRECTED, NOT_FOR_US)
