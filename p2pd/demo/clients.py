"""The clients of the demonstration: each node has a client, and all pull the image at once, as runtimes would."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final

from p2pd.pull.image import PullRequest, pull
from peer.errors import P2pdError
from peer.oci.reference import parse_image_reference
from peer.origin.clock import SystemClock

if TYPE_CHECKING:
    from p2pd.demo.node import DemoNode
    from p2pd.demo.shutdown import Shutdown

_LOOK_EVERY_S: Final = 0.25


class DemoFailedError(P2pdError):
    """A pull of the demonstration brought wrong or missing blobs."""


class Client:
    """A `PullProgress` of one node's pull: the bytes that the client got, and the sources that the node used."""

    def __init__(self, node: DemoNode) -> None:
        self.name = node.name
        self.received_bytes = 0
        self.origin_bytes = 0
        self.peer_bytes = 0
        self.seconds: float | None = None
        self._node = node
        self._lock = threading.Lock()
        status = node.admin.status()
        self._before = status["downloads"]
        self.has_certificate = status["swarm"]["certificate_expires_s"] is not None

    @property
    def cache_bytes(self) -> int:
        """The bytes that the node held before the pull."""
        return max(0, self.received_bytes - self.origin_bytes - self.peer_bytes)

    def look(self) -> None:
        """Ask the node for the bytes from each source since this client began."""
        now = self._node.admin.status()["downloads"]
        self.origin_bytes = now["origin_bytes"] - self._before["origin_bytes"]
        self.peer_bytes = now["peer_bytes"] - self._before["peer_bytes"]

    def pull(self, reference: str, started: float, interrupted: threading.Event) -> None:
        """Pull the image and judge every digest. Raises P2pdError."""
        request = PullRequest(parse_image_reference(reference), self._node.mirror)
        report = pull(request, self, clock=_InterruptedClock(interrupted))
        for verdict in report.verdicts:
            if not verdict.ok:
                raise DemoFailedError(f"{self.name}: {verdict.digest} did not come right: {verdict.error}")
        self.received_bytes = report.fetched_bytes
        self.seconds = time.monotonic() - started

    def on_layer(self, digest: str, size_bytes: int, media_type: str) -> None: ...

    def on_bytes(self, digest: str, count: int) -> None:  # noqa: ARG002 (all blobs are one bar)
        with self._lock:
            self.received_bytes += count

    def on_verdict(self, digest: str, ok: bool, seconds: float) -> None: ...


def pull_at_once(
    nodes: Sequence[DemoNode], reference: str, run_demo: Callable[[Sequence[Client]], None], shutdown: Shutdown
) -> tuple[Sequence[Client], float]:
    """Pull the image at all nodes at the same moment. Returns the clients, and the seconds until the last finished.

    `run_demo` is called now and then, and at the end. Raises P2pdError, and EndedError after a signal.
    """
    clients = [Client(node) for node in nodes]
    interrupted = threading.Event()
    threads = ThreadPoolExecutor(len(clients), thread_name_prefix="client")
    started = time.monotonic()
    try:
        pulls = [threads.submit(client.pull, reference, started, interrupted) for client in clients]
        working = True
        while working:
            working = bool(wait(pulls, timeout=_LOOK_EVERY_S).not_done)
            shutdown.check()
            for client in clients:
                client.look()
            run_demo(clients)
        for each in pulls:
            each.result()
    finally:  # a client that still pulls ends with its node, which is stopped next: it is not waited for here
        interrupted.set()
        threads.shutdown(wait=False)
    return clients, max(client.seconds or 0.0 for client in clients)


class _InterruptedClock(SystemClock):
    """A clock without waits after the demonstration was interrupted."""

    def __init__(self, interrupted: threading.Event) -> None:
        self._interrupted = interrupted

    def wait(self, ended: threading.Event, seconds: float) -> bool:
        return self._interrupted.wait(seconds) or ended.is_set()
