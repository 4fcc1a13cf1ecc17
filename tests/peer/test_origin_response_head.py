"""Heads of responses: what is written loosely is understood, and what contradicts itself is not."""

from __future__ import annotations

import http.client
import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.origin.response_head import MAX_HEAD_BYTES, Framing, ResponseHead, framing_of, read_head
from tests.peer.origin_fixtures import NOBODY, origin_at
from tests.support.registry_server import Answering, RegistryServer

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


def head_of(wire: bytes) -> ResponseHead:
    return read_head(io.BufferedReader(io.BytesIO(wire)))


@pytest.mark.parametrize(
    ("wire", "fields"),
    [
        (OK + b"Date: now\r\n\r\n", [("date", "now")]),
        (b"HTTP/1.1 200\nDate: now\n\n", [("date", "now")]),
        (OK + b"DATE:now\t \r\n\r\n", [("date", "now")]),
        (OK + b"Date : now\r\nAge: 1\r\n\r\n", [("date", "now"), ("age", "1")]),
        (OK + b"Link: a,\r\n  b\r\n\tc\r\nAge: 1\r\n\r\n", [("link", "a, b c"), ("age", "1")]),
        (OK + b"\x20folded into nothing\r\nno field\r\n: no name\r\nAge: 1\r\n\r\n", [("age", "1")]),
        (OK + b"Age: 1\r\nAge: 2\r\n\r\n", [("age", "1"), ("age", "2")]),
        (OK + b"X: a\rSet-Cookie: b\0c\r\n\r\n", [("x", "a Set-Cookie: b c")]),
        (OK + b"X: \xc3\xa4\r\n\r\n", [("x", "\u00c3\u00a4")]),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Age: 1\r\n\r\n", [("age", "1")]),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 P\r\n\r\n" + OK + b"\r\n", []),
        (OK + b"Age: 1\r\n" * 300 + b"\r\n", [("age", "1")] * 300),
    ],
)
def test_fields(wire: bytes, fields: list[tuple[str, str]]) -> None:
    assert head_of(wire) == ResponseHead(1, 200, tuple(fields))


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 99 So\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"<html>\r\n\r\n",
        b"\r\n\r\n",
        OK + b"Date: now",
        OK + b"X: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n",
        (b"HTTP/1.1 103 E\r\nX: " + b"y" * 1000 + b"\r\n\r\n") * 2000,
    ],
    ids=["99", "HTTP/2", "four digits", "html", "nothing", "cut", "long", "endless hints"],
)
def test_what_is_no_head_is_an_error(wire: bytes) -> None:
    with pytest.raises((ValueError, http.client.RemoteDisconnected)):
        head_of(wire)


@given(st.binary(max_size=200))
def test_no_bytes_are_another_error(wire: bytes) -> None:
    try:
        head = head_of(OK + wire)
        framing_of(head, "GET")
    except (ValueError, http.client.RemoteDisconnected):
        return
    assert all(name == name.lower() and not set("\r\n\0") & set(value) for name, value in head.fields)


CHUNKED = Framing(chunked=True, length=None, keeps=True)
NOTHING = Framing(chunked=False, length=0, keeps=True)
TO_THE_END = Framing(chunked=False, length=None, keeps=False)


@pytest.mark.parametrize(
    ("head", "method", "framing"),
    [
        ("200|content-length: 5", "GET", Framing(chunked=False, length=5, keeps=True)),
        ("200|content-length: 5|content-length: 05", "GET", Framing(chunked=False, length=5, keeps=True)),
        ("200|content-length: 5, 5|connection: x, Close", "GET", Framing(chunked=False, length=5, keeps=False)),
        ("200|content-length:", "GET", TO_THE_END),
        ("200", "GET", TO_THE_END),
        ("200|transfer-encoding: identity", "GET", TO_THE_END),
        ("200|transfer-encoding: Chunked|content-length: 5", "GET", CHUNKED),
        ("200|content-length: x", "HEAD", NOTHING),
        ("204", "GET", NOTHING),
        ("304|content-length: 5", "GET", NOTHING),
    ],
)
def test_framing(head: str, method: str, framing: Framing) -> None:
    status, *fields = head.split("|")
    wire = "\r\n".join([f"HTTP/1.1 {status} So", *fields, "", ""])
    assert framing_of(head_of(wire.encode()), method) == framing


def test_an_old_connection_goes_on_only_if_it_says_so() -> None:
    for field, keeps in ((b"", False), (b"Connection: Keep-Alive\r\n", True)):
        assert framing_of(head_of(b"HTTP/1.0 204 So\r\n" + field + b"\r\n"), "GET").keeps is keeps


def test_early_hints_come_before_the_answer(server: RegistryServer) -> None:
    """The connection goes on, and the hints' fields are not the answer's."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style>\r\n\r\n"
    server.rule = lambda _: Answering(
        wire=b"HTTP/1.1 100 Continue\r\n\r\n" + hints + OK + b"content-LENGTH: 2\r\n\r\n{}"
    )
    with origin_at(server) as origin:
        for _ in range(2):
            answer = origin.request("GET", "", credential=NOBODY)
            assert (answer.status, dict(answer.headers), answer.body) == (200, {"content-length": "2"}, b"{}")
    assert server.connections == 1


def test_a_body_to_the_end_of_the_connection(server: RegistryServer) -> None:
    server.rule = lambda _: Answering(wire=b"HTTP/1.0 200 OK\n\n{}", then="close")
    with origin_at(server) as origin:
        assert origin.request("GET", "", credential=NOBODY).body == b"{}"
        assert origin.statistics().open_connections == 0
