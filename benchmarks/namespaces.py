"""Hosts of a network on this machine: network namespaces, each with one link to a switch, and a rate on each link.

Rules:
1. A namespace is a thread in a network of its own. Functions called in that thread see only that network, and so do the
   programs that they start: the same harness runs there as on loopback.
2. A namespace has no name, no mount and no way out. The kernel removes it, with its links, addresses and rates, when
   the thread and the programs have ended. That holds even if this process is killed, because programs end with the
   thread that started them (PDEATHSIG).
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
"""The addresses of hosts. They exist only inside the namespaces."""

CORE: Final = "core"
"""The switch that all hosts are connected to, directly or by other switches."""

LATENCY: Final = "10ms"
"""The queue in front of a link, in time: like a switch's, or that of a kernel that keeps queues short."""

BURST_BYTES: Final = 96 * 1024
BURST_S: Final = 0.001
"""What a link may send at once: the larger of these bytes and the bytes of this time. A timer of the kernel comes up to
a tenth of a millisecond late, and a burst that is shorter than that would hold the link below its rate."""

_CONGESTION_CONTROL: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")
"""The congestion control of connections that begin in a namespace. On such short paths reno behaves like cubic, the
default of most kernels. bbr, the default of some, paces with timers, which take much of the cores here."""

_CLONE_NEWNET: Final = 0x40000000
"""<linux/sched.h>; `os.unshare` came with Python 3.12 only."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

P = ParamSpec("P")
T = TypeVar("T")


class Namespace:
    """A network namespace, in which `call` and `start` run functions, one at a time. Raises UnmeasurableError."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        try:
            self.call(_leave_the_network)
            self.task = self.call(threading.get_native_id)
            """The task id by which the kernel finds the namespace: `ip link set … netns TASK`."""
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

    def limit(self, link: str, bytes_per_s: float, queue: str = LATENCY) -> None:
        """Send no faster than this on a link. `queue` is the one in front of it, in time."""
        burst = f"{max(BURST_BYTES, round(BURST_S * bytes_per_s))}b"
        shaping = ["root", "tbf", "rate", f"{round(8 * bytes_per_s)}bit", "burst", burst, "latency", queue]
        self.call(_run, "tc", "qdisc", "add", "dev", link, *shaping)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Run the block in this network: what the block calls here, and the programs and threads that it starts."""
        with _namespace("thread-self").open() as before, _namespace(f"{os.getpid()}/task/{self.task}").open() as inner:
            _enter(inner.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def close(self) -> None:
        """End the thread. PDEATHSIG ends those of its programs that still run."""
        self._thread.shutdown()


class NetworkHost(Namespace):
    """A namespace with one address."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address: Final = address


class Network:
    """Hosts on a switch, and on further switches below it."""

    def __init__(self, made: ExitStack) -> None:
        self._made = made
        self._addresses = ipaddress.ip_network(NETWORK).hosts()
        self._ports = 0
        self._switch = Namespace()
        made.callback(self._switch.close)
        self._switch.call(_let_bridges_be)
        self._add_bridge(CORE)

    def host(self, up: float | None = None, down: float | None = None, *, at: str = CORE) -> NetworkHost:
        """Connect a new host to the switch `at`. It sends `up` and receives `down` bytes per second; None: no limit."""
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
        """Connect a new switch to the switch `at` by a link. Names have up to 8 letters."""
        self._add_bridge(name)
        inner, outer = f"{name}-in", f"{name}-out"
        self._switch.ip("link", "add", inner, "type", "veth", "peer", "name", outer)
        self._switch.ip("link", "set", inner, "master", name, "up")
        self._switch.ip("link", "set", outer, "master", at, "up")

    def limit(self, name: str, bytes_per_s: float, queue: str) -> None:
        """Limit the link of this switch, in each direction. `queue` is the one in front of it, in time."""
        for end in ("in", "out"):
            self._switch.limit(f"{name}-{end}", bytes_per_s, queue)

    def entered_bytes(self, name: str) -> int:
        """The bytes that came to this switch over its link, from elsewhere."""
        shown = self._switch.call(_run, "ip", "-json", "-stats", "link", "show", "dev", f"{name}-in")
        return int(json.loads(shown)[0]["stats64"]["rx"]["bytes"])

    def cut(self, name: str) -> None:
        """Cut the link of this switch: hosts at it and below reach no other hosts, and their frames are lost."""
        self._switch.ip("link", "set", f"{name}-out", "down")

    def mend(self, name: str) -> None:
        self._switch.ip("link", "set", f"{name}-out", "up")

    def _add_bridge(self, name: str) -> None:
        self._switch.ip("link", "add", name, "type", "bridge")
        self._switch.ip("link", "set", name, "up")


@contextmanager
def network() -> Iterator[Network]:
    """A network without hosts. It needs root; raises UnmeasurableError if it cannot be made."""
    with ExitStack() as made:
        yield Network(made)


def _leave_the_network() -> None:
    """Give this thread a network of its own, in which no link is up. Raises UnmeasurableError."""
    if _LIBC.unshare(_CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise UnmeasurableError(f"no network namespace can be made ({reason}): run this as root")
    _CONGESTION_CONTROL.write_text("reno")


def _namespace(process: str) -> Path:
    return Path(f"/proc/{process}/ns/net")


def _enter(namespace: int) -> None:
    """Put this thread into the network of an open file. `os.setns` came with Python 3.12 only."""
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:
        raise UnmeasurableError(f"the network cannot be entered ({os.strerror(ctypes.get_errno())}): run this as root")


def _let_bridges_be() -> None:
    """Turn off the firewall of this namespace's bridges, which container engines turn on."""
    with suppress(FileNotFoundError):  # the kernel has no such module, or has not loaded it yet
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("0")


def _run(program: str, *args: str) -> str:
    done = subprocess.run([find(program), *args], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnmeasurableError(f"{program} {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout
