"""Hosts of a network on this machine: network namespaces, each with one link to a switch, and a rate on each link.

Rules:
1. A namespace is a thread that has left this one's network. What is called in that thread sees that network only, and
   so does every program that it starts: the same harness runs there as on loopback.
2. None has a name, a mount or a way out. The kernel removes it, with its links, its addresses and its rates, when the
   thread and the programs have ended, even if this process is killed, for programs are started so that they end with
   the thread (PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from benchmarks.command import UnmeasurableError
from benchmarks.programs import find

NETWORK: Final = "10.77.0.0/24"
"""The addresses of hosts. Nothing outside of the namespaces sees them."""

CORE: Final = "core"
"""The switch that everything is connected to, directly or by other switches."""

LATENCY: Final = "10ms"
"""How much of what a link sends may wait in front of it, as in a switch or behind a kernel that keeps queues short."""

_CONGESTION_CONTROL: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")
"""Of connections that begin in a namespace. Over such short ways reno does as cubic, the default of most kernels, does;
bbr, the default of some, paces with timers that take a good part of the cores which all hosts share here."""

_CLONE_NEWNET: Final = 0x40000000
"""<linux/sched.h>; `os.unshare` came with Python 3.12 only."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

P = ParamSpec("P")
T = TypeVar("T")


class Namespace:
    """A network of its own, in which `call` and `start` run functions, one at a time. Raises UnmeasurableError."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        try:
            self.call(_leave_the_network)
            self.task = self.call(threading.get_native_id)
            """By this the kernel finds the namespace: `ip link set … netns TASK`."""
            self.ip("link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def start(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._thread.submit(function, *args, **kwargs)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self.start(function, *args, **kwargs).result()

    def ip(self, *args: str) -> None:
        self.call(_run, "ip", *args)

    def limit(self, link: str, rate: str) -> None:
        """Send no faster than `rate` (`200mbit`) on a link."""
        shaping = ["root", "tbf", "rate", rate, "burst", "96k", "latency", LATENCY]
        self.call(_run, "tc", "qdisc", "add", "dev", link, *shaping)

    def close(self) -> None:
        """End the thread. The programs that it started have been ended before, or are now, by PDEATHSIG."""
        self._thread.shutdown()


class NetworkHost(Namespace):
    """A namespace with one address."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address: Final = address


class Network:
    """Hosts on a switch, and other switches below it, to which hosts may be connected just as well."""

    def __init__(self, made: ExitStack) -> None:
        self._made = made
        self._addresses = ipaddress.ip_network(NETWORK).hosts()
        self._ports = 0
        self._switch = Namespace()
        made.callback(self._switch.close)
        self._switch.call(_let_bridges_be)
        self._add_bridge(CORE)

    def host(self, up: str | None = None, down: str | None = None, *, at: str = CORE) -> NetworkHost:
        """Connect a new host to the switch `at`; it sends at the rate `up` and receives at `down`, if there are any."""
        host = NetworkHost(str(next(self._addresses)))
        self._made.callback(host.close)
        self._ports += 1
        port = f"port{self._ports}"
        self._switch.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.task))
        self._switch.ip("link", "set", port, "master", at, "up")
        host.ip("address", "add", f"{host.address}/{NETWORK.partition('/')[2]}", "dev", "eth0")
        host.ip("link", "set", "eth0", "up")
        if down is not None:
            self._switch.limit(port, down)
        if up is not None:
            host.limit("eth0", up)
        return host

    def switch(self, name: str, *, at: str = CORE) -> None:
        """Connect a new switch to the one `at`, by one line. Names have up to 8 letters."""
        self._add_bridge(name)
        inner, outer = f"{name}-in", f"{name}-out"
        self._switch.ip("link", "add", inner, "type", "veth", "peer", "name", outer)
        self._switch.ip("link", "set", inner, "master", name, "up")
        self._switch.ip("link", "set", outer, "master", at, "up")

    def entered_bytes(self, name: str) -> int:
        """What has come to this switch by its line, from elsewhere."""
        shown = self._switch.call(_run, "ip", "-json", "-stats", "link", "show", "dev", f"{name}-in")
        return int(json.loads(shown)[0]["stats64"]["rx"]["bytes"])

    def cut(self, name: str) -> None:
        """From now on, what is at this switch and below reaches nothing else. Nobody is told: frames are lost."""
        self._switch.ip("link", "set", f"{name}-out", "down")

    def mend(self, name: str) -> None:
        self._switch.ip("link", "set", f"{name}-out", "up")

    def _add_bridge(self, name: str) -> None:
        self._switch.ip("link", "add", name, "type", "bridge")
        self._switch.ip("link", "set", name, "up")


@contextmanager
def network() -> Iterator[Network]:
    """A network without hosts. Raises UnmeasurableError where there can be none: it needs root."""
    with ExitStack() as made:
        yield Network(made)


def _leave_the_network() -> None:
    """Give this thread a network of its own, without any link that is up. Raises UnmeasurableError."""
    if _LIBC.unshare(_CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise UnmeasurableError(f"no network namespace can be made ({reason}): run this as root")
    _CONGESTION_CONTROL.write_text("reno")


def _let_bridges_be() -> None:
    """Have what goes through this namespace's bridges pass no firewall, as it would where a container engine runs."""
    with suppress(FileNotFoundError):  # the kernel has no such thing, or has not needed it yet
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("0")


def _run(program: str, *args: str) -> str:
    done = subprocess.run([find(program), *args], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnmeasurableError(f"{program} {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout
