"""Connecting to a host that has several addresses, some of which may lead nowhere (RFC 8305, "Happy Eyeballs").

The problem: a host has eight IPv6 and eight IPv4 addresses, and this network drops what goes to the IPv6 addresses. One
address after the other, each with a timeout, never comes to one that works within the time that a client waits.

1. The families alternate, in the resolver's order (section 4). The address that worked last for this host comes first.
2. An attempt begins; the next one begins after ATTEMPT_DELAY_S, or at once when all before it have failed (section 5).
3. The first connection wins. All others are closed.
4. An address that took a connection and then did not answer comes last, until another does the same. RFC 8305 does not
   have that: without it, the address that comes first would be asked at every try.

Rejected: an attempt in a thread each, for there may be dozens of them, and no way to end a blocking connect.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain, zip_longest

from peer.origin.address_policy import Address as IPAddress
from peer.origin.address_policy import literal
from peer.origin.http1 import ExchangeFailedError

ATTEMPT_DELAY_S = 0.25
"""RFC 8305, section 8: the recommended Connection Attempt Delay."""

_MOST_REMEMBERED = 256
"""The most hosts whose last good address is remembered: the upstreams, and the storage hosts behind them."""

Address = tuple[int, int, int, object]
"""Family, type, protocol and socket address, as `socket.getaddrinfo` has them."""
Resolve = Callable[[str, int], "list[Address]"]


def resolve(host: str, port: int) -> list[Address]:
    """The addresses of `host`, in the order of RFC 6724. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((family, kind, protocol, address) for family, kind, protocol, _, address in found))


class Dialer:
    """Connects, and remembers per host which address worked. From any thread."""

    def __init__(self, resolve: Resolve = resolve) -> None:
        self._resolve = resolve
        self._lock = threading.Lock()
        self._worked: dict[tuple[str, int], object] = {}
        self._silent: dict[tuple[str, int], object] = {}

    def connect(
        self,
        place: tuple[str, int],
        timeout_s: float,
        _source: object = None,
        *,
        check: Callable[[IPAddress], None] | None = None,
    ) -> socket.socket:
        """A connected socket with that timeout, all addresses within `timeout_s`; as `socket.create_connection`.

        `check` raises ExchangeFailedError for an address that is not to be connected to. Raises OSError: that of the
        last attempt to fail, or TimeoutError; and the error of `check` if it allows no address.
        """
        with self._lock:
            worked, silent = self._worked.get(place), self._silent.get(place)
        addresses = in_order(self._resolve(*place), worked, silent)
        if check is not None:
            addresses = _allowed(addresses, check)
        connected, address = _first_to_connect(addresses, timeout_s)
        connected.settimeout(timeout_s)
        with self._lock:
            _remember(self._worked, place, address)
        return connected

    def did_not_answer(self, place: tuple[str, int]) -> None:
        """The last connection to this place came to nothing."""
        with self._lock:
            if (address := self._worked.pop(place, None)) is not None:
                _remember(self._silent, place, address)


def in_order(addresses: Iterable[Address], worked: object = None, silent: object = None) -> list[Address]:
    """The address that `worked`, the families in turn, beginning with the resolver's first, and the `silent` one."""
    by_family: dict[int, list[Address]] = {}
    for address in addresses:
        by_family.setdefault(address[0], []).append(address)
    mixed = [each for each in chain.from_iterable(zip_longest(*by_family.values())) if each is not None]
    return sorted(mixed, key=lambda address: (address[3] == silent) - (address[3] == worked))


def _remember(known: dict[tuple[str, int], object], place: tuple[str, int], address: object) -> None:
    """Keep the address, and drop the oldest if there are too many."""
    known.pop(place, None)
    known[place] = address
    if len(known) > _MOST_REMEMBERED:
        del known[next(iter(known))]


def _allowed(addresses: list[Address], check: Callable[[IPAddress], None]) -> list[Address]:
    allowed, refused = [], None
    for address in addresses:
        found = literal(str(address[3][0]))  # type: ignore[index]  # of getaddrinfo
        try:
            if found is not None:
                check(found)
            allowed.append(address)
        except ExchangeFailedError as error:
            refused = error
    if refused is not None and not allowed:
        raise refused
    return allowed


def _first_to_connect(addresses: list[Address], timeout_s: float) -> tuple[socket.socket, object]:
    """See rules 2 and 3. By the machine's clock: select waits by no other."""
    deadline = time.monotonic() + timeout_s
    waiting = deque(addresses)
    error: OSError | None = None
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                if waiting:
                    error = _begin(waiting.popleft(), selector) or error
                left_s = deadline - time.monotonic()
                patience_s = min(left_s, ATTEMPT_DELAY_S) if waiting else left_s
                for key, _ in selector.select(max(0.0, patience_s)) if selector.get_map() else ():
                    attempt: socket.socket = key.fileobj  # type: ignore[assignment]  # what was registered
                    selector.unregister(attempt)
                    failure = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not failure:
                        return attempt, key.data
                    attempt.close()
                    error = OSError(failure, os.strerror(failure))
                if time.monotonic() >= deadline:
                    raise TimeoutError
            raise error or OSError(errno.EHOSTUNREACH, "it has no address")
        finally:
            for key in tuple(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]  # what was registered


def _begin(address: Address, selector: selectors.BaseSelector) -> OSError | None:
    """Begin an attempt; the error if that fails at once."""
    family, kind, protocol, place = address
    try:
        attempt = socket.socket(family, kind, protocol)
    except OSError as error:  # the machine has no IPv6
        return error
    try:
        attempt.setblocking(False)
        failure = attempt.connect_ex(place)  # type: ignore[arg-type]  # of getaddrinfo
        if failure in (0, errno.EINPROGRESS):
            selector.register(attempt, selectors.EVENT_WRITE, place)
            return None
    except OSError as error:
        attempt.close()
        return error
    attempt.close()
    return OSError(failure, os.strerror(failure))
