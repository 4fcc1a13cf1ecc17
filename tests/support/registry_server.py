"""A registry on a thread that does what a test tells it to, and remembers all that it was asked.

It serves `blobs` with ranges. `script(...)` puts answers before that, each for one request. An `Answering` says what
goes over the wire byte for byte, also where that breaks HTTP. A proxy it is too: absolute-form requests are answered
as its own, and CONNECT leads back to itself if it has a certificate for that, else it is refused.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

PATIENCE_S = 120.0
"""How long anything in a test may wait for something that must happen, on a machine that does much else: all tests have
this one. It costs nothing where the thing happens, so it is far longer than that ever takes."""


@dataclass(frozen=True)
class Seen:
    """A request as it arrived. `connection` counts from 0; header names are lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    connection: int
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without the host that a proxy is told, and without the query."""
        return urlsplit(self.target).path


@dataclass(frozen=True)
class Answering:
    """One answer. Content-Length is the body's, unless `headers` has one (None: leave it out).

    `wire` is sent instead of all that, byte for byte, if it is given; a HEAD gets its heads.
    `sent_bytes` of the body are sent, all of it by default; then comes what `then` says: the next request, the rest of
    the body after a moment, the end of the connection (FIN or RST), or silence until the server stops. `before_byte` is
    called before each byte of the headers, which are then sent one by one.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str | None] = field(default_factory=dict)
    sent_bytes: int | None = None
    then: str = "next"
    before_byte: Callable[[], None] | None = None
    wire: bytes | None = None


MOMENT_S = 0.05
"""In which a client comes to wait for the rest of a body."""

SILENT_CLOSE = Answering(status=0, then="close")
"""Not a byte, and the connection ends."""
HANG = Answering(status=0, then="hang")
"""Not a byte, and the connection stays."""

Rule = Callable[[Seen], Answering | None]


