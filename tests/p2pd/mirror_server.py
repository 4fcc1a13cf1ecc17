"""A small real mirror on loopback: an image layout behind `http.server`, a token server, and faults to order."""

from __future__ import annotations

import base64
import json
import threading
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from p2pd.config.values import Address
from peer.errors import OriginRefusedError
from peer.origin.api import Answer, ContentRef, Credential

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peer.origin.layout import LayoutOrigin

ANONYMOUS = Credential()
TOKEN = "a-token"


@dataclass
class Faults:
    """What goes wrong, by the last part of a path (a digest or tag)."""

    statuses: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Answered first, one for each request."""
    cuts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Bytes after which the connection is closed, one for each request."""
    wrong: set[str] = field(default_factory=set)
    """Of which the first byte is another."""
    short: set[str] = field(default_factory=set)
    """Of which the last byte is not there, and not in Content-Length."""
    held: dict[str, threading.Event] = field(default_factory=dict)
    """Of which no byte comes until the event is set."""
    ignores_range: bool = False
    challenge: str | None = None
    """A scheme, `Basic` or `Bearer`, without which nothing is answered."""
    realm: str | None = None
    """Another token server than the one here."""
    headers: dict[str, str] = field(default_factory=dict)
    """In place of what would be answered."""


@dataclass
class MirrorServer:
    """`requests` has the method's target, Range and Authorization of each request, in order."""

    origin: LayoutOrigin
    username: str = "user"
    password: str = "secret"
    faults: Faults = field(default_factory=Faults)
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    port: int = 0

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    def asked_for(self, last: str) -> list[str | None]:
        """The ranges that were asked of `last`."""
        return [range_ for target, range_, _ in self.requests if urlsplit(target).path.endswith(last)]


@contextmanager
def running(server: MirrorServer) -> Iterator[MirrorServer]:
    """Serve until the block ends."""

    class Handler(_Handler):
        mirror = server

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        for event in server.faults.held.values():
            event.set()
        http.shutdown()
        thread.join()
        http.server_close()


class _Handler(BaseHTTPRequestHandler):
    mirror: MirrorServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        last = url.path.rpartition("/")[2]
        authorization = self.headers["authorization"]
        self.mirror.requests.append((self.path, self.headers["range"], authorization))
        if url.path == "/token":
            self._token(parse_qs(url.query), authorization)
            return
        faults = self.mirror.faults
        if faults.challenge and authorization != self._expected(faults.challenge):
            realm = faults.realm or f"http://{self.mirror.address}/token"
            scope = f'{faults.challenge} realm="{realm}",service="test",scope="repository:library/app:pull"'
            body = b'{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}'
            self._send(Answer(401, {"www-authenticate": scope}, body))
        elif faults.statuses[last]:
            status = faults.statuses[last].pop(0)
            self._send(Answer(status, {}, json.dumps({"errors": [{"code": "X", "message": "ordered"}]}).encode()))
        elif "/blobs/" in url.path:
            self._send(self._blob(url.path, last), cut=faults.cuts[last].pop(0) if faults.cuts[last] else None)
        else:
            answer = self.mirror.origin.request("GET", url.path.removeprefix("/v2/"), credential=ANONYMOUS)
            self._send(Answer(answer.status, {**answer.headers, **faults.headers}, self._spoilt(last, answer.body)))

    def _blob(self, path: str, digest: str) -> Answer:
        repository = path.removeprefix("/v2/").partition("/blobs/")[0]
        start = int((self.headers["range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        try:
            body = self.mirror.origin.open(ContentRef(repository, digest), 0, None, credential=ANONYMOUS)
        except OriginRefusedError as refusal:
            return Answer(refusal.status, {}, refusal.body)
        with body:
            content = bytearray(body.size_bytes)
            body.readinto(memoryview(content))
        whole = self._spoilt(digest, bytes(content))
        if digest in self.mirror.faults.held:
            self.mirror.faults.held[digest].wait(30)
        if start == 0 or self.mirror.faults.ignores_range:
            return Answer(200, {}, whole)
        content_range = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        return Answer(206, {"content-range": content_range} | self.mirror.faults.headers, whole[start:])

    def _spoilt(self, last: str, content: bytes) -> bytes:
        if last in self.mirror.faults.wrong:
            content = bytes([content[0] ^ 1]) + content[1:]
        return content[:-1] if last in self.mirror.faults.short else content

    def _token(self, query: dict[str, list[str]], authorization: str | None) -> None:
        if authorization != self._expected("Basic") or query["scope"] != ["repository:library/app:pull"]:
            self._send(Answer(401, {}, b"{}"))
            return
        self._send(Answer(200, {}, json.dumps({"token": TOKEN}).encode()))

    def _expected(self, scheme: str) -> str:
        pair = f"{self.mirror.username}:{self.mirror.password}"
        return "Basic " + base64.b64encode(pair.encode()).decode() if scheme == "Basic" else f"Bearer {TOKEN}"

    def _send(self, answer: Answer, *, cut: int | None = None) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        try:
            self.wfile.write(answer.body[:cut])
        except OSError:
            self.close_connection = True  # the client was interrupted
        if cut is not None:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Nobody wants to read it."""
