"""A daemon's admin port for tests: real HTTP over a real store, without the daemon."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from msgspec.structs import asdict

from p2pd.admin.images import images_of
from p2pd.admin.secret import secret_in, shows
from p2pd.config.values import parse_address
from peer.errors import BlobInUseError
from peer.store import Store

SECRET = "a-secret"


@dataclass
class Admin:
    """What is served, and where. `answers` go before all else, by path."""

    store: Store
    address: str = ""
    status: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def answer(self, method: str, path: str, has_secret: bool) -> tuple[int, object]:
        if path != "/status" and not has_secret:
            return 403, []
        match method, path.strip("/").split("/"):
            case "GET", ["status"]:
                return 200, self.status
            case "GET", ["cache"]:
                return 200, [asdict(blob) for blob in self.store.blobs()]
            case "GET", ["cache", "images"]:
                return 200, [asdict(image) for image in images_of(self.store)]
            case "DELETE", ["cache", digest]:
                try:
                    found = self.store.remove(digest)
                except BlobInUseError as error:
                    return 409, {"error": str(error)}
                return (200, {}) if found else (404, {"error": "no such blob"})
            case "POST", ["cache", "gc"]:
                removed = self.store.collect()
                freed_bytes = sum(blob.size_bytes for blob in removed)
                return 200, {"removed": [blob.digest for blob in removed], "freed_bytes": freed_bytes}
            case "POST", ["cache", "verify"]:
                return 200, asdict(self.store.verify())
        return 404, {"error": "no such page"}


@contextmanager
def serve(admin: Admin) -> Iterator[Admin]:
    """Serve it on loopback while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # http.server's name
            if self.path in admin.answers:
                status, body = admin.answers[self.path]
            else:
                has_secret = shows(self.headers.get("Authorization", ""), SECRET)
                status, answer = admin.answer(self.command, self.path, has_secret)
                body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_DELETE = do_GET  # noqa: N815 # http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # http.server's name
            """Tests print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        admin.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with secret_in(admin.store.directory, SECRET, parse_address(admin.address)):
                yield admin
        finally:
            server.shutdown()
            thread.join()
