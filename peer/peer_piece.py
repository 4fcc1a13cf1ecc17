"""One piece from a neighbour into the store, in a worker thread.

A neighbour is one more origin, at which nothing is tried twice: the same client that talks to registries asks it for a
range of the blob, and the piece takes the same way into the store (`peer.origin_range`). The difference is the digest
of the piece, which is known before: a piece that does not match it never reaches the store.

With certificates, a neighbour that has told this host a key is asked outside of TLS, and its answer is encrypted under
that key (`peer.trust.piece_keys`). If it does not know the key (any more), it is asked over TLS.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blake3 import blake3

from peer.core.events import PeerOutcome, Sample
from peer.errors import (
    FetchStoppedError,
    OriginBrokenError,
    OriginCorruptError,
    OriginRefusedError,
    OriginUnreachableError,
    OriginUnusableError,
    P2pdError,
    PeerBusyError,
    PeerCorruptError,
    PeerGoneError,
    PieceDiffersError,
)
from peer.origin.api import ContentRef, Credential
from peer.origin.body import HttpBody
from peer.origin.client import HttpOrigin
from peer.origin.clock import Clock, SystemClock
from peer.origin.upstream import Upstream
from peer.pacing import PACED_BYTES, pacing_bucket
from peer.store import Blob, Landed
from peer.store.buffers import BufferPool
from peer.trust.piece_keys import PieceRequest
from scheduler.trust.errors import TrustError

if TYPE_CHECKING:
    from peer.background.transport import BackgroundWay
    from peer.trust.host_trust import HostTrust
    from peer.trust.piece_keys import AnswerKey, HeldKey

REPOSITORY = "swarm"
"""Under this name the peer port serves blobs (`peer.net.peer_server`)."""

CONNECTIONS = 8
CONNECT_S = 2.0
STALL_S = 5.0

MIN_RECORD_BYTES = 4096
"""Each record costs some microseconds. Those of p2pd have 256 KiB."""

HOST_HEADER = "P2PD-Host"
"""Says which host asks for a piece, so that a host that chokes it can unchoke it later."""

BACKGROUND = "background"
"""The query of a request for a piece that no client waits for: hosts that know it serve such requests last."""

CHOKED_HEADER = "P2PD-Choked"
"""Comes with a piece from a host that has others to serve first now."""


def neighbour_origin(host: str, address: str, asking: str, trust: HostTrust | None = None) -> HttpOrigin:
    """A client for a neighbour's peer port: kept-alive connections, one attempt, no proxy, short timeouts.

    `asking` is the host that asks: this one. With `trust`, the connections are TLS, and `host` is who its certificate
    says.
    """
    upstream = Upstream(
        name=host,
        endpoints=(f"{'http' if trust is None else 'https'}://{address}",),
        max_connections=CONNECTIONS,
        connect_s=CONNECT_S,
        stall_s=STALL_S,
        slot_wait_s=STALL_S,
        max_attempts=1,
        max_retry_after_s=0.0,
        cooldown_s=0.0,
        asks_without_range=False,
        follows_redirects=False,
        traced=True,
    )
    return HttpOrigin(
        upstream, environ={}, headers={HOST_HEADER: asking}, peer=None if trust is None else _Neighbour(host, trust)
    )


@dataclass(frozen=True, slots=True)
class _Neighbour:
    """`peer.origin.trust.TlsPeer`, by certificates of the cluster."""

    host: str
    trust: HostTrust

    def get(self) -> ssl.SSLContext:
        try:
            return self.trust.client
        except TrustError as error:
            raise OSError(str(error)) from None

    def check(self, connection: ssl.SSLSocket) -> None:
        try:
            self.trust.check(connection, self.host)
        except TrustError as error:
            raise OSError(str(error)) from None


@dataclass(frozen=True, slots=True)
class PieceSource:
    """A neighbour: a client for its peer port, and one for what is asked under a key outside of TLS.

    `plain`: neither host encrypts what it sends so.
    """

    origin: HttpOrigin
    outside_tls: HttpOrigin | None = None
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
        self._body: HttpBody | None = None
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
        with buffers.buffer(stop - start + self._spare_bytes()) as buffer, self.blob.pin():
            try:
                self._receive(buffer, start, stop, pace)
            except OriginRefusedError as error:
                if error.status == 429:
                    raise PeerBusyError(str(error)) from None
                raise PeerGoneError(str(error)) from None
            except (OriginUnreachableError, OriginBrokenError, OriginCorruptError, OriginUnusableError) as error:
                if self._stopped.is_set():
                    raise FetchStoppedError("stopped") from None
                raise PeerGoneError(str(error)) from None
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
                    way.fetch(self._source.origin, self.blob, self.index, self._stopped) as arriving,
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
            if self._body is not None:
                self._body.abort()

    def _spare_bytes(self) -> int:
        """What is needed behind a piece to decrypt it: room for one record and, before it, the last delimiter."""
        if self._source.key is None or self._source.plain:
            return 0
        from peer.trust.aes128gcm import RECORD_BYTES  # `cryptography` is not for a node without trust: 10 MiB

        return 1 + RECORD_BYTES

    def _receive(self, buffer: memoryview, start: int, stop: int, pace: Pace) -> None:
        if self._stopped.is_set():
            raise OriginBrokenError("stopped before it began")
        key, outside_tls = self._source.key, self._source.outside_tls
        if key is not None and outside_tls is not None:
            try:
                if self._source.plain:
                    self._receive_range(outside_tls, key, buffer, start, stop, pace)
                else:
                    self._receive_encrypted(outside_tls, key, buffer, start, stop, pace)
            except OriginRefusedError as error:
                if error.status != 401:
                    raise
            else:
                return
        self._receive_range(self._source.origin, None, buffer, start, stop, pace)

    def _receive_range(
        self, origin: HttpOrigin, key: HeldKey | None, buffer: memoryview, start: int, stop: int, pace: Pace
    ) -> None:
        ref = ContentRef(REPOSITORY, self.blob.digest, query=self._query)
        credential = Credential()
        if key is not None:
            target = self._target(REPOSITORY)
            credential = Credential(key.authorize(PieceRequest("GET", target, f"bytes={start}-{stop - 1}"))[0])
        with buffer[: stop - start] as piece, origin.open(ref, start, stop, credential=credential) as body:
            self._begin(body)
            if (body.start, body.stop, body.size_bytes) != (start, stop, self.blob.size_bytes):
                raise OriginCorruptError("the neighbour has another blob, or ignores Range")
            step = pace.slice_bytes or len(piece)
            for at in range(0, len(piece), step):
                with piece[at : at + step] as part:
                    _fill(body, part)
                    pace.wait(len(part), self._stopped)

    def _receive_encrypted(
        self, origin: HttpOrigin, key: HeldKey, buffer: memoryview, start: int, stop: int, pace: Pace
    ) -> None:
        """Decrypt the answer into the beginning of `buffer`, record by record from its end."""
        from peer.trust.aes128gcm import CodingError

        repository = f"{REPOSITORY}/{start}-{stop - 1}"
        authorization, answer_key = key.authorize(PieceRequest("GET", self._target(repository), ""))
        ref = ContentRef(repository, self.blob.digest, query=self._query)
        with origin.open(ref, 0, None, credential=Credential(authorization)) as body:
            self._begin(body)
            try:
                self._decrypt(body, answer_key, buffer, stop - start, pace)
            except CodingError as error:
                raise OriginBrokenError(f"not what the neighbour has encrypted: {error}") from None

    def _target(self, repository: str) -> str:
        return f"/v2/{repository}/blobs/{self.blob.digest}{f'?{self._query}' if self._query else ''}"

    def _decrypt(self, body: HttpBody, key: AnswerKey, buffer: memoryview, size_bytes: int, pace: Pace) -> None:
        """Raises CodingError, and what `body` raises."""
        from peer.trust.aes128gcm import HEADER_BYTES, RECORD_BYTES, CodingError, Decoder, Header

        if not HEADER_BYTES < body.stop <= len(buffer) + size_bytes:
            raise CodingError(f"a message of {body.stop} bytes for a piece of {size_bytes}")
        begin = bytearray(HEADER_BYTES + len(key.key_id))
        with memoryview(begin) as view:
            _fill(body, view)
        begin_bytes = bytes(begin[:HEADER_BYTES])
        header = Header(begin_bytes, max_record_bytes=RECORD_BYTES, min_record_bytes=MIN_RECORD_BYTES)
        if header.key_id_bytes != len(key.key_id) or begin[HEADER_BYTES:] != key.key_id:
            raise CodingError("it is under another key")
        decoder, filled, left = Decoder(key.input_key, header), 0, body.stop - len(begin)
        while left:
            length = min(left, header.record_bytes)
            left -= length
            with buffer[size_bytes + 1 :][:length] as record, buffer[filled : size_bytes + 1] as data:
                _fill(body, record)
                received = decoder.decrypt(record, data)
            filled += received
            pace.wait(received, self._stopped)
        if not decoder.ended or filled != size_bytes:
            raise CodingError("it ends early")

    def _begin(self, body: HttpBody) -> None:
        """The headers have come."""
        with self._lock:
            self._body = body
            if self._stopped.is_set():
                body.abort()
        self.choked = CHOKED_HEADER.lower() in body.headers


def _fill(body: HttpBody, view: memoryview) -> None:
    if body.readinto(view) < len(view):
        raise OriginBrokenError("the neighbour's answer ended early")


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
