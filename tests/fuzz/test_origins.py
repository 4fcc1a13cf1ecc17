"""Whatever origins, token servers and neighbours answer: bytes of the right number, or one of our errors."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.errors import OriginError, P2pdError
from peer.neighbour_http import NeighbourClient
from peer.origin.api import MAX_ANSWER_BYTES, Credential
from peer.peer_piece import Pace, PeerPiece, PieceSource
from peer.store import Store
from peer.store.buffers import BufferPool
from peer.trust.piece_keys import HeldKey
from scheduler.protocol.link import PieceKey
from tests.fuzz.wire import CRLF, damaged, pieces
from tests.peer.origin_fixtures import CONTENT, NOBODY, OURS, REF, StillClock, origin_at
from tests.peer.store_fixtures import a_store
from tests.support.images import digest_of
from tests.support.registry_server import Answering, RegistryServer

BODIES = st.one_of(
    st.sampled_from([CONTENT[:1000], b"", b"{}", b'{"token": "t"}', b'{"access_token": "t", "expires_in": "9"}']),
    st.sampled_from([gzip.compress(CONTENT[:1000]), b"3e8\r\n" + CONTENT[:1000] + b"\r\n0\r\n\r\n", b"<html>"]),
    st.dictionaries(
        st.sampled_from(["token", "access_token", "expires_in", "tags", "errors"]),
        st.text(max_size=3) | st.none() | st.floats() | st.integers() | st.lists(st.integers(), max_size=2),
    ).map(lambda told: json.dumps(told).encode()),
    st.binary(max_size=60),
)


def _fields(url: str) -> st.SearchStrategy[bytes]:
    numbers = st.sampled_from(
        ["0", "1000", "1", "999", "-1", "1e3", "+5", "9" * 30, "1000, 1000", "5, 6", "\u0665", ""]
    )
    known = {
        "Content-Length": numbers,
        "Content-Range": pieces("bytes ", "0-999", "/1000", "/*", "*", "500-999", "-", "9" * 30, " "),
        "Transfer-Encoding": st.sampled_from(["chunked", "Chunked", "identity", "gzip, chunked", "chunked, chunked"]),
        "Content-Encoding": st.sampled_from(["gzip", "GZIP", "deflate", "br", "zstd", "gzip, gzip", "identity", ""]),
        "Content-Type": pieces("application/json", "text/html", ";", "charset=", "x", '"'),
        "Docker-Content-Digest": st.sampled_from([REF.digest, "sha256:x", "sha512:" + "a" * 128, ""]),
        "Location": pieces(
            url, "/v2/app/blobs/x", "//", "http://", "127.0.0.1", "[::1", ":99999", "?a=b", "#", "\\", "@", "\xe9"
        ),
        "WWW-Authenticate": pieces(
            "Bearer ", "Basic ", f'realm="{url}/token"', 'realm="', "realm=x", ",", 'service="s"', 'scope="', '"', "\\",
            "http://[",
        ),
        "Retry-After": st.sampled_from(["0", "5", "-1", "9" * 20, "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 99 Nov"]),
        "Date": st.sampled_from(["Sun, 06 Nov 1994 08:49:37 GMT", "x", ""]),
        "Connection": st.sampled_from(["close", "keep-alive", "x, close"]),
        "Link": pieces("<", ">", "/v2/app/tags/list?n=1", '; rel="next"', ";", "rel=next", " "),
    }  # fmt: skip
    return st.sampled_from(list(known)).flatmap(
        lambda name: known[name].map(lambda value: name.encode() + b": " + value.encode("utf-8", "replace"))
    )


def answers(url: str) -> st.SearchStrategy[bytes]:
    statuses = st.sampled_from(
        ["200", "200", "206", "206", "401", "403", "404", "302", "307", "429", "503", "100", "204", "999", "x"]
    )
    return damaged(
        st.tuples(statuses, st.lists(_fields(url), max_size=5), BODIES).map(
            lambda made: CRLF.join([f"HTTP/1.1 {made[0]} So".encode(), *made[1], b"", made[2]])
        )
    )


@pytest.fixture(scope="module")
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


def play(server: RegistryServer, wires: list[bytes]) -> None:
    """The server answers so, one request after the other, and then with 404."""
    left = chain(wires, repeat(b"HTTP/1.1 404 So\r\nContent-Length: 0\r\n\r\n"))
    server.rule = lambda _: Answering(wire=next(left), then="close")


credentials = st.sampled_from([NOBODY, OURS, Credential("Bearer x")])
ours: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{}, {"username": "me", "password": "hunter2"}, {"username": "<token>", "password": "hunter2"}]
)


@settings(max_examples=60)
@given(data=st.data(), method=st.sampled_from(["GET", "HEAD"]), credential=credentials, options=ours)
def test_any_answer_is_small_or_an_error(
    server: RegistryServer, data: st.DataObject, method: str, credential: Credential, options: dict[str, Any]
) -> None:
    play(server, data.draw(st.lists(answers(server.url), max_size=4)))
    with origin_at(server, clock=StillClock(), **options) as origin:
        try:
            answer = origin.request(method, "app/tags/list", credential=credential)  # type: ignore[arg-type]
        except OriginError:
            return
        assert len(answer.body) <= MAX_ANSWER_BYTES
        assert 200 <= answer.status < 500


@settings(max_examples=60)
@given(
    data=st.data(),
    start=st.integers(0, 1000),
    length=st.none() | st.integers(1, 1000),
    size=st.none() | st.just(1000),
    credential=credentials,
)
def test_any_body_has_the_bytes_that_it_says_or_is_an_error(
    server: RegistryServer,
    data: st.DataObject,
    start: int,
    length: int | None,
    size: int | None,
    credential: Credential,
) -> None:
    play(server, data.draw(st.lists(answers(server.url), max_size=4)))
    stop = None if length is None else start + length
    ref = REF if size is None else REF.__class__(REF.repository, REF.digest, size_bytes=size)
    view = memoryview(bytearray(400))
    with origin_at(server, clock=StillClock()) as origin:
        got = 0
        try:
            with origin.open(ref, start, stop, credential=credential) as body:
                assert 0 <= body.start <= start
                assert body.stop <= body.size_bytes
                while filled := body.readinto(view):
                    got += filled
                    assert got <= body.stop - body.start
                assert got == body.stop - body.start
        except OriginError:
            pass


PIECE = CONTENT[:1000]
KEY = PieceKey(b"k" * 16, b"s" * 32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with a_store(tmp_path_factory.mktemp("pieces") / "store") as store:
        yield store


@settings(max_examples=60)
@given(data=st.data(), plain=st.booleans())
def test_any_piece_of_a_neighbour_is_the_piece_or_an_error(
    server: RegistryServer, store: Store, data: st.DataObject, plain: bool
) -> None:
    play(server, data.draw(st.lists(answers(server.url), max_size=2)))
    address = server.url.removeprefix("http://")
    tls, clear = NeighbourClient("b", address, "a"), NeighbourClient("b", address, "a")
    blob = store.create(digest_of(PIECE), len(PIECE), "")
    try:
        asked = PeerPiece(PieceSource(tls, clear, HeldKey(KEY), plain), blob, 0, blake3(PIECE).digest())
        asked.run(BufferPool(1), Pace(0), lambda *_: None)
        assert blob.read(0, len(PIECE)) == PIECE
    except P2pdError:
        pass
    finally:
        tls.close()
        clear.close()
        blob.release()
        store.discard(blob.digest)
