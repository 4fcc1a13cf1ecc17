"""The host's connection to one scheduler: a WebSocket, made again when it is lost.

1. `tell` never waits: what cannot be sent because there is no scheduler is dropped, for on the next connection the host
   announces anew all that it holds, and joins anew what it wants.
2. Whatever comes is decoded within bounds, or ends the connection.
3. Losing the connection is normal. The owner is told when it happens, and of each attempt that fails.
4. Reconnects are spread by full jitter, so that a scheduler that restarts is not met by all hosts at once. The log has
   changes, and not attempts (`peer.net.scheduler_log`).
5. A scheduler that is silent is given up (`peer.net.silence`), and soon if there are others.
6. With certificates, the session is opened anew before a certificate of either end is over. That takes one round trip,
   and what is on its way between hosts goes on.
7. The host keeps to the bounds of the protocol and of the Welcome. A message beyond the protocol's is dropped here,
   because it would cost the connection there. Messages beyond the Welcome's rate wait.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import aiohttp
import structlog

from peer.core.token_bucket import TokenBucket
from peer.net.letting_go import let_go
from peer.net.scheduler_log import SchedulerLog, cause_of, cause_of_close
from peer.net.silence import QUIET_S, SILENT_S, Silence
from scheduler.protocol.codec import FROM_HOST, TO_HOST, FromHost, ToHost, Unknown
from scheduler.protocol.connection import PATH, Closing
from scheduler.protocol.fields import MAX_FRAME_BYTES, ProtocolError
from scheduler.protocol.from_host import SCHEDULERS, Bye, Hello, cost_of
from scheduler.protocol.to_host import Quarantined, Schedulers, Welcome
from scheduler.trust.errors import TrustError

if TYPE_CHECKING:
    from peer.trust.host_trust import HostTrust

log = structlog.get_logger("peer.net.scheduler_client")

CONNECT_WITHIN_S = 3.0
CLOSE_WITHIN_S = 1.0
"""How long a scheduler may take to hang up in its turn."""

BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 5.0
RETURN_WITHIN_S = 2.0
"""A lost connection is made again at a random time within this one. It is less than `scheduler_wait_s`, after which
origins are asked without a scheduler."""

RETURN_SOON_S = 0.75
"""The same where there are other schedulers: `peer.core.scheduler_set.GRACE_S` is longer."""

RATE_MARGIN = 0.9
"""The part of the allowed rate that is used: the two ends do not count at the same time."""

CLONE_AFTER_S = 8.0
"""A scheduler notices within 7 s that an old connection of this host is gone (`scheduler.shell.bounds.Bounds`). An id
that is still in use after that is in use by another machine."""

BACKOFF_IN_USE_S = 1.0
MAX_QUEUED = 10_000
"""Messages that wait to be sent; a scheduler that does not read for so long is as good as gone."""


class ConnectionOwner(Protocol):
    """What is told of a connection, on the event loop."""

    def found(self, client: SchedulerClient, welcome: Welcome, listed: Schedulers | None) -> None:
        """The scheduler has let this host in. `listed`: the schedulers that live, if it is one of several."""
        ...

    def heard(self, client: SchedulerClient, message: ToHost) -> None:
        """The scheduler has sent a message."""
        ...

    def lost(self, client: SchedulerClient, *, stops: bool) -> None:
        """The connection has ended; `stops`: because the scheduler stops, or is silent."""
        ...

    def failed(self, client: SchedulerClient) -> None:
        """The scheduler was not reached, or did not let this host in."""
        ...

    def cloned(self) -> None:
        """Another machine uses this host's id: the next Hello needs another one."""
        ...


