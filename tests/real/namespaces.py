"""Hosts of a network on this machine: network namespaces, each with one link to a bridge, and a rate on each link.

Rules:
1. A namespace is a thread that has left this one's network. What is called in that thread sees that network only, and
   so does every program that it starts: the same harness runs there as on loopback.
2. None has a name, a mount or a way out. The kernel removes it, with its links, its addresses and its rates, when the
   thread and the programs have ended, even if the test run is killed (`programs.Program`, rule 1).
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Final, ParamSpec, TypeVar

from tests.real.packages import PATH
from tests.real.programs import NETWORK, run

_CLONE_NEWNET: Final = 0x40000000
"""<linux/sched.h>; `os.unshare` came with Python 3.12 only."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

P = ParamSpec("P")
T = TypeVar("T")


class Namespace:
    """A network of its own, in which `call` and `start` run functions, one at a time."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=_leave_the_network)
        self.task = self.call(threading.get_native_id)
        """By this the kernel finds the namespace: `ip link set … netns TASK`."""
        self.ip("link", "set", "lo", "up")

    def start(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._thread.submit(function, *args, **kwargs)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self.start(function, *args, **kwargs).result()

    def ip(self, *args: str) -> None:
        self.call(run, ["ip", *args], {"PATH": PATH})

    def limit(self, link: str, rate: str) -> None:
        """Send no faster than `rate` (`200mbit`) on a link."""
        shaping = ["root", "tbf", "rate", rate, "burst", "256k", "latency", "50ms"]
        self.call(run, ["tc", "qdisc", "add", "dev", link, *shaping], {"PATH": PATH})

    def close(self) -> None:
        """End the thread. The programs that it started have been ended before, or are now, by PDEATHSIG."""
        self._thread.shutdown()


class Host(Namespace):
    """A namespace with one address."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address: Final = address


@contextmanager
def network(hosts: int, rate: str) -> Iterator[list[Host]]:
    """So many hosts on one switch. Each sends and receives at `rate`."""
    addresses = ipaddress.ip_network(NETWORK).hosts()
    with ExitStack() as made:
        switch = Namespace()
        made.callback(switch.close)
        switch.ip("link", "add", "bridge", "type", "bridge")
        switch.ip("link", "set", "bridge", "up")
        plugged = []
        for number, address in zip(range(hosts), addresses, strict=False):
            host = Host(str(address))
            made.callback(host.close)
            _plug(switch, f"port{number}", host, rate)
            plugged.append(host)
        yield plugged


def _plug(switch: Namespace, port: str, host: Host, rate: str) -> None:
    peer = ["type", "veth", "peer", "name", "eth0", "netns", str(host.task)]
    switch.ip("link", "add", port, *peer)
    switch.ip("link", "set", port, "master", "bridge", "up")
    prefix = NETWORK.partition("/")[2]
    host.ip("address", "add", f"{host.address}/{prefix}", "dev", "eth0")
    host.ip("link", "set", "eth0", "up")
    switch.limit(port, rate)
    host.limit("eth0", rate)


def _leave_the_network() -> None:
    """Give this thread a network of its own, without any link that is up. Raises OSError."""
    if _LIBC.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
