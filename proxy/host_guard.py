"""The guard against DNS rebinding, on the mirror's port and on the admin ports: a request for another host is refused.

`proxy.core.host_header` has the attack, and says which Host headers are ours.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
from aiohttp import web

from proxy.core.host_header import NOT_FOR_US, is_for_us

log = structlog.get_logger("proxy.host_guard")

MISDIRECTED = 421
"""RFC 9110, section 15.5.20."""

TOLD_EVERY_S: Final = 10.0
"""A foreign page may send requests all day."""

R = TypeVar("R", bound=web.BaseRequest)


class _Told:
    """How often the log has been told of it."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._left_out = 0

    def tell(self, request: web.BaseRequest) -> None:
        now, text = time.monotonic(), "refused a request for another host"
        if now < self._next_s:
            self._left_out += 1
            log.debug(text, peer=request.remote, path=request.path)
            return
        log.warning(text, peer=request.remote, path=request.path, lines_left_out=self._left_out)
        self._next_s, self._left_out = now + TOLD_EVERY_S, 0


_told: Final = _Told()


def guarded(
    request: R,
    handler: Callable[[R], Awaitable[web.StreamResponse]],
    names: frozenset[str] | None,
    refuse: Callable[[int, str], web.StreamResponse],
) -> Awaitable[web.StreamResponse]:
    """Answer with `handler`. If the Host header names another host, answer with `refuse(status, reason)` instead.

    `names` are the names of the port, in lower case; None accepts every name.
    """
    if names is None or is_for_us(request.headers.getall("Host", ()), names):
        return handler(request)
    _told.tell(request)
    return _refused(refuse)


async def _refused(refuse: Callable[[int, str], web.StreamResponse]) -> web.StreamResponse:
    return refuse(MISDIRECTED, NOT_FOR_US)
