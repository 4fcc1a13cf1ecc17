"""The host's connection to the scheduler: one WebSocket, made again when it is lost, to the next of several URLs.

1. `tell` never waits: what cannot be sent because there is no scheduler is dropped, for on the next connection the host
   announces anew all that it holds, and joins anew what it wants.
2. Whatever comes is decoded within bounds, or ends the connection.
3. Losing the connection is normal. `on_lost` and `on_found` say when it happens: `on_found` with how
   often the scheduler wants to hear of progress.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp
import structlog

from scheduler.protocol.codec import FROM_HOST, TO_HOST, FromHost, ToHost, Unknown
from scheduler.protocol.connection import PATH, Closing
from scheduler.protocol.fields import MAX_FRAME_BYTES, ProtocolError
from scheduler.protocol.from_host import Bye, Hello
from scheduler.protocol.to_host import Welcome
from scheduler.trust.errors import TrustError

if TYPE_CHECKING:
    from peer.trust.host_trust import HostTrust

log = structlog.get_logger("peer.net.scheduler_client")

CONNECT_WITHIN_S = 3.0
CLOSE_WITHIN_S = 1.0
"""How long a scheduler may take to hang up in its turn."""

HEARTBEAT_S = 2.0
"""Either end notices within some seconds that the other has vanished."""

BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 5.0
MAX_QUEUED = 10_000
"""Messages that wait to be sent; a scheduler that does not read for so long is as good as gone."""


class SchedulerClient:
    """Keeps the connection for as long as `run` runs. All callbacks are called on the event loop."""

    def __init__(
        self,
        urls: Sequence[str],
        hello: Callable[[], Hello],
        *,
        on_message: Callable[[ToHost], None],
        on_found: Callable[[float], None],
        on_lost: Callable[[], None],
        trust: HostTrust | None = None,
    ) -> None:
        """With `trust`, the URLs are https://, and a scheduler is who its certificate says."""
        self._trust = trust
        self._urls = list(urls)
        self._hello = hello
        self._on_message = on_message
        self._on_found = on_found
        self._on_lost = on_lost
        self._queue: asyncio.Queue[bytes] | None = None
        self._exchanging = asyncio.timeout(None)
        self.messages = 0
        """Sent and received, without those that begin a connection."""

    @property
    def connected(self) -> bool:
        return self._queue is not None

    def tell(self, message: FromHost) -> None:
        """Send a message, soon and in order; nothing if there is no scheduler now."""
        if self._queue is None:
            return
        try:
            self._queue.put_nowait(FROM_HOST.encode(message))
        except asyncio.QueueFull:
            if not self._exchanging.expired():
                log.warning("the scheduler does not read; its connection is given up")
                self._exchanging.reschedule(0.0)

    async def run(self) -> None:
        """Connect, and connect again, until cancelled; then say goodbye."""
        if self._trust is not None:
            await self._trust.credentials()
        backoff_s = BACKOFF_FIRST_S
        async with aiohttp.ClientSession() as session:
            while True:
                url = self._urls[0]
                if await self._converse(session, url):
                    backoff_s = BACKOFF_FIRST_S
                self._urls.append(self._urls.pop(0))
                await asyncio.sleep(backoff_s)
                backoff_s = min(BACKOFF_MOST_S, 2 * backoff_s)

    async def _converse(self, session: aiohttp.ClientSession, url: str) -> bool:
        """One connection, from Hello to its end; whether the scheduler let us in."""
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                socket = await session.ws_connect(
                    f"{url.rstrip('/')}{PATH}",
                    ssl=True if self._trust is None else self._trust.client,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_WITHIN_S),
                    heartbeat=HEARTBEAT_S,
                    max_msg_size=MAX_FRAME_BYTES,
                    compress=0,
                )
                if self._trust is not None:
                    self._trust.check_scheduler(socket.get_extra_info("ssl_object"))
        except (TrustError, aiohttp.ClientError, OSError, TimeoutError) as error:
            log.info("no scheduler", url=url, reason=str(error) or type(error).__name__)
            return False
        async with socket:
            try:
                welcome = await self._enter(socket)
                if welcome is None:
                    return False
                await self._exchange(socket, welcome.progress_s)
            except ProtocolError as error:
                log.warning("the scheduler broke the protocol", url=url, reason=str(error))
                await socket.close(code=Closing.MALFORMED, message=str(error).encode()[:100])
            except (aiohttp.ClientError, OSError) as error:
                log.info("the scheduler is gone", url=url, reason=str(error))
            except asyncio.CancelledError:
                with suppress(aiohttp.ClientError, OSError):
                    await socket.send_bytes(FROM_HOST.encode(Bye()))
                raise
            finally:
                if self._queue is not None:
                    self._queue = None
                    self._on_lost()
            log.info("lost the scheduler", url=url, code=socket.close_code)
        return True

    async def _enter(self, socket: aiohttp.ClientWebSocketResponse) -> Welcome | None:
        await socket.send_bytes(FROM_HOST.encode(self._hello()))
        async with asyncio.timeout(CONNECT_WITHIN_S):
            first = await socket.receive()
        if first.type is not aiohttp.WSMsgType.BINARY:
            log.warning("the scheduler does not let this host in", code=socket.close_code, reason=str(first.extra))
            return None
        welcome = TO_HOST.decode(first.data)
        if not isinstance(welcome, Welcome):
            raise ProtocolError("the first message is not Welcome")
        return welcome

    async def _exchange(self, socket: aiohttp.ClientWebSocketResponse, progress_s: float) -> None:
        failure: Exception | None = None
        async with asyncio.timeout(None) as self._exchanging, asyncio.TaskGroup() as group:
            self._queue = asyncio.Queue(MAX_QUEUED)
            self._on_found(progress_s)
            sending = group.create_task(self._send(socket, self._queue))
            try:
                await self._receive(socket)
            except (ProtocolError, aiohttp.ClientError, OSError) as error:
                failure = error  # raised here, it would come out within a group of exceptions
            finally:
                sending.cancel()
        if failure is not None:
            raise failure

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for frame in socket:
            if frame.type is not aiohttp.WSMsgType.BINARY:
                raise ProtocolError("a frame that is not binary")
            self.messages += 1
            message = TO_HOST.decode(frame.data)
            if not isinstance(message, Unknown):
                self._on_message(message)

    async def _send(self, socket: aiohttp.ClientWebSocketResponse, queue: asyncio.Queue[bytes]) -> None:
        while True:
            frame = await queue.get()
            try:
                await socket.send_bytes(frame)
            except (aiohttp.ClientError, OSError):
                return  # the receiving side notices, and ends the connection
            self.messages += 1
