"""What the tests of the origin share: a clock that stands still, and an origin that is closed again."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from peer.oci.digest import Digest
from peer.origin.api import ContentRef, Credential
from peer.origin.client import HttpOrigin
from peer.origin.dialing import Resolve, resolve
from peer.origin.upstream import Upstream
from tests.support.registry_server import RegistryServer

NOBODY = Credential()
OURS = Credential(own=True)
REF = ContentRef("app", Digest("sha256:" + "a" * 64))
CONTENT = bytes(range(256)) * 4096
"""1 MiB in which each offset below 64 KiB can be told from its neighbours."""


class StillClock:
    """Time passes only by waiting, and by `pass_s`. `waits` are those that were asked for."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self.on_wait: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def unix(self) -> float:
        return 1_700_000_000.0 + self.now

    def wait(self, ended: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        self.on_wait()
        return ended.is_set()

    def pass_s(self, seconds: float) -> None:
        self.now += seconds


@contextlib.contextmanager
def origin_at(
    *servers: RegistryServer | str,
    clock: StillClock | None = None,
    environ: Mapping[str, str] | None = None,
    resolve: Resolve = resolve,
    **options: Any,
) -> Iterator[HttpOrigin]:
    """An origin of these endpoints. It waits for the whole of each backoff, as the random number is always 1."""
    endpoints = tuple(server if isinstance(server, str) else server.url for server in servers)
    upstream = Upstream("reg.test", endpoints, **options)
    still = clock or StillClock()
    origin = HttpOrigin(upstream, environ=environ or {}, clock=still, random=lambda: 1.0, resolve=resolve)
    try:
        yield origin
    finally:
        origin.close()


def read_all(
    origin: HttpOrigin,
    start: int = 0,
    stop: int | None = None,
    *,
    view_bytes: int = 100_000,
    credential: Credential = NOBODY,
) -> bytes:
    """The bytes of REF, read into views of so many bytes."""
    got = bytearray()
    view = memoryview(bytearray(view_bytes))
    with origin.open(REF, start, stop, credential=credential) as body:
        while filled := body.readinto(view):
            got += view[:filled]
    return bytes(got)
