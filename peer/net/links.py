"""Links: one WebSocket for each pair of hosts that are neighbours in at least one swarm, for news of who holds what.

1. Of two hosts, the one with the lesser id dials; so there is one link and no race between two.
2. News are sent at once, but for those that come within `GATHER_S` of the last: they are gathered into one message a
   blob. It is half the time of a piece of 4 MiB at 1 Gbit/s.
3. A link is kept while it is wanted, and dialled again when it breaks, a few times; then the neighbour is lost. For the
   sake of which blobs it is wanted is in `peer.core.link_book`.
4. Frames are bounded and decoded strictly, and so is how many come, pings too. What is wrong ends the link, and harms
   nobody else; the neighbour that sent it is lost at once, and shunned for `SHUNNED_S`.
5. With certificates, a link is dialled anew before one of the two is over, and ends at the latest when it is. Pieces
   that are on their way meanwhile go on.
6. With certificates, each side tells the other a key for pieces first, and another from time to time, as long as the
   other's certificate is good (`peer.trust.piece_keys`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import structlog
from aiohttp import web

from peer.core.outbox import LinkOutbox
from peer.core.token_bucket import TokenBucket
from peer.net.letting_go import let_go
from peer.tasks import BackgroundTasks
from peer.trust.piece_keys import ROTATE_S, Certificate
from scheduler.protocol.codec import LINK
from scheduler.protocol.fields import MAX_FRAME_BYTES, ProtocolError
from scheduler.protocol.from_host import VERSION_NEWEST, VERSION_OLDEST
from scheduler.protocol.link import BATCHES, Bitfield, DontHave, Have, LinkHello, LinkMessage, PieceKey, Unchoke
from scheduler.trust.errors import TrustError

if TYPE_CHECKING:
    from peer.trust.host_trust import HostTrust
    from peer.trust.piece_keys import PieceKeys

log = structlog.get_logger("peer.net.links")

GATHER_S = 0.015
DIAL_WITHIN_S = 3.0
DIAL_AGAIN_S = (0.1, 0.3, 1.0, 3.0)
LASTING_S = 10.0
"""A link that has lasted for so long is dialled again as one that has never failed."""

WAITED_FOR_S = 6.0
"""How long the host that does not dial waits for the one that does."""

HEARTBEAT_S = 3.0
"""After so long without a frame a ping is sent."""

ANSWERS_WITHIN_S = 1.5
"""How long a neighbour may take to answer a ping."""

UNWANTED_S = 60.0
"""How long a link stays that is not wanted: the next blob of an image is likely to want it again."""

MESSAGES_PER_S = 1000
"""What a neighbour may send in the long run: news of 15 blobs at a time, each as often as `GATHER_S` lets it."""

BURST = 16_384
"""What it may send at once: on connecting, it tells of each of the 8,192 blobs that a host may hold, perhaps twice."""

SPANS_OF_A_MESSAGE = 32
"""So many spans of a Have cost as much as a message without any. One with all 4,096 takes 5 ms."""

_OF_BLOBS = (Have, Unchoke, Bitfield, DontHave)
_SIGNS_OF_LIFE = (aiohttp.WSMsgType.PING, aiohttp.WSMsgType.PONG)

SHUNNED_S = 60.0
MAX_SHUNNED = 1024
MAX_LINKS = 1024
"""Of hosts that dial; each neighbour of each blob is one, and most are neighbours in many."""

CLOSE_WITHIN_S = 1.0
"""How long a neighbour may take to hang up in its turn."""

MAX_WAITING = 16_384
"""Blobs of which news wait for one neighbour, twice as many as a host may hold; one that does not read is lost."""

_Socket = aiohttp.ClientWebSocketResponse | web.WebSocketResponse


@dataclass(slots=True)
class _Link:
    address: str
    wanted: bool = False
    outbox: LinkOutbox = field(default_factory=LinkOutbox)
    asleep: asyncio.Future[None] | None = None
    """Done once there is something to send, while there is nothing."""
    socket: _Socket | None = None
    heard_s: float = 0.0
    """When the last frame came (monotonic, seconds)."""
    takes_batches: bool = False
    kept: bool = False
    renewing: bool = False
    """Whether the link ends because it is to be dialled anew."""
    reason: str = "it did not dial"
    """Why there is no link."""


class Links:
    """The links of this host, by the other's id. Callbacks are called on the event loop."""

    def __init__(
        self,
        host: str,
        background: BackgroundTasks,
        *,
        on_message: Callable[[str, LinkMessage], None],
        on_up: Callable[[str], None],
        on_lost: Callable[[str], None],
        trust: HostTrust | None = None,
        keys: PieceKeys | None = None,
    ) -> None:
        """With `trust`, a neighbour is who its certificate says, on both sides; with `keys`, it is told keys."""
        self._trust = trust
        self._keys = keys
        self._host = host
        self._background = background
        self._on_message = on_message
        self._on_up = on_up
        self._on_lost = on_lost
        self._links: dict[str, _Link] = {}
        self._shunned: dict[str, float] = {}
        self._session: aiohttp.ClientSession | None = None
        self.sent_messages = 0
        self._encoded: tuple[LinkMessage | None, bytes] = None, b""
        """The last message that was sent, and its frame: many neighbours are told the same."""

    @property
    def open_count(self) -> int:
        """How many links work now."""
        return sum(link.socket is not None for link in self._links.values())

    def rename(self, host: str) -> None:
        """This host's id is `host` from now on. Links under the old one end."""
        self._host = host
        for link in self._links.values():
            if link.socket is not None:
                self._background.start(_hang_up(link.socket))

    def want(self, host: str, address: str) -> None:
        """Keep a link to `host`."""
        link = self._links.get(host)
        if link is None:
            link = self._links[host] = _Link(address)
        link.address = address
        link.wanted = True
        if link.socket is None and not link.kept:
            link.kept = True
            self._background.start(self._keep(host, link))

    def unwant(self, host: str) -> None:
        """The link to `host` is not wanted any more."""
        link = self._links.get(host)
        if link is not None:
            link.wanted = False
            if link.socket is not None:
                asyncio.get_running_loop().call_later(UNWANTED_S, self._end_unwanted, host, link)

    def _end_unwanted(self, host: str, link: _Link) -> None:
        if not link.wanted and link.socket is not None and self._links.get(host) is link:
            self._background.start(_hang_up(link.socket))

    def send(self, host: str, message: LinkMessage) -> None:
        """Send a message, soon and in order. Nothing if there is no link: a new one begins with all that is held."""
        link = self._links.get(host)
        if link is None or link.socket is None:
            return
        link.outbox.add(message)
        if link.asleep is not None and not link.asleep.done():
            link.asleep.set_result(None)

    async def accept(self, request: web.BaseRequest) -> web.WebSocketResponse:
        """The server's handler for a neighbour that dials."""
        socket = web.WebSocketResponse(
            timeout=CLOSE_WITHIN_S,
            max_msg_size=MAX_FRAME_BYTES,
            compress=False,
            autoping=False,
        )
        try:
            await socket.prepare(request)
        except ValueError:  # aiohttp's, of a key that is not ASCII
            raise web.HTTPBadRequest(text="this is no opening of a WebSocket") from None
        try:
            async with asyncio.timeout(DIAL_WITHIN_S):
                hello = LINK.decode(_data_of(await socket.receive()))
            if not isinstance(hello, LinkHello):
                raise ProtocolError("the first message is not LinkHello")
            self._check(request, hello.host)
            if self._is_shunned(hello.host) or (hello.host not in self._links and len(self._links) >= MAX_LINKS):
                raise ProtocolError(f"no link to {hello.host} is taken now")
            await socket.send_bytes(LINK.encode(self._hello()))
        except (ProtocolError, TrustError, TimeoutError, aiohttp.ClientError, OSError) as error:
            log.debug("refused a link", peer=request.remote, reason=str(error))
            await socket.close(code=aiohttp.WSCloseCode.PROTOCOL_ERROR, message=b"LinkHello is wanted first")
            return socket
        link = self._links.setdefault(hello.host, _Link(""))
        if link.socket is None:
            await self._talk(hello, link, socket, dialled=False)
        return socket

    def shun(self, host: str) -> None:
        """End the link to a host, and take none for a while."""
        self._shun(host)
        link = self._links.get(host)
        if link is not None and link.socket is not None:
            self._background.start(_hang_up(link.socket))

    async def close(self) -> None:
        """End all links."""
        sockets = [link.socket for link in self._links.values() if link.socket is not None]
        await asyncio.gather(*map(_hang_up, sockets))
        if self._session is not None:
            await self._session.close()

    def _check(self, request: web.BaseRequest, host: str) -> None:
        """Raise CertificateError if a neighbour that dials is another than it says."""
        if self._trust is not None:
            transport = request.transport
            self._trust.check(None if transport is None else transport.get_extra_info("ssl_object"), host)

    def _hello(self) -> LinkHello:
        return LinkHello(self._host, VERSION_OLDEST, VERSION_NEWEST, (BATCHES,))

    async def _keep(self, host: str, link: _Link) -> None:
        """Have a working link to `host` while anybody wants one, or say that it is lost."""
        try:
            if self._host < host:
                await self._keep_dialling(host, link)
            else:
                await asyncio.sleep(0.0 if self._is_shunned(host) else WAITED_FOR_S)
        finally:
            link.kept = False
            if link.socket is None:
                self._lose(host, link)

    async def _keep_dialling(self, host: str, link: _Link) -> None:
        clock = asyncio.get_running_loop().time
        failures = 0
        while failures < len(DIAL_AGAIN_S) and not self._is_shunned(host):
            began_s, link.renewing = clock(), False
            if await self._dial(host, link) and not link.wanted:
                return
            if link.renewing or clock() - began_s > LASTING_S:
                failures = 0
            await asyncio.sleep(DIAL_AGAIN_S[failures])
            failures += 1

    async def _dial(self, host: str, link: _Link) -> bool:
        """One link, from LinkHello to its end; whether it came to be."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        if self._session.closed:  # p2pd stops
            return False
        try:
            async with asyncio.timeout(DIAL_WITHIN_S):
                socket = await self._session.ws_connect(
                    f"{'http' if self._trust is None else 'https'}://{link.address}/v1/link",
                    ssl=True if self._trust is None else self._trust.client,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_WITHIN_S),
                    max_msg_size=MAX_FRAME_BYTES,
                    compress=0,
                    autoping=False,
                )
                if self._trust is not None:
                    self._trust.check(socket.get_extra_info("ssl_object"), host)
                await socket.send_bytes(LINK.encode(self._hello()))
                hello = LINK.decode(_data_of(await socket.receive()))
            if not isinstance(hello, LinkHello) or hello.host != host:
                raise ProtocolError(f"another host than {host} is at {link.address}")
        except (ProtocolError, TrustError, aiohttp.ClientError, OSError, TimeoutError) as error:
            link.reason = str(error) or type(error).__name__
            log.debug("could not reach a neighbour", host=host, address=link.address, reason=link.reason)
            return False
        async with let_go(socket), socket:
            if link.socket is None:
                await self._talk(hello, link, socket, dialled=True)
        return True

    async def _talk(self, hello: LinkHello, link: _Link, socket: _Socket, *, dialled: bool) -> None:
        """Exchange news with the neighbour that has said `hello`, until the link ends."""
        host, link.takes_batches = hello.host, BATCHES in hello.features
        link.socket = socket
        link.outbox = LinkOutbox()
        try:
            async with asyncio.TaskGroup() as group:
                beside = []
                if self._trust is not None:
                    await self._tell_key(host, socket, self._trust)  # before what is held here is told
                    beside.append(group.create_task(self._rotate(host, socket, self._trust)))
                    beside.append(group.create_task(self._watch(host, link, socket, self._trust, dialled=dialled)))
                self._on_up(host)
                beside.append(group.create_task(self._send(link, socket)))
                beside.append(group.create_task(_notice_silence(link, socket)))
                hearing = group.create_task(self._hear(host, link, socket))  # a frame resumes that coroutine alone
                await asyncio.wait([hearing])
                for task in beside:
                    task.cancel()
        except* (ProtocolError, TrustError, aiohttp.ClientError, OSError) as errors:
            log.info("a link broke", host=host, reason=str(errors.exceptions[0]))
            if errors.subgroup(ProtocolError) is not None:
                self._shun(host)
        finally:
            link.socket = None
            if link.wanted and not link.kept:
                link.kept = True
                self._background.start(self._keep(host, link))
            elif not link.wanted and self._links.get(host) is link:
                del self._links[host]

    async def _hear(self, host: str, link: _Link, socket: _Socket) -> None:
        """What the neighbour says, until the link ends. Raises ProtocolError."""
        clock = asyncio.get_running_loop().time
        allowed = TokenBucket(MESSAGES_PER_S, BURST)
        async for frame in socket:
            messages = [] if frame.type in _SIGNS_OF_LIFE else LINK.decode_all(_data_of(frame))
            cost = len(messages) or 1
            for message in messages:
                if isinstance(message, Have):
                    cost += len(message.spans) // SPANS_OF_A_MESSAGE
            link.heard_s = clock()
            if allowed.take(cost, link.heard_s):
                raise ProtocolError(f"more than {MESSAGES_PER_S} messages a second")
            if frame.type is aiohttp.WSMsgType.PING:
                await socket.pong(frame.data)
            for message in messages:
                if isinstance(message, _OF_BLOBS):
                    self._on_message(host, message)
                elif isinstance(message, PieceKey) and self._keys is not None:
                    self._keys.learn(host, message)

    async def _watch(self, host: str, link: _Link, socket: _Socket, trust: HostTrust, *, dialled: bool) -> None:
        """End the link when it is to be dialled anew. Raises CertificateError once the neighbour is not trusted."""
        await trust.watch(_certificate_of(socket), host, reopens=dialled)
        link.renewing = True
        self._background.start(_hang_up(socket))

    async def _tell_key(self, host: str, socket: _Socket, trust: HostTrust) -> None:
        """Raises CertificateError if the neighbour's certificate is over: the next link is made with a newer one."""
        if self._keys is not None:
            certificate = _certificate_of(socket)
            trust.check(certificate, host)
            await socket.send_bytes(LINK.encode(self._keys.issue(host, certificate)))

    async def _rotate(self, host: str, socket: _Socket, trust: HostTrust) -> None:
        while True:
            await asyncio.sleep(ROTATE_S)
            await self._tell_key(host, socket, trust)

    async def _send(self, link: _Link, socket: _Socket) -> None:
        loop = asyncio.get_running_loop()
        next_s = 0.0
        while True:
            if not link.outbox:
                link.asleep = loop.create_future()
                await link.asleep
            if (early_s := next_s - loop.time()) > 0:
                await asyncio.sleep(early_s)
            if len(link.outbox) > MAX_WAITING:
                raise ProtocolError("the neighbour does not read what it is sent")
            messages = link.outbox.take()
            if len(messages) == 1:
                await socket.send_bytes(self._frame_of(messages[0]))
            else:
                for frame in LINK.encode_all(messages) if link.takes_batches else map(LINK.encode, messages):
                    await socket.send_bytes(frame)
            self.sent_messages += len(messages)
            next_s = loop.time() + GATHER_S

    def _frame_of(self, message: LinkMessage) -> bytes:
        if message is not self._encoded[0]:
            self._encoded = message, LINK.encode(message)
        return self._encoded[1]

    def _shun(self, host: str) -> None:
        if len(self._shunned) >= MAX_SHUNNED:
            del self._shunned[next(iter(self._shunned))]
        self._shunned[host] = asyncio.get_running_loop().time() + SHUNNED_S

    def _is_shunned(self, host: str) -> bool:
        return self._shunned.get(host, 0.0) > asyncio.get_running_loop().time()

    def _lose(self, host: str, link: _Link) -> None:
        log.info("a neighbour is lost", host=host, address=link.address, reason=link.reason)
        link.wanted = False
        if self._links.get(host) is link:
            del self._links[host]
        self._on_lost(host)