class SchedulerClient:
    """Keeps the connection to `url` for as long as `run` runs."""

    def __init__(
        self, url: str, hello: Callable[[], Hello], owner: ConnectionOwner, trust: HostTrust | None = None
    ) -> None:
        """With `trust`, the URL is https://, and the scheduler is who its certificate says."""
        self.url = url
        self.several = False
        """Whether there are other schedulers, to which blobs can move."""
        self._closed = False
        self.ended = asyncio.Event()
        """Set when `run` is over."""
        self._task: asyncio.Task[None] | None = None
        self._trust = trust
        self._hello = hello
        self._owner = owner
        self.log = SchedulerLog()
        self._untold: set[type] = set()
        """The types of messages that were beyond the protocol's bounds, so that the log says it once for each."""
        self._in_use_since: float | None = None
        self._sentenced = False
        """Whether a scheduler has told this process that it is quarantined for what it said itself."""
        self._queue: asyncio.Queue[tuple[bytes, int]] | None = None
        self._exchanging = asyncio.timeout(None)
        self._close_reason = ""
        self._reopening = False
        """Whether the session ends because it is to be opened anew."""
        self._silence = Silence()
        self._is_silent = False
        """Whether the session ends because the scheduler is silent."""
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
            frame = FROM_HOST.encode_checked(message)
        except ProtocolError as error:
            if type(message) not in self._untold:
                self._untold.add(type(message))
                log.warning("a message to the scheduler is beyond the protocol's bounds", reason=str(error))
            return
        try:
            self._queue.put_nowait((frame, cost_of(message)))
        except asyncio.QueueFull:
            if not self._exchanging.expired():
                log.warning("the scheduler does not read; its connection is given up")
                self._exchanging.reschedule(0.0)

    def close(self) -> None:
        """Have `run` say goodbye and end. A client that is still to run is not over before it would have been."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        """Connect, and connect again, until closed or cancelled; then say goodbye."""
        self._task = asyncio.current_task()
        try:
            if not self._closed:
                await self._keep_connected()
        finally:
            self.ended.set()

    async def _keep_connected(self) -> None:
        if self._trust is not None:
            await self._trust.credentials()
        backoff_s = BACKOFF_FIRST_S
        async with aiohttp.ClientSession() as session:
            while True:
                self._reopening = False
                if await self._converse(session):
                    backoff_s = BACKOFF_FIRST_S
                    if self._reopening:
                        continue
                    pause_s = RETURN_SOON_S if self.several else RETURN_WITHIN_S
                else:
                    self._owner.failed(self)
                    pause_s = backoff_s
                    most_s = BACKOFF_MOST_S if self._in_use_since is None else BACKOFF_IN_USE_S
                    backoff_s = min(most_s, 2 * backoff_s)
                await asyncio.sleep(random.uniform(0.0, pause_s))  # noqa: S311 # no secret

    def reopen(self) -> None:
        """End the connection, and make another: it began with a Hello that is not true any more."""
        if self._queue is not None:
            self._reopening = True
            self._exchanging.reschedule(0.0)

    async def _converse(self, session: aiohttp.ClientSession) -> bool:
        """One connection, from Hello to its end; whether the scheduler let us in."""
        url = self.url
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                socket = await session.ws_connect(
                    f"{url.rstrip('/')}{PATH}",
                    ssl=True if self._trust is None else self._trust.to_scheduler,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_WITHIN_S),
                    autoping=False,  # `Silence` is the heartbeat
                    max_msg_size=MAX_FRAME_BYTES,
                    compress=0,
                )
                if self._trust is not None:
                    self._trust.check_scheduler(socket.get_extra_info("ssl_object"))
        except (TrustError, aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:  # ValueError: an odd URL
            self.log.failed(url, cause_of(error, CONNECT_WITHIN_S))
            return False
        async with let_go(socket), socket:
            cause = ""
            welcome = None
            try:
                entered = await self._enter(socket, url)
                if entered is None:
                    return False
                listed = await self._list(socket) if SCHEDULERS in entered.features else None
                welcome = entered
                self._in_use_since = None
                self.log.found(url)
                await self._exchange(socket, welcome, listed)
            except ProtocolError as error:
                cause = f"it broke the protocol: {error}"
                await socket.close(code=Closing.MALFORMED, message=str(error).encode()[:100])
            except (aiohttp.ClientError, OSError) as error:
                cause = cause_of(error, QUIET_S + SILENT_S if self._is_silent else CONNECT_WITHIN_S)
            except asyncio.CancelledError:
                with suppress(aiohttp.ClientError, OSError):
                    await socket.send_bytes(FROM_HOST.encode(Bye()))
                raise
            finally:
                if self._queue is not None:
                    self._queue = None
                    self._owner.lost(self, stops=self._is_silent or socket.close_code == Closing.STOPPING)
            if welcome is None:
                self.log.failed(url, cause)
                return False
            if self._is_silent:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_WITHIN_S):  # what is sent to say so may find no room
                        await socket.close()
            if not self._reopening:
                self.log.lost(url, cause or cause_of_close(socket.close_code, self._close_reason))
        return True

    async def _enter(self, socket: aiohttp.ClientWebSocketResponse, url: str) -> Welcome | None:
        await socket.send_bytes(FROM_HOST.encode(self._hello()))
        async with asyncio.timeout(CONNECT_WITHIN_S):
            first = await self._next(socket)
        if first.type is not aiohttp.WSMsgType.BINARY:
            cause = cause_of_close(socket.close_code, str(first.extra or ""))
            self.log.failed(url, cause, "the scheduler does not let this host in")
            if socket.close_code == Closing.ID_IN_USE:
                self._id_in_use()
            elif socket.close_code == Closing.QUARANTINED and not self._sentenced:
                self._owner.cloned()  # somebody has lied under this host's id
            return None
        welcome = TO_HOST.decode(first.data)
        if not isinstance(welcome, Welcome):
            raise ProtocolError("the first message is not Welcome")
        if self._trust is not None:
            self._trust.keep_session(socket.get_extra_info("ssl_object"))
        return welcome

    def _id_in_use(self) -> None:
        """Another connection has this host's id: an old one of its own, or that of a clone."""
        now = asyncio.get_running_loop().time()
        if self._in_use_since is None:
            self._in_use_since = now
        elif now - self._in_use_since > CLONE_AFTER_S:
            self._in_use_since = None
            self._owner.cloned()

    async def _list(self, socket: aiohttp.ClientWebSocketResponse) -> Schedulers:
        """What a scheduler that is one of several says next."""
        async with asyncio.timeout(CONNECT_WITHIN_S):
            second = await self._next(socket)
        if second.type is not aiohttp.WSMsgType.BINARY:
            raise ConnectionError("it hung up before it said which schedulers there are")
        listed = TO_HOST.decode(second.data)
        if not isinstance(listed, Schedulers):
            raise ProtocolError("the second message is not Schedulers")
        return listed

    async def _exchange(
        self, socket: aiohttp.ClientWebSocketResponse, welcome: Welcome, listed: Schedulers | None
    ) -> None:
        self._close_reason = ""
        self._is_silent = False
        failure: Exception | None = None
        async with asyncio.timeout(None) as self._exchanging, asyncio.TaskGroup() as group:
            self._queue = asyncio.Queue(MAX_QUEUED)
            allowed = TokenBucket(RATE_MARGIN * welcome.messages_per_s, RATE_MARGIN * welcome.burst)
            self._owner.found(self, welcome, listed)
            beside = [
                group.create_task(self._send(socket, self._queue, allowed)),
                group.create_task(self._notice_silence(socket)),
            ]
            if self._trust is not None:
                beside.append(group.create_task(self._watch(socket, self._trust)))
            try:
                await self._receive(socket)
            except (ProtocolError, aiohttp.ClientError, OSError) as error:
                failure = error  # raised here, it would come out within a group of exceptions
            finally:
                for task in beside:
                    task.cancel()
        if failure is not None:
            raise failure

    async def _watch(self, socket: aiohttp.ClientWebSocketResponse, trust: HostTrust) -> None:
        """End the session, to open it anew with the certificates that both ends have then."""
        try:
            await trust.watch(socket.get_extra_info("ssl_object"), None, reopens=True)
        except TrustError as error:
            log.info("the session with the scheduler is opened anew", reason=str(error))
        self._reopening = True
        self._exchanging.reschedule(0.0)

    async def _notice_silence(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """End the session with a scheduler that is silent."""
        self._silence = Silence()
        await self._silence.wait(socket.ping)
        self._is_silent = True
        self._exchanging.reschedule(0.0)

    async def _next(self, socket: aiohttp.ClientWebSocketResponse) -> aiohttp.WSMessage:
        """The next frame that is not about whether the other end is there."""
        while True:
            frame = await socket.receive()
            self._silence.heard()
            if frame.type is aiohttp.WSMsgType.PING:
                await socket.pong(frame.data)
            elif frame.type is not aiohttp.WSMsgType.PONG:
                return frame

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            frame = await self._next(socket)
            if frame.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
                self._close_reason = str(frame.extra or "")
                return
            if frame.type is aiohttp.WSMsgType.ERROR:
                raise ConnectionError(str(frame.data) or "the connection broke")
            if frame.type is not aiohttp.WSMsgType.BINARY:
                raise ProtocolError("a frame that is not binary")
            self.messages += 1
            message = TO_HOST.decode(frame.data)
            self._sentenced = self._sentenced or isinstance(message, Quarantined)
            if not isinstance(message, Unknown):
                self._owner.heard(self, message)

    async def _send(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        queue: asyncio.Queue[tuple[bytes, int]],
        allowed: TokenBucket,
    ) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            frame, cost = await queue.get()
            if wait_s := allowed.take(cost, clock()):
                await asyncio.sleep(wait_s)
            try:
                await socket.send_bytes(frame)
            except (aiohttp.ClientError, OSError):
                return  # the receiving side notices, and ends the connection
            if self.several:
                self._silence.said()
            self.messages += 1
