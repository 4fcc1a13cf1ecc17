"""What a host has asked of origins and neighbours: each request in a worker thread, from its start to its one event.

A request that was made for a download that has ended may still bring a piece: the piece is for the download that has
the same file of the blob, if there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import structlog
from msgspec import Struct

from peer import tracing
from peer.arrival import Arrival
from peer.background_pace import BackgroundPace
from peer.core import events
from peer.core.events import Event, Outcome, PeerOutcome
from peer.core.origin_requests import REFUSED_CREDENTIAL
from peer.errors import (
    OriginCorruptError,
    OriginRefusedError,
    OriginResizedError,
    P2pdError,
    StoreBrokenError,
    StoreError,
)
from peer.neighbour_bytes import NeighbourBytes
from peer.net.neighbour_clients import NeighbourClients
from peer.origin_range import OriginRange, OriginSource, outcome_of
from peer.origin_sample import fetch_sample
from peer.peer_piece import Pace, PeerPiece, peer_outcome_of
from peer.store import Blob, Store
from peer.workers import Workers

if TYPE_CHECKING:
    from peer.background.transport import BackgroundTransport

log = structlog.get_logger("peer.transfers")


class Transfers:
    """On the event loop. `post` takes the event that each request ends with, and those of the pieces before it."""

    def __init__(
        self,
        arrivals: Mapping[bytes, Arrival],
        store: Store,
        workers: Workers,
        neighbours: NeighbourClients,
        post: Callable[[Event], None],
        *,
        rate_bytes_per_s: int,
    ) -> None:
        self.origin_bytes = 0
        self.peer_bytes = 0
        self.from_neighbours = NeighbourBytes()
        self.corrupt_pieces = 0
        self.unusable_answers = 0
        self.reread_bytes = 0
        self._arrivals = arrivals
        self._store = store
        self._workers = workers
        self._neighbours = neighbours
        self._post = post
        self.pace = Pace(rate_bytes_per_s)
        self.background_pace = Pace(0)
        """The limit on what no client waits for, from neighbours and origins together."""
        self.background: BackgroundTransport | None = None
        """How pieces come that give way; None: as all others do."""
        self.loop = asyncio.get_running_loop()
        self._ranges: dict[int, OriginRange] = {}
        self._pieces: dict[int, PeerPiece] = {}

    def cancel(self, request: int) -> None:
        """End a request soon; it is still answered by its event."""
        running = self._ranges.get(request) or self._pieces.get(request)
        if running is not None:  # else its end is about to be told
            running.stop()

    def trim(self, request: int, stop: int) -> None:
        """End a request before piece `stop`; it is still answered by its event."""
        running = self._ranges.get(request)
        if running is not None:
            running.trim(stop)

    def request_range(self, wanted: events.RequestRange) -> None:
        arrival = self._arrivals[wanted.digest]
        source = arrival.sources[wanted.source]
        is_background = partial(_is_background, arrival)
        pace = BackgroundPace(Pace(0), self.background_pace, is_background)  # origins have rates of their own
        started = OriginRange(source, arrival.blob, wanted.first, wanted.stop, is_background=is_background, pace=pace)
        self._ranges[wanted.request] = started
        context = "" if arrival.trace is None else arrival.trace.asked(wanted.request, "origin", source.upstream)
        self._workers.start(self._run_range, arrival, wanted.request, started, context)

    def _run_range(self, arrival: Arrival, request: int, started: OriginRange, context: str) -> None:
        """In a thread: receive the range, and tell the loop of what comes of it."""
        tell = self.loop.call_soon_threadsafe
        error: Exception | None = None
        try:
            with tracing.sending(context):
                relay = _RangeRelay(self, arrival, request)
                started.run(self._store, self._workers.buffers, relay, self._workers.start)
        except Exception as raised:  # a defect of ours is told like any other end
            error = raised
        tell(self._range_ended, arrival, request, error)

    def range_opened(self, arrival: Arrival, request: int, blob: Blob, first: int, stop: int) -> None:
        arrival.adopt(blob)
        arrival.answered = True
        if request in self._ranges:
            length = blob.header.piece_length
            self._post(events.RangeOpened(arrival.raw, request, blob.size_bytes, length, first, stop))
        arrival.wake()

    def _range_ended(self, arrival: Arrival, request: int, error: Exception | None) -> None:
        del self._ranges[request]
        outcome, status, size_bytes = Outcome.DONE, 0, None
        if isinstance(error, P2pdError):
            if not (is_refused_credential(error) and is_refused_credential(arrival.last_error)):
                arrival.last_error = error  # a client's own refusal stays, when p2pd's own credential fails too
            outcome = outcome_of(error)
            status = error.status if isinstance(error, OriginRefusedError) else 0
            size_bytes = error.size_bytes if isinstance(error, OriginResizedError) else None
            if outcome is Outcome.UNUSABLE and size_bytes is None:  # else the swarm may have been told a wrong length
                self.unusable_answers += 1
                log.warning("an origin's answer could not be used", digest=arrival.digest, error=str(error))
        elif error is not None:
            log.error("a transfer failed", digest=arrival.digest, exc_info=error)
            outcome = Outcome.FATAL
        if arrival.trace is not None:
            arrival.trace.answered(request, outcome.value)
        self._post(events.RangeEnded(arrival.raw, request, outcome, status, size_bytes))

    def fetch_sample(self, wanted: events.FetchSample) -> None:
        source = self._arrivals[wanted.digest].sources[wanted.source]
        self._workers.start(self._run_sample, source, wanted)

    def _run_sample(self, source: OriginSource, wanted: events.FetchSample) -> None:
        """In a thread: ask the origin for few bytes, and tell the loop what came."""
        data: bytes | None = None
        try:
            data = fetch_sample(source, wanted)
        except Exception:  # a defect of ours is told like any other end
            log.exception("a sample could not be fetched", digest=source.ref.digest, piece=wanted.index)
        self.loop.call_soon_threadsafe(self._sampled, wanted, data)

    def _sampled(self, wanted: events.FetchSample, data: bytes | None) -> None:
        self.origin_bytes += len(data or b"")
        self._post(events.SampleFetched(wanted.digest, wanted.request, data))

    def request_piece(self, wanted: events.RequestPiece) -> None:
        arrival = self._arrivals[wanted.digest]
        source = self._neighbours.get(wanted.host)
        if source is None or arrival.blob is None:
            self.loop.call_soon(self._post, events.PieceFailed(wanted.digest, wanted.request, PeerOutcome.GONE))
            return
        way = None
        if self.background is not None and arrival.background:
            address = self._neighbours.address(wanted.host)
            way = self.background.way(arrival.digest, wanted.host, address, partial(_is_background, arrival))
        piece = PeerPiece(
            source, arrival.blob, wanted.index, wanted.expected, wanted.sample, background=arrival.background, way=way
        )
        self._pieces[wanted.request] = piece
        context = "" if arrival.trace is None else arrival.trace.asked(wanted.request, "neighbour", wanted.host)
        self._workers.start(self._run_piece, arrival, wanted, piece, context)

    def _run_piece(self, arrival: Arrival, wanted: events.RequestPiece, piece: PeerPiece, context: str) -> None:
        """In a thread: get the piece, and tell the loop once it is held: the neighbour has done its part then."""
        tell = self.loop.call_soon_threadsafe

        def on_held(index: int, digest: bytes) -> None:
            tell(self._piece_received, wanted, piece, index, digest)

        try:
            pace = BackgroundPace(self.pace, self.background_pace, partial(_is_background, arrival))
            with tracing.sending(context):
                landed = piece.run(self._workers.buffers, pace, on_held)
        except Exception as error:  # a defect of ours is told like any other end
            tell(self._piece_failed, arrival, wanted, error)
        else:
            if landed.whole is not None:
                tell(self.verified, piece.blob, landed.whole)

    def _piece_received(self, wanted: events.RequestPiece, piece: PeerPiece, index: int, digest: bytes) -> None:
        start, stop = piece.blob.span(index)
        self.peer_bytes += stop - start
        self.from_neighbours.add(wanted.host, stop - start)
        piece.blob.came = piece.blob.came.plus(peer_bytes=stop - start)
        del self._pieces[wanted.request]
        self._received(piece.blob, wanted.request, index, digest, choked=piece.choked)
        arrival = self._arrivals.get(piece.blob.digest.raw)
        if arrival is not None and arrival.trace is not None:
            arrival.trace.answered(wanted.request, "done")

    def _piece_failed(self, arrival: Arrival, wanted: events.RequestPiece, error: Exception) -> None:
        """A request has ended without its piece, or with the piece but not with its part of the SHA-256."""
        was_running = self._pieces.pop(wanted.request, None) is not None
        outcome = peer_outcome_of(error) if isinstance(error, P2pdError) else PeerOutcome.CANCELLED
        if outcome is PeerOutcome.CORRUPT:
            self.corrupt_pieces += 1
            log.warning("a neighbour sent wrong bytes", host=wanted.host, digest=arrival.digest, piece=wanted.index)
        elif outcome is PeerOutcome.DIFFERS:
            log.warning("a piece has other bytes than the origin", digest=arrival.digest, piece=wanted.index)
        if was_running and arrival.trace is not None:
            arrival.trace.answered(wanted.request, outcome.value)
        if was_running:
            self._post(events.PieceFailed(arrival.raw, wanted.request, outcome))
        if isinstance(error, StoreError):
            if self._arrivals.get(arrival.raw) is arrival:
                arrival.last_error = error
                self._post(events.StoreFailed(arrival.raw, discard=isinstance(error, StoreBrokenError)))
        elif not isinstance(error, P2pdError):
            log.error("a request to a neighbour failed", digest=arrival.digest, piece=wanted.index, exc_info=error)

    def _received(self, blob: Blob, request: int, index: int, digest: bytes, *, choked: bool = False) -> None:
        """A piece is in the store, for the download that has its blob: one that has ended has handed it over."""
        arrival = self._arrivals.get(blob.digest.raw)
        if arrival is None or arrival.blob is not blob:
            return
        arrival.answered = True
        if arrival.trace is not None:
            start, stop = blob.span(index)
            arrival.trace.received(request, stop - start)
        self._post(events.PieceReceived(arrival.raw, request, index, digest, choked))
        arrival.wake()

    def range_received(self, blob: Blob, request: int, index: int, digest: bytes) -> None:
        start, stop = blob.span(index)
        self.origin_bytes += stop - start
        blob.came = blob.came.plus(origin_bytes=stop - start)
        self._received(blob, request, index, digest)

    def verified(self, blob: Blob, ok: bool) -> None:
        arrival = self._arrivals.get(blob.digest.raw)
        if arrival is None or arrival.blob is not blob:
            return
        self.reread_bytes += blob.reread_bytes
        if not ok:
            arrival.last_error = OriginCorruptError(
                f"the bytes that came for {blob.digest} have another SHA-256; they were removed"
            )
        self._post(events.BlobVerified(arrival.raw, ok))


def _is_background(arrival: Arrival) -> bool:
    return arrival.background


def is_refused_credential(error: P2pdError | None) -> bool:
    """Whether the origin refused who asked, and not what was asked for."""
    return isinstance(error, OriginRefusedError) and error.status in REFUSED_CREDENTIAL


class _RangeRelay(Struct, frozen=True):
    """Carries what a range reports from its thread to the event loop, in order."""

    transfers: Transfers
    arrival: Arrival
    request: int

    def opened(self, blob: Blob, first: int, stop: int) -> None:
        self.transfers.loop.call_soon_threadsafe(
            self.transfers.range_opened, self.arrival, self.request, blob, first, stop
        )

    def received(self, blob: Blob, index: int, digest: bytes) -> None:
        self.transfers.loop.call_soon_threadsafe(self.transfers.range_received, blob, self.request, index, digest)

    def verified(self, blob: Blob, ok: bool) -> None:
        self.transfers.loop.call_soon_threadsafe(self.transfers.verified, blob, ok)
