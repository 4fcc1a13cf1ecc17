"""The registry of the demonstration: an image's layout over HTTP, at one rate for all clients together.

The registry stands for that of a whole cluster, whose uplink all nodes share. It counts the bytes that it sends, so the
figures do not depend on the nodes' own counts. It has one image, and the part of the distribution API that a pull uses.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from peer.oci.reference import parse_image_reference
from peer.pacing import PACED_BYTES
from peer.peer_piece import Pace

if TYPE_CHECKING:
    from p2pd.demo.image import BuiltImage
    from peer.oci.descriptor import Descriptor

_RANGE: Final = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")


class DemoRegistry:
    """The content that is served, and the count of bytes that were sent."""

    def __init__(self, layout: Path, image: BuiltImage, rate_bytes_per_s: int) -> None:
        self._blobs = layout / "blobs" / "sha256"
        self._pace = Pace(rate_bytes_per_s)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._sent_bytes = 0
        named = parse_image_reference(image.reference)
        manifests = {named.reference: image.manifest, image.manifest.digest: image.manifest}
        blobs = {blob.digest: blob for blob in (image.config, *(layer.descriptor for layer in image.layers))}
        self._pages: dict[str, Descriptor] = {
            **{f"/v2/{named.repository.name}/manifests/{name}": blob for name, blob in manifests.items()},
            **{f"/v2/{named.repository.name}/blobs/{name}": blob for name, blob in blobs.items()},
        }
        self.url = ""

    @property
    def sent_bytes(self) -> int:
        """Bytes of manifests and blobs that were sent, or are being sent."""
        with self._lock:
            return self._sent_bytes

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve on a free port of loopback, in threads of this process, for the length of the block."""
        with _Server(("127.0.0.1", 0), self._handler()) as server:
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield
            finally:
                self._stopped.set()
                server.shutdown()
                thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:  # http.server's name
                registry.answer(self)

            do_HEAD = do_GET  # noqa: N815 # http.server's name

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # http.server's name
                """Log nothing: the terminal belongs to the demonstration."""

        return Handler

    def answer(self, asked: BaseHTTPRequestHandler) -> None:
        """Answer a GET or a HEAD."""
        blob = self._pages.get(asked.path.partition("?")[0])
        if blob is None:
            asked.send_response(200 if asked.path == "/v2/" else 404)
            asked.send_header("Content-Length", "0")
            asked.end_headers()
            return
        start, stop = 0, blob.size_bytes
        wanted = _RANGE.fullmatch(asked.headers.get("Range", ""))
        if wanted is not None and int(wanted[1]) < stop:
            start, stop = int(wanted[1]), min(stop, int(wanted[2] or stop) + 1)
            asked.send_response(206)
            asked.send_header("Content-Range", f"bytes {start}-{stop - 1}/{blob.size_bytes}")
        else:
            asked.send_response(200)
        asked.send_header("Content-Type", blob.media_type)
        asked.send_header("Content-Length", str(stop - start))
        asked.send_header("Docker-Content-Digest", blob.digest)
        asked.end_headers()
        if asked.command == "GET":
            self._send(asked, self._blobs / blob.digest.hex, start, stop)

    def _send(self, asked: BaseHTTPRequestHandler, path: Path, start: int, stop: int) -> None:
        with path.open("rb") as file:
            file.seek(start)
            while start < stop:
                data = file.read(min(PACED_BYTES, stop - start))
                self._pace.wait(len(data), self._stopped)
                with self._lock:  # before it is sent: a client that has received it finds it counted
                    self._sent_bytes += len(data)
                asked.wfile.write(data)
                start += len(data)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no traceback: a node closes connections when it is stopped, and when another source was quicker."""