async def _hang_up(socket: _Socket) -> None:
    await socket.close(code=aiohttp.WSCloseCode.GOING_AWAY)


async def _notice_silence(link: _Link, socket: _Socket) -> None:
    """Raise ConnectionError once the neighbour is gone without a word: it has not answered a ping."""
    clock = asyncio.get_running_loop().time
    link.heard_s = clock()
    while True:
        if (left_s := link.heard_s + HEARTBEAT_S - clock()) > 0:
            await asyncio.sleep(left_s)
            continue
        pinged_s = clock()
        with suppress(TimeoutError):  # whoever reads nothing takes no ping
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                await socket.ping()
                await asyncio.sleep(ANSWERS_WITHIN_S)
        if link.heard_s < pinged_s:
            raise ConnectionError("the neighbour is silent")


def _certificate_of(socket: _Socket) -> Certificate:
    """The certificate that a neighbour has shown."""
    connection = socket.get_extra_info("ssl_object")
    return Certificate(None) if connection is None else Certificate(connection.getpeercert(True), connection.context)


def _data_of(frame: aiohttp.WSMessage) -> bytes:
    if frame.type is aiohttp.WSMsgType.ERROR and not isinstance(frame.data, aiohttp.WebSocketError):
        raise ConnectionError(str(frame.data))  # the network's fault, and not the neighbour's
    if frame.type is not aiohttp.WSMsgType.BINARY:
        raise ProtocolError("a frame that is not binary, or the end of the link")
    return bytes(frame.data)
