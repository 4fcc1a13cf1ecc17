"""What the tests of downloads share: contents, a scene on an event loop, and readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from peer.core.origin_requests import FIRST_SPAN_BYTES
from peer.errors import P2pdError
from peer.host import Host, Limits
from peer.origin.api import ContentRef, Credential
from peer.origin_range import OriginSource
from peer.readers import Readers
from peer.store import Store
from peer.tasks import BackgroundTasks
from scheduler.protocol.geometry import MIN_PIECE_BYTES
from tests.peer.fakes import FakeOrigin, content_of
from tests.peer.origin_conformance import digest_of
from tests.support.registry_server import PATIENCE_S

T = TypeVar("T")

PIECE = MIN_PIECE_BYTES
CONTENT = content_of(9 * PIECE + 100, seed=1)
"""Ten pieces, which the first request asks for all at once."""

DIGEST = digest_of(CONTENT)

LARGE = content_of(FIRST_SPAN_BYTES + 9 * 1024 * 1024 + 1, seed=2)
"""More than the first request asks for."""


def run(scene: Callable[[], Awaitable[None]]) -> None:
    """Play a scene on an event loop of its own."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scene()

    asyncio.run(bounded())


@asynccontextmanager
async def started(store: Store, **limits: Any) -> AsyncIterator[tuple[Host, Readers]]:
    """A host alone and its readers, closed again as the daemon does it."""
    async with BackgroundTasks() as background:
        host = Host(store, Limits(**limits), background)
        try:
            yield host, Readers(host)
        finally:
            host.close()


def source(
    origin: FakeOrigin,
    content: bytes = CONTENT,
    credential: Credential = Credential(),  # noqa: B008 - frozen
    upstream: str = "reg.test",
) -> OriginSource:
    return OriginSource(origin, ContentRef("library/app", digest_of(content)), credential, upstream)


async def read(readers: Readers, wanted: OriginSource | None, content: bytes = CONTENT, start: int = 0) -> bytes:
    """All bytes from `start`, each as soon as it may be sent."""
    parts = []
    async with readers.open(digest_of(content), wanted) as reader:
        stop = reader.blob.size_bytes
        while start < stop:
            end = await reader.readable(start, stop)
            parts.append(reader.blob.read(start, end))
            start = end
    return b"".join(parts)


async def until(origin: FakeOrigin, condition: Callable[[], bool]) -> None:
    """Wait for something of the origin."""
    await asyncio.to_thread(origin.wait_for, condition)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what nothing tells; whoever runs the scene bounds it."""
    while not condition():  # noqa: ASYNC110 - see above
        await asyncio.sleep(0)


def covers_once(ranges: list[tuple[int, int]], size_bytes: int) -> bool:
    """Whether these ranges have each byte of the blob exactly once."""
    return [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])] and ranges[-1][1] == size_bytes


async def outcome_of(waiting: Awaitable[T]) -> T | P2pdError:
    """What came of it, the bytes perhaps, or the error."""
    try:
        return await waiting
    except P2pdError as error:
        return error


async def fetch_ahead(readers: Readers, wanted: OriginSource, content: bytes) -> None:
    """Read as nobody does who waits for it."""
    async with readers.open(digest_of(content), wanted, background=True) as reader:
        end = 0
        while end < len(content):
            end = await reader.readable(end, len(content))
