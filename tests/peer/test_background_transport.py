"""When a piece of the background transport goes on, is asked for again, or comes by HTTP instead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peer.background.client import BackgroundError, BusyError, WrongPieceError
from peer.background.transport import Arriving, BackgroundTransport, BackgroundWay, Ticketed, content_of
from peer.errors import FetchStoppedError, PeerBusyError
from peer.neighbour_http import NeighbourClient
from peer.oci.digest import Digest
from peer.peer_piece import Pace, PeerPiece, PieceSource
from peer.store import Blob, Store
from peer.store.buffers import BufferPool
from scheduler.protocol.geometry import MIN_PIECE_BYTES
from tests.peer.test_background_process import Pair, pair
from tests.support.registry_server import PATIENCE_S as PROCESS_PATIENCE_S

__all__ = ["pair"]

RATE = 1_000_000
PATIENCE_S = 0.1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.open(tmp_path / "store", max_bytes=1 << 30, min_free_bytes=0, ttl_s=0)
    yield made
    made.close()


class Neighbour:
    """A host in another site that shares a blob of two pieces, and what it is asked by."""

    def __init__(self, pair: Pair, store: Store, *, proven: bool = True) -> None:
        _, self.data, path = pair.blob(2 * MIN_PIECE_BYTES)
        self.blob: Blob = store.create(Digest(f"sha256:{path.name}"), len(self.data), "")
        self.pair = pair
        self.pace = Pace(0)
        self.transport = BackgroundTransport(
            pair.there, self._gives_way, lambda: self.pace.rate_bytes_per_s, PATIENCE_S
        )
        self.ticket = Ticketed(pair.here.share(content_of(self.blob), path), proven=proven)
        self.transport._tickets["far", str(self.blob.digest)] = self.ticket
        self.stopped = threading.Event()
        self.client_waits = False

    def _gives_way(self, digest: bytes, host: str) -> bool:
        return (digest, host) == (self.blob.digest.raw, "far")

    def way(self, host: str = "far", address: str = "127.0.0.1:1") -> BackgroundWay | None:
        return self.transport.way(self.blob.digest, host, address, lambda: not self.client_waits)

    def has_way(self, host: str = "far") -> bool:
        return self.way(host) is not None

    def fetch(self, index: int) -> bytes:
        way = self.way()
        assert way is not None
        origin = NeighbourClient("far", "127.0.0.1:1", "here")
        start, stop = self.blob.span(index)
        buffer = bytearray(stop - start)
        with way.fetch(origin, self.blob, index, self.stopped) as arriving, memoryview(buffer) as view:
            arriving.readinto(view)
        return bytes(buffer)


def test_a_piece_that_takes_long_goes_on_and_is_asked_for_again(pair: Pair, store: Store) -> None:
    """Its neighbour is not slow, and nothing that has come is sent again."""
    near = Neighbour(pair, store)
    pair.here.limit(RATE, 0)
    asked = 0
    while True:
        asked += 1
        try:
            piece = near.fetch(1)
        except FetchStoppedError:
            continue
        break
    assert piece == near.data[MIN_PIECE_BYTES:]
    assert asked > 1
    pair.here.count()
    assert pair.here.sent_bytes < 1.5 * MIN_PIECE_BYTES


def test_the_rate_of_the_background_holds_within_a_piece(pair: Pair, store: Store) -> None:
    near = Neighbour(pair, store)
    near.transport.patience_s = PROCESS_PATIENCE_S
    near.fetch(1)
    near.pace.set_rate(1)
    near.transport.patience_s = 1.0
    with pytest.raises(FetchStoppedError):
        near.fetch(0)
    near.pace.set_rate(0)
    near.transport.patience_s = PROCESS_PATIENCE_S
    assert near.fetch(0) == near.data[:MIN_PIECE_BYTES]


def test_it_goes_on_while_it_is_not_asked_for(pair: Pair, store: Store) -> None:
    near = Neighbour(pair, store)
    pair.here.limit(RATE, 0)
    with pytest.raises(FetchStoppedError):
        near.fetch(1)
    ends = time.monotonic() + PROCESS_PATIENCE_S
    while pair.here.sent_bytes < MIN_PIECE_BYTES:
        assert time.monotonic() < ends, "it has stopped"
        pair.here.count()
    pair.here.limit(1, 0)  # nothing more comes over the line
    near.transport.patience_s = PROCESS_PATIENCE_S
    assert near.fetch(1) == near.data[MIN_PIECE_BYTES:]


def test_a_client_takes_over(pair: Pair, store: Store) -> None:
    near = Neighbour(pair, store)
    near.client_waits = True
    pair.here.limit(RATE // 10, 0)
    with pytest.raises(BackgroundError, match="a client waits"):
        near.fetch(0)
    assert near.has_way(), "that is nobody's fault"


def test_a_neighbour_that_never_brought_anything_is_left_alone(pair: Pair, store: Store) -> None:
    near = Neighbour(pair, store, proven=False)
    pair.here.close()
    near.stopped.set()
    with pytest.raises(FetchStoppedError):
        near.fetch(0)
    assert not near.has_way()


def test_after_a_first_piece_an_end_costs_the_ticket_alone(pair: Pair, store: Store) -> None:
    near = Neighbour(pair, store, proven=False)
    near.transport.patience_s = PROCESS_PATIENCE_S
    assert near.fetch(0) == near.data[:MIN_PIECE_BYTES]
    assert near.ticket.proven
    pair.there.close()
    with pytest.raises(BackgroundError):
        near.fetch(1)
    assert not near.transport._tickets
    assert near.has_way()


def test_a_wrong_piece_is_enough(pair: Pair, store: Store) -> None:
    near = Neighbour(pair, store)
    origin = NeighbourClient("far", "127.0.0.1:1", "here")
    way = near.way()
    assert way is not None
    near.transport.patience_s = PROCESS_PATIENCE_S
    with pytest.raises(WrongPieceError), way.fetch(origin, near.blob, 0, near.stopped):
        raise WrongPieceError
    assert not near.has_way()


class Busy(BackgroundWay):
    """A neighbour that sends to others now."""

    @contextmanager
    def fetch(self, origin: NeighbourClient, blob: Blob, index: int, stopped: threading.Event) -> Iterator[Arriving]:
        with self.transport.fetching(self, origin, blob, index) as (stream, _):
            if not stopped.is_set():
                raise BusyError("others")
            yield Arriving(stream, 0, stopped.clear)


def test_a_neighbour_that_is_busy_is_asked_again_and_not_by_http(pair: Pair, store: Store) -> None:
    near = Neighbour(pair, store)
    origin = NeighbourClient("far", "127.0.0.1:1", "here")
    way = Busy(near.transport, "far", "127.0.0.1:1", lambda: True)
    piece = PeerPiece(PieceSource(origin), near.blob, 0, bytes(32), background=True, way=way)
    with pytest.raises(PeerBusyError):
        piece.run(BufferPool(MIN_PIECE_BYTES), near.pace, lambda _index, _digest: None)
    assert near.transport._tickets
    assert near.has_way()
    assert near.transport.fallbacks == 0


@pytest.mark.parametrize("address", ["[::::]:1", "[:.:]:1", "a..b:1", f"{'a' * 70}:1", "..:1"])
def test_an_address_that_is_none_is_left_to_http(pair: Pair, store: Store, address: str) -> None:
    """The protocol lets a host advertise each of these."""
    near = Neighbour(pair, store, proven=False)
    way = near.way(address=address)
    assert way is not None
    with (
        pytest.raises(BackgroundError, match="is no address"),
        way.fetch(NeighbourClient("far", "127.0.0.1:1", "here"), near.blob, 0, near.stopped),
    ):
        pass


def test_only_what_gives_way(pair: Pair, store: Store) -> None:
    near = Neighbour(pair, store)
    assert near.has_way("far")
    assert not near.has_way("near")
