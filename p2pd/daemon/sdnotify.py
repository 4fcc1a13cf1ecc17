"""Reports the daemon's state to systemd: ready, alive, stopping (the protocol of sd_notify(3)).

Rules:
1. Outside systemd every call does nothing.
2. Nothing here raises: a daemon does not fail because a report is lost.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Notifier:
    """The socket of the service manager, named by the environment."""

    def __init__(self, environ: Mapping[str, str], *, send_timeout_s: float = 1.0) -> None:
        """`send_timeout_s` bounds a call if the socket's queue is full; systemd itself reads at once."""
        self._send_timeout_s = send_timeout_s
        path = environ.get("NOTIFY_SOCKET", "")
        # systemd writes the NUL that begins an abstract socket's name as @.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self.watchdog_interval_s = _watchdog_interval_s(environ)
        """The interval of calls to `alive`: half of the unit's WatchdogSec, as sd_watchdog_enabled(3) advises.

        None without a watchdog.
        """

    def ready(self) -> None:
        """The daemon serves. Units that are ordered after its unit may start."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The daemon finishes the responses under way."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The event loop runs. Without this call for too long, systemd restarts the daemon."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={' '.join(text.split())}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.settimeout(self._send_timeout_s)
                notify.sendto(message.encode(errors="replace"), self._address)
        except (OSError, ValueError):  # ValueError: a name that cannot be a socket's
            return


def _watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Half of WATCHDOG_USEC; None if WATCHDOG_PID is another process."""
    try:
        if int(environ.get("WATCHDOG_PID", os.getpid())) != os.getpid():
            return None
        allowed_us = int(environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return allowed_us / 2e6 if allowed_us > 0 else None
