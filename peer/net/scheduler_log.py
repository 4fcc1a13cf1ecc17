"""What the log says of the scheduler: that it went, why, and that it is back; not each attempt to reach it.

1. An outage has one line when it begins, one more for each further cause (at most `MAX_CAUSES`), and one when it ends,
   with its length and the number of attempts.
2. A connection that comes and goes all the time has at most `MAX_LINES` lines in `WINDOW_S`. The next line says how
   many were left out. What is left out is logged at the level `debug`.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import deque
from typing import Any, Final

import aiohttp
import structlog
from msgspec import Struct

from scheduler.protocol.connection import Closing

log = structlog.get_logger("peer.net.scheduler_client")

MAX_CAUSES: Final = 8
MAX_LINES: Final = 6
WINDOW_S: Final = 60.0


class SchedulerTrouble(Struct, frozen=True):
    """The latest failure to reach, or to keep, a scheduler. `at` is by the running loop's clock."""

    url: str
    cause: str
    at: float


class SchedulerLog:
    """The state of the log. Times are those of the running loop's clock."""

    def __init__(self) -> None:
        self._out_since: float | None = None
        self._attempts = 0
        self._causes: set[str] = set()
        self._lines: deque[float] = deque(maxlen=MAX_LINES)
        self._left_out = 0
        self.trouble: SchedulerTrouble | None = None
        """The latest, which stays after the scheduler is back."""

    @property
    def out_since(self) -> float | None:
        """When the outage began; None while there is a scheduler, and before the first attempt."""
        return self._out_since

    def failed(self, url: str, cause: str, event: str = "no scheduler") -> None:
        """An attempt to connect has failed."""
        if self._out_since is None:
            self._out_since = _now()
        self._attempts += 1
        self.trouble = SchedulerTrouble(url, cause, _now())
        if cause in self._causes or len(self._causes) >= MAX_CAUSES:
            log.debug(event, url=url, reason=cause, attempt=self._attempts)
            return
        self._causes.add(cause)
        self._tell("warning", event, url=url, reason=cause)

    def found(self, url: str) -> None:
        """The scheduler has let this host in."""
        now, since = _now(), self._out_since
        told = {} if since is None else {"after_s": round(now - since, 1), "attempts": self._attempts + 1}
        self._out_since, self._attempts = None, 0
        self._causes.clear()
        self._tell("info", "connected to a scheduler", url=url, **told)

    def lost(self, url: str, cause: str) -> None:
        """The connection has ended."""
        self._out_since = _now()
        self.trouble = SchedulerTrouble(url, cause, self._out_since)
        self._tell("warning", "lost the scheduler", url=url, reason=cause)

    def _tell(self, level: str, event: str, **more: Any) -> None:
        now = _now()
        if len(self._lines) == MAX_LINES and now - self._lines[0] < WINDOW_S:
            self._left_out += 1
            log.debug(event, **more)
            return
        self._lines.append(now)
        if self._left_out:
            more["lines_left_out"], self._left_out = self._left_out, 0
        getattr(log, level)(event, **more)


def cause_of(error: BaseException, within_s: float) -> str:
    """A failure to reach a scheduler within `within_s`, in words that are the same at each attempt."""
    match error:
        case aiohttp.WSServerHandshakeError():
            return f"HTTP {error.status}: no scheduler of p2pd answers there"
        case aiohttp.ClientConnectorDNSError():
            return f"the name {error.host} cannot be resolved"
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return "connection refused: nothing listens there"
        case TimeoutError():
            return f"no answer within {within_s:g} s"
        case _:
            return str(error) or type(error).__name__


def cause_of_close(code: int | None, reason: str) -> str:
    """The scheduler's reason to end a connection: the name of the code, and the text."""
    if code is None or code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE:
        return "the connection broke"
    try:
        name = Closing(code).name
    except ValueError:
        name = f"code {code}"
    return f"{name}: {reason}" if reason else name


def is_elsewhere(advertised: str, seen_at: str) -> bool:
    """Whether a scheduler sees a host at another IP address than the one in `advertised` (HOST:PORT).

    That is so behind NAT, and for hosts with several addresses. A name, or a scheduler on this machine, says nothing.
    """
    try:
        told = ipaddress.ip_address(advertised.rpartition(":")[0].strip("[]"))
        seen = ipaddress.ip_address(seen_at)
    except ValueError:
        return False
    return told != seen and not seen.is_loopback


def _now() -> float:
    return asyncio.get_running_loop().time()