class RegistryServer:
    """Use it as a context manager; `url` is where it listens."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        tunnel_tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.seen: list[Seen] = []
        self.blobs: dict[str, bytes] = {}
        self.ignores_range = False
        self.rule: Rule = lambda _: None
        """Asked for each request that no script is left for; None means: serve `blobs`."""
        self.hanging = threading.Event()
        """Set once the server has fallen silent on somebody."""
        self._script: deque[Answering | Rule] = deque()
        self._tls = tls
        self._tunnel_tls = tunnel_tls
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.host = host
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in tuple(self._threads):
            thread.join(PATIENCE_S)
        self._listener.close()

    def script(self, *answers: Answering | Rule) -> None:
        """Answer the next requests so, in this order."""
        self._script.extend(answers)

    def hang_up(self) -> None:
        """End all connections, as a server does that has waited too long for the next request."""
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def add_blob(self, repository: str, digest: str, content: bytes, kind: str = "blobs") -> None:
        self.blobs[f"/v2/{repository}/{kind}/{digest}"] = content

    @property
    def connections(self) -> int:
        """How many were ever accepted."""
        return len(self._connections)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="registry server")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, accepted)

    def _serve(self, accepted: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(accepted.close)
            try:
                connection = self._secure(accepted, self._tls) if self._tls else accepted
                stack.callback(connection.close)
                with self._lock:
                    number = len(self._connections)
                    self._connections.append(connection)
                if self._stopping.is_set():  # nobody ends a connection that came while the others were being ended
                    return
                while self._one(connection, number):
                    pass
            except OSError:
                pass  # the client is gone, or does not like our certificate

    def _secure(self, connection: socket.socket, context: ssl.SSLContext) -> socket.socket:
        return context.wrap_socket(connection, server_side=True)

    def _one(self, connection: socket.socket, number: int) -> bool:
        """Answer one request; returns whether the connection goes on."""
        head = _read_head(connection)
        if head is None:
            return False
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        seen = Seen(method, target, headers, number, _read_body(connection, headers))
        self.seen.append(seen)
        if method == "CONNECT":
            if self._tunnel_tls is None:
                connection.sendall(b"HTTP/1.0 407 who are you\r\n\r\n")
                return False
            connection.sendall(b"HTTP/1.0 200 established\r\n\r\n")
            with self._secure(connection, self._tunnel_tls) as inner:
                while self._one(inner, number):
                    pass
            return False
        step = self._script.popleft() if self._script else self.rule
        answering = step if isinstance(step, Answering) else step(seen)
        return self._send(connection, seen, answering or self.blob(seen))

    def blob(self, seen: Seen) -> Answering:
        content = self.blobs.get(seen.path)
        if content is None:
            return Answering(404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", seen.headers.get("range", ""))
        if asked is None or self.ignores_range:
            return Answering(200, content)
        first = int(asked[1])
        last = min(int(asked[2] or len(content)), len(content) - 1)
        if first > last:
            return Answering(416, headers={"Content-Range": f"bytes */{len(content)}"})
        return partial(content, first, last)

    def _send(self, connection: socket.socket, seen: Seen, answering: Answering) -> bool:
        if answering.wire is not None:
            heads = re.match(rb"(?s)(HTTP/1.1 1.*?\r\n\r\n)*.*?\n\r?\n", answering.wire)
            connection.sendall(heads[0] if seen.method == "HEAD" and heads else answering.wire)
        elif answering.status:
            fields = {"Content-Length": str(len(answering.body)), **answering.headers}
            lines = [f"HTTP/1.1 {answering.status} So"]
            lines += [f"{name}: {value}" for name, value in fields.items() if value is not None]
            head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
            body = b"" if seen.method == "HEAD" else answering.body[: answering.sent_bytes]
            if answering.before_byte:
                for byte in head:
                    answering.before_byte()
                    connection.sendall(bytes([byte]))
                head = b""
            connection.sendall(head + body)
        if answering.then == "rest":
            time.sleep(MOMENT_S)
            connection.sendall(answering.body[answering.sent_bytes :])
        if answering.then == "hang":
            self.hanging.set()
            self._stopping.wait(PATIENCE_S)
        if answering.then == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return answering.then in ("next", "rest")


def partial(content: bytes, first: int, last: int) -> Answering:
    """A right 206."""
    return Answering(206, content[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(content)}"})


def in_turn(*steps: Answering | Rule) -> Rule:
    """Each of these once, in this order; after that nothing is changed."""
    left = deque(steps)

    def rule(seen: Seen) -> Answering | None:
        if not left:
            return None
        step = left.popleft()
        return step if isinstance(step, Answering) else step(seen)

    return rule


def demand_basic(username: str, password: str) -> Rule:
    """Let in who knows the password."""
    expected = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()

    def rule(seen: Seen) -> Answering | None:
        if seen.headers.get("authorization") == expected:
            return None
        return Answering(
            401,
            b'{"errors": [{"code": "UNAUTHORIZED", "message": "the registry says so"}]}',
            {"WWW-Authenticate": 'Basic realm="here"'},
        )

    return rule


def demand_bearer(realm: str, issued: set[str], scope: str = "repository:app:pull") -> Rule:
    """Let in who has a token that was `issued`."""

    def rule(seen: Seen) -> Answering | None:
        if seen.headers.get("authorization", "").removeprefix("Bearer ") in issued:
            return None
        challenge = f'Bearer realm="{realm}",service="registry",scope="{scope}"'
        return Answering(401, b'{"errors":[]}', {"WWW-Authenticate": challenge})

    return rule


def issue_tokens(issued: set[str], **more: object) -> Rule:
    """A token server: `token-1`, `token-2`, … each with `more` in its answer."""

    def rule(seen: Seen) -> Answering:
        token = f"token-{len(issued) + 1}"
        issued.add(token)
        return Answering(200, json.dumps({"token": token, **more}).encode())

    return rule


def _read_head(connection: socket.socket) -> bytes | None:
    """Up to the empty line; requests are not pipelined here."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        received = connection.recv(1)
        if not received or received == b"\x16":  # a client that tries TLS first: no server waits for the rest
            return None
        head += received
    return head[:-4]


def _read_body(connection: socket.socket, headers: Mapping[str, str]) -> bytes:
    body, length = b"", int(headers.get("content-length", "0"))
    while len(body) < length and (received := connection.recv(length - len(body))):
        body += received
    return body


def chunked(*parts: bytes, trailer: bytes = b"") -> bytes:
    """A chunked body."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part)
    return chunks + b"0\r\n" + trailer + b"\r\n"
