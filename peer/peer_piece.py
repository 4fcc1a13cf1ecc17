"""One piece from a neighbour into the store, in a worker thread.

A neighbour is asked for a range of the blob, once, and the piece takes the same way into the store as an origin's
(`peer.origin_range`). The difference is the digest of the piece, which is known before: a piece that does not match it
never reaches the store.

With certificates, a neighbour that has told this host a key is asked outside of TLS, and its answer is encrypted under
that key (`peer.trust.piece_keys`). If it does not know the key (any more), it is asked over TLS.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from blake3 import blake3
from msgspec import Struct

from peer.core.events import PeerOutcome, Sample
from peer.errors import (
    FetchStoppedError,
    P2pdError,
    PeerBusyError,
    PeerCorruptError,
    PeerGoneError,
    PieceDiffersError,
)
from peer.neighbour_http import Answer, NeighbourClient, shut_down
from peer.origin.clock import Clock, SystemClock
from peer.pacing import PACED_BYTES, pacing_bucket
from peer.store import Blob, Landed
from peer.store.buffers import BufferPool
from peer.trust.piece_keys import PieceRequest

if TYPE_CHECKING:
    from peer.background.transport import BackgroundWay
    from peer.trust.piece_keys import HeldKey

REPOSITORY = "swarm"
"""Under this name the peer port serves blobs (`peer.net.peer_server`)."""

BACKGROUND = "background"
"""The query of a request for a piece that no client waits for: hosts that know it serve such requests last."""


class PieceSource(Struct, frozen=True):
    """A neighbour: a client for its peer port, and one for what is asked under a key outside of TLS.

    `plain`: neither host encrypts what it sends so.
    """

    client: NeighbourClient
    outside_tls: NeighbourClient | None = None
    key: HeldKey | None = None
    plain: bool = False


class Pace:
    """A limit on the bytes per second that all pieces together take; 0 is none. For threads."""

    def __init__(self, rate_bytes_per_s: int, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.rate_bytes_per_s = rate_bytes_per_s
        self._bucket = pacing_bucket(rate_bytes_per_s)
        self._lock = threading.Lock()

    def set_rate(self, rate_bytes_per_s: int) -> None:
        """From now on this is the rate, also of pieces under way."""
        with self._lock:
            self.rate_bytes_per_s = rate_bytes_per_s
            self._bucket = pacing_bucket(rate_bytes_per_s)

    @property
    def slice_bytes(self) -> int | None:
        """What to take between two waits; None: all at once."""
        return None if self._bucket is None else PACED_BYTES

    def owed_s(self, taken_bytes: int) -> float:
        """Count `taken_bytes`; returns how long to wait for having been allowed them."""
        with self._lock:
            return self._bucket.take(taken_bytes, self.clock.monotonic()) if self._bucket else 0.0

    def wait(self, taken_bytes: int, stopped: threading.Event) -> None:
        """Wait as long as it takes to have been allowed `taken_bytes`, or until `stopped`."""
        if seconds := self.owed_s(taken_bytes):
            self.clock.wait(stopped, seconds)


class PeerPiece:
    """One request to a neighbour for a piece, whose BLAKE3 is `expected`. `run` in a thread, `stop` from anywhere.

    `choked`: with the piece the neighbour has said that others come first now.
    """

    def __init__(
        self,
        source: PieceSource,
        blob: Blob,
        index: int,
        expected: bytes,
        sample: Sample | None = None,
        *,
        background: bool = False,
        way: BackgroundWay | None = None,
    ) -> None:
        """`background`: no client waits for the blob. `way`: it is to come so as long as that holds."""
        self._way = way
        self._query = BACKGROUND if background else ""
        self.blob = blob
        self.index = index
        self.choked = False
        self._expected = expected
        self._sample = sample
        self._source = source
        self._stopped = threading.Event()
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def run(self, buffers: BufferPool, pace: Pace, on_held: Callable[[int, bytes], None]) -> Landed:
        """The piece, verified and in the store; `on_held` as for `Blob.land`: the neighbour has done its part then.

        Raises PeerBusyError, PeerGoneError, PeerCorruptError, PieceDiffersError, FetchStoppedError, StoreError.
        """
        start, stop = self.blob.span(self.index)
        if self._way is not None:
            landed = self._run_in_background(self._way, buffers, pace, on_held)
            if landed is not None:
                return landed
        # The buffer first: a neighbour's upload slot is not to be held while we wait for memory.
        with buffers.buffer(stop - start + self._spare_bytes(stop - start)) as buffer, self.blob.pin():
            try:
                self._receive(buffer, start, stop, pace)
            except PeerGoneError:
                if self._stopped.is_set():
                    raise FetchStoppedError("stopped") from None
                raise
            with buffer[: stop - start] as piece:
                self._compare(piece)
                return self.blob.land(self.index, piece, self._expected, on_held)

    def _run_in_background(
        self, way: BackgroundWay, buffers: BufferPool, pace: Pace, on_held: Callable[[int, bytes], None]
    ) -> Landed | None:
        """The piece by the background transport; None: it is to come by HTTP.

        What that transport brings is nobody's word: a piece that is wrong is asked for by HTTP, where blame is certain.
        """
        from peer.background.client import BackgroundError, BusyError, WrongPieceError

        start, stop = self.blob.span(self.index)
        with self.blob.pin():
            try:
                with (
                    way.fetch(self._source.client, self.blob, self.index, self._stopped) as arriving,
                    buffers.buffer(stop - start) as buffer,
                    buffer[: stop - start] as piece,
                ):
                    arriving.readinto(piece)
                    if blake3(piece).digest() != self._expected:
                        raise WrongPieceError("a piece came that is not what its digest says")
                    pace.owed_s(stop - start)  # what comes by HTTP waits for it; it has itself come at these rates
                    self._compare(piece)
                    way.received(stop - start)
                    return self.blob.land(self.index, piece, self._expected, on_held)
            except BusyError as error:
                raise PeerBusyError(str(error)) from None
            except BackgroundError as error:
                way.failed(error)
        if not way.is_background():
            self._query = ""
        return None

    def _compare(self, piece: memoryview) -> None:
        """Raises PieceDiffersError. A piece that does not even match its digest is for `land` to refuse."""
        if self._sample is None:
            return
        start, data = self._sample
        if piece[start : start + len(data)] != data and blake3(piece).digest() == self._expected:
            raise PieceDiffersError(f"piece {self.index} of {self.blob.digest} has other bytes than the origin")

    def stop(self) -> None:
        """End it soon."""
        self._stopped.set()
        with self._lock:
            if self._socket is not None:
                shut_down(self._socket)

    def _spare_bytes(self, size_bytes: int) -> int:
        """What is needed beside a piece to decrypt it."""
        if self._source.key is None or self._source.plain:
            return 0
        from peer.encrypted_answer import spare_bytes  # `cryptography` is only for trust: 10 MiB

        return spare_bytes(size_bytes)

    def _receive(self, buffer: memoryview, start: int, stop: int, pace: Pace) -> None:
        key, outside_tls = self._source.key, self._source.outside_tls
        if key is not None and outside_tls is not None:
            try:
                if self._source.plain:
                    self._receive_range(outside_tls, key, buffer, start, stop, pace)
                else:
                    self._receive_encrypted(outside_tls, key, buffer, start, stop, pace)
            except _KeyUnknownError:
                pass
            else:
                return
        self._receive_range(self._source.client, None, buffer, start, stop, pace)

    def _receive_range(
        self, client: NeighbourClient, key: HeldKey | None, buffer: memoryview, start: int, stop: int, pace: Pace
    ) -> None:
        target, span = self._target(REPOSITORY), f"bytes={start}-{stop - 1}"
        fields = f"Range: {span}\r\n"
        if key is not None:
            fields += _authorization(key.authorize(PieceRequest("GET", target, span))[0])
        with buffer[: stop - start] as piece, self._ask(client, target, fields) as answer:
            head = answer.head
            if head.span != (start, stop, self.blob.size_bytes) or head.length != len(piece) or head.is_coded:
                raise PeerGoneError("the neighbour has another blob, or ignores Range")
            step = pace.slice_bytes or len(piece)
            for at in range(0, len(piece), step):
                with piece[at : at + step] as part:
                    answer.readinto(part)
                    pace.wait(len(part), self._stopped)

    def _receive_encrypted(
        self, client: NeighbourClient, key: HeldKey, buffer: memoryview, start: int, stop: int, pace: Pace
    ) -> None:
        from peer.encrypted_answer import receive
        from peer.trust.aes128gcm import CodingError

        target = self._target(f"{REPOSITORY}/{start}-{stop - 1}")
        authorization, answer_key = key.authorize(PieceRequest("GET", target, ""))
        with self._ask(client, target, _authorization(authorization)) as answer:
            try:
                for size_bytes in receive(answer, answer_key, buffer, stop - start, lambda: pace.slice_bytes):
                    pace.wait(size_bytes, self._stopped)
            except CodingError as error:
                raise PeerGoneError(f"not what the neighbour has encrypted: {error}") from None

    def _target(self, repository: str) -> str:
        return f"/v2/{repository}/blobs/{self.blob.digest}{f'?{self._query}' if self._query else ''}"

    def _ask(self, client: NeighbourClient, target: str, fields: str) -> Answer:
        """The answer, if it has the piece. Raises PeerBusyError, PeerGoneError, FetchStoppedError."""
        answer = client.get(target, fields, self._hold)
        status = answer.head.status
        if status not in (200, 206):
            answer.close()
            refusals = {401: _KeyUnknownError, 429: PeerBusyError}
            raise refusals.get(status, PeerGoneError)(f"a piece of {self.blob.digest} was refused with status {status}")
        self.choked = answer.head.is_choked
        return answer

    def _hold(self, busy: socket.socket | None) -> None:
        with self._lock:
            self._socket = busy
        if busy is not None and self._stopped.is_set():
            raise FetchStoppedError("stopped")


class _KeyUnknownError(PeerGoneError):
    """The neighbour does not know the key of the request (any more)."""


def _authorization(value: str) -> str:
    return f"Authorization: {value}\r\n"


def peer_outcome_of(error: P2pdError) -> PeerOutcome:
    """What the error that ended a request to a neighbour says to the core."""
    match error:
        case PeerBusyError():
            return PeerOutcome.CHOKED
        case PeerCorruptError():
            return PeerOutcome.CORRUPT
        case PieceDiffersError():
            return PeerOutcome.DIFFERS
        case PeerGoneError():
            return PeerOutcome.GONE
        case _:
            return PeerOutcome.CANCELLED
