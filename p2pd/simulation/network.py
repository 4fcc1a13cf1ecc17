"""What a simulated host sees of the world: the time, and the ways to other hosts, the schedulers and the origin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from p2pd.simulation.bandwidth import Flow, Line
from p2pd.simulation.event_queue import EventQueue
from peer.core.choker import UploadRequest
from peer.core.events import FetchSample, Instruction, RequestPiece, RequestRange
from scheduler.protocol.codec import FromHost
from scheduler.protocol.link import LinkMessage


class PieceRequest:
    """A piece that was asked of a neighbour, from the request to its end."""

    __slots__ = (
        "flow",
        "latency_s",
        "lines",
        "receiver",
        "requeue",
        "sender",
        "size_bytes",
        "upload_request",
        "waits",
        "wanted",
    )

    def __init__(
        self,
        receiver: str,
        wanted: RequestPiece,
        *,
        size_bytes: int,
        latency_s: float,
        lines: tuple[Line, ...],
        far: bool,
    ) -> None:
        self.receiver: Final = receiver
        self.sender: Final = wanted.host
        self.wanted: Final = wanted
        self.size_bytes: Final = size_bytes
        self.latency_s: Final = latency_s
        self.lines: Final = lines
        self.flow: Flow | None = None
        self.upload_request = UploadRequest(receiver, wanted.digest, far)
        self.requeue = False
        """The sender has others to serve then, and tells who asks when it can come again."""
        self.waits = True
        """It has not been answered, and nobody has taken it back."""


class Network:
    """The ways between hosts, each known by its name; `peer.core.host` gives the numbers of requests."""

    def __init__(self, event_queue: EventQueue) -> None:
        self.event_queue: Final = event_queue

    def say(self, name: str, names: Iterable[str], message: LinkMessage) -> None:
        """A host sends a message to neighbours."""
        raise NotImplementedError

    def tell(self, name: str, message: FromHost, url: str) -> None:
        """A host sends a message to the scheduler at a URL, if it is connected there."""
        raise NotImplementedError

    def keep_schedulers(self, name: str, urls: tuple[str, ...]) -> None:
        """A host keeps a connection to each of these schedulers, and to no other."""
        raise NotImplementedError

    def request_piece(self, name: str, wanted: RequestPiece) -> None:
        """A host asks a neighbour for a piece."""
        raise NotImplementedError

    def request_range(self, name: str, wanted: RequestRange) -> None:
        """A host asks the origin for pieces."""
        raise NotImplementedError

    def fetch_sample(self, name: str, wanted: FetchSample) -> None:
        """A host asks the origin for few bytes of a piece."""
        raise NotImplementedError

    def send(self, request: PieceRequest) -> None:
        """A host sends a piece that it was asked for."""
        raise NotImplementedError

    def cancel(self, name: str, request: int) -> None:
        """A host does not want any more what it has asked for."""
        raise NotImplementedError

    # -- for whoever watches ---------------------------------------------------------------------------------------

    def did(self, name: str, instruction: Instruction) -> None:
        """A host does something."""

    def received(self, name: str, digest: bytes, index: int, piece_digest: bytes) -> None:
        """A host has marked a piece as held."""

    def completed(self, name: str, digest: bytes) -> None:
        """A host has a blob, verified."""
