"""Small requests: what is sent, what is an answer and what is tried again, how long, and where."""

from __future__ import annotations

import dataclasses
import gzip
import socket
import threading
import zlib
from collections.abc import Iterator

import pytest

from peer.errors import OriginTooLargeError, OriginUnreachableError, OriginUnusableError
from peer.origin.api import MAX_ANSWER_BYTES
from peer.origin.http1 import MAX_ERROR_BYTES
from peer.origin.response_head import MAX_HEAD_BYTES
from tests.peer.origin_fixtures import NOBODY, StillClock, origin_at
from tests.support.ports import refusing
from tests.support.registry_server import HANG, PATIENCE_S, SILENT_CLOSE, Answering, RegistryServer

HELLO = Answering(200, b"hello")
BUSY = Answering(503, b"busy")


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture
def replica() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


def test_an_answer_is_whole_and_its_header_names_are_lower_case(server: RegistryServer) -> None:
    server.script(Answering(200, b"hello", {"Docker-Content-Digest": "sha256:1", "X-Two": "a", "x-two": "b"}))
    with origin_at(server) as origin:
        answer = origin.request("GET", "app/manifests/1", credential=NOBODY, headers={"Accept": "a/b"})
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers == {"docker-content-digest": "sha256:1", "x-two": "a, b", "content-length": "5"}
    (seen,) = server.seen
    assert seen.target == "/v2/app/manifests/1"
    assert seen.headers["accept"] == "a/b"
    assert seen.headers["accept-encoding"] == "identity"
    assert "authorization" not in seen.headers


def test_the_prefix_comes_before_v2_and_what_cannot_stand_in_a_request_line_is_encoded(server: RegistryServer) -> None:
    server.rule = lambda _: HELLO
    with origin_at(f"{server.url}/some/where/") as origin:
        origin.request("GET", "", credential=NOBODY)
        origin.request("GET", "app/tags/list?n=2&last=a%2Fb c\r\nX: é", credential=NOBODY)
    assert [seen.target for seen in server.seen] == [
        "/some/where/v2/",
        "/some/where/v2/app/tags/list?n=2&last=a%2Fb%20c%0D%0AX:%20%C3%A9",
    ]


def test_head_has_no_body(server: RegistryServer) -> None:
    server.rule = lambda _: HELLO
    with origin_at(server) as origin:
        for _ in range(2):
            answer = origin.request("HEAD", "app/manifests/1", credential=NOBODY)
            assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "5")
    assert server.connections == 1


@pytest.mark.parametrize("status", [200, 304, 400, 401, 403, 416, 429, 501])
def test_what_is_below_500_is_an_answer_and_so_is_501(server: RegistryServer, status: int) -> None:
    server.script(Answering(status, b"" if status == 304 else b"text"))
    with origin_at(server) as origin:
        assert origin.request("GET", "app/manifests/1", credential=NOBODY).status == status
    assert len(server.seen) == 1


def test_chunks_are_put_together(server: RegistryServer) -> None:
    chunked = Answering(
        200, b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", {"Content-Length": None, "Transfer-Encoding": "chunked"}
    )
    server.rule = lambda _: chunked
    with origin_at(server) as origin:
        for _ in range(2):
            assert origin.request("GET", "app/tags/list", credential=NOBODY).body == b"hello"
    assert server.connections == 1


def test_an_answer_that_is_too_large_is_of_no_use(server: RegistryServer) -> None:
    server.script(Answering(200, bytes(MAX_ANSWER_BYTES)), Answering(200, bytes(MAX_ANSWER_BYTES + 1)))
    with origin_at(server) as origin:
        assert len(origin.request("GET", "app/tags/list", credential=NOBODY).body) == MAX_ANSWER_BYTES
        with pytest.raises(OriginTooLargeError, match="small answer was expected"):
            origin.request("GET", "app/tags/list", credential=NOBODY)


def test_an_errors_body_is_cut(server: RegistryServer) -> None:
    server.script(Answering(403, bytes(MAX_ERROR_BYTES + 1)))
    with origin_at(server) as origin:
        assert len(origin.request("GET", "app/tags/list", credential=NOBODY).body) == MAX_ERROR_BYTES


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(
    "refusal",
    [
        Answering(403, b"hello", sent_bytes=3),
        Answering(403, b"5\r\nhe", {"Content-Length": None, "Transfer-Encoding": "chunked"}),
    ],
    ids=["length", "chunks"],
)
def test_a_refusal_that_breaks_off_is_one(server: RegistryServer, refusal: Answering, then: str) -> None:
    server.script(dataclasses.replace(refusal, then=then))
    with origin_at(server) as origin:
        answer = origin.request("GET", "app/tags/list", credential=NOBODY)
    assert answer.status == 403
    assert b"hello".startswith(answer.body)


def test_a_redirect_that_breaks_off_is_followed(server: RegistryServer) -> None:
    server.script(Answering(307, b"hello", {"Location": "/there"}, sent_bytes=2, then="close"), HELLO)
    with origin_at(server) as origin:
        assert origin.request("GET", "app/tags/list", credential=NOBODY).body == b"hello"


@pytest.mark.parametrize("coding", ["gzip", "X-GZIP", "deflate", "identity, gzip"])
@pytest.mark.parametrize("status", [200, 403])
def test_a_coded_answer_is_decoded(server: RegistryServer, coding: str, status: int) -> None:
    content = b'{"name": "app"}' * 100
    coded = zlib.compress(content) if coding == "deflate" else gzip.compress(content)
    server.rule = lambda _: Answering(status, coded, {"Content-Encoding": coding})
    with origin_at(server) as origin:
        answer = origin.request("GET", "app/tags/list", credential=NOBODY)
        described = origin.request("HEAD", "app/tags/list", credential=NOBODY)
    assert answer.body == content
    assert answer.headers == {"content-length": str(len(content))}
    assert "content-length" not in described.headers  # it would be that of the coded bytes


@pytest.mark.parametrize("coding", ["gzip", "br", "identity", "", "none", "utf-8"])
def test_a_label_on_plain_json_is_none(server: RegistryServer, coding: str) -> None:
    server.rule = lambda _: Answering(200, b' {"name": "app"}', {"Content-Encoding": coding})
    with origin_at(server) as origin:
        assert origin.request("GET", "app/tags/list", credential=NOBODY).body == b' {"name": "app"}'


@pytest.mark.parametrize(
    ("coding", "body"), [("br", b"\x8b\x80"), ("gzip", gzip.compress(bytes(MAX_ANSWER_BYTES + 1)))], ids=["br", "bomb"]
)
def test_an_answer_that_cannot_be_decoded_is_of_no_use(
    server: RegistryServer, replica: RegistryServer, coding: str, body: bytes
) -> None:
    server.rule = lambda _: Answering(200, body, {"Content-Encoding": coding})
    replica.rule = lambda _: HELLO
    with origin_at(server) as origin, pytest.raises(OriginUnusableError, match=r"reg\.test.*identity was asked for"):
        origin.request("GET", "app/manifests/1", credential=NOBODY)
    with origin_at(server, replica) as origin:
        assert origin.request("GET", "app/manifests/1", credential=NOBODY).body == b"hello"


@pytest.mark.parametrize(
    "trouble",
    [
        BUSY,
        SILENT_CLOSE,
        Answering(200, b"hello", sent_bytes=2, then="close"),
        Answering(200, b"hello", sent_bytes=2, then="reset"),
        Answering(200, b"5\r\nhe", {"Content-Length": None, "Transfer-Encoding": "chunked"}, then="close"),
        Answering(200, b"", {"X": "y" * MAX_HEAD_BYTES}),
        Answering(99),
    ],
    ids=["503", "silent", "cut", "reset", "cut chunk", "long head", "no status"],
)
def test_trouble_is_tried_again_with_exponential_backoff(server: RegistryServer, trouble: Answering) -> None:
    clock = StillClock()
    server.script(trouble, trouble, trouble, HELLO)
    with origin_at(server, clock=clock, backoff_base_s=0.5, backoff_cap_s=1.5) as origin:
        assert origin.request("GET", "app/manifests/1", credential=NOBODY).body == b"hello"
        assert origin.statistics().retries == 3
    assert clock.waits == [0.5, 1.0, 1.5]


def test_attempts_are_bounded_and_the_error_says_what_the_last_one_came_to(server: RegistryServer) -> None:
    server.rule = lambda _: BUSY
    with origin_at(server, max_attempts=3) as origin, pytest.raises(OriginUnreachableError) as caught:
        origin.request("GET", "app/manifests/1?secret", credential=NOBODY)
    assert "upstream reg.test gave no answer" in str(caught.value)
    assert f"{server.url} answered 503" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert len(server.seen) == 3


def test_nobody_listening_is_unreachable(server: RegistryServer) -> None:
    with (
        refusing() as port,
        origin_at(f"http://127.0.0.1:{port}") as origin,
        pytest.raises(OriginUnreachableError, match=r"could not be connected to \(Connection refused\)"),
    ):
        origin.request("GET", "", credential=NOBODY)


def test_who_does_not_accept_in_time_is_unreachable() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filling in (first, second):
            filling.setblocking(False)
            filling.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        with (
            origin_at(url, connect_s=0.05, max_attempts=1) as origin,
            pytest.raises(OriginUnreachableError, match="timed out"),
        ):
            origin.request("GET", "", credential=NOBODY)


class TestTooManyRequests:
    """429 is waited for if that is short, and is for the client to see if not."""

    @pytest.mark.parametrize(
        ("retry_after", "waited_s"), [("2", 2.0), ("Tue, 14 Nov 2023 22:30:03 GMT", 3.0), ("0", 0.0)]
    )
    def test_a_short_wait_is_waited(self, server: RegistryServer, retry_after: str, waited_s: float) -> None:
        clock = StillClock()
        assert clock.unix() == 1_700_001_000.0  # Tue, 14 Nov 2023 22:30:00 GMT
        server.script(Answering(429, headers={"Retry-After": retry_after}), HELLO)
        with origin_at(server, clock=clock, backoff_base_s=0.5) as origin:
            assert origin.request("GET", "", credential=NOBODY).status == 200
        assert clock.waits == [waited_s + 0.5]

    @pytest.mark.parametrize("retry_after", ["6", "nonsense", None])
    def test_any_other_is_answered(self, server: RegistryServer, retry_after: str | None) -> None:
        clock = StillClock()
        server.script(Answering(429, b"later", {"Retry-After": retry_after}))
        with origin_at(server, clock=clock, max_retry_after_s=5.0) as origin:
            answer = origin.request("GET", "", credential=NOBODY)
        assert (answer.status, answer.body, answer.headers.get("retry-after")) == (429, b"later", retry_after)
        assert clock.waits == []

    def test_a_wait_beyond_the_deadline_is_not_begun(self, server: RegistryServer) -> None:
        clock = StillClock()
        server.rule = lambda _: Answering(429, headers={"Retry-After": "4"})
        with origin_at(server, clock=clock, metadata_s=10.0, backoff_base_s=0.5) as origin:
            assert origin.request("GET", "", credential=NOBODY).status == 429
        assert clock.waits == [4.5, 5.0]


class TestDeadline:
    """All of a small answer comes within `metadata_s`, whoever is slow."""

    def test_one_that_says_nothing_is_given_up(self, server: RegistryServer) -> None:
        server.script(HANG)
        with (
            origin_at(server, metadata_s=0.05, max_attempts=1) as origin,
            pytest.raises(OriginUnreachableError, match="timed out"),
        ):
            origin.request("GET", "", credential=NOBODY)

    def test_one_that_sends_a_byte_now_and_then_is_given_up(self, server: RegistryServer) -> None:
        clock = StillClock()
        server.script(Answering(200, b"hello", before_byte=lambda: clock.pass_s(1.0)))
        with (
            origin_at(server, clock=clock, metadata_s=10.0) as origin,
            pytest.raises(OriginUnreachableError, match="timed out"),
        ):
            origin.request("GET", "", credential=NOBODY)
        assert len(server.seen) == 1

    def test_one_that_hangs_leaves_time_for_the_next(self, server: RegistryServer, replica: RegistryServer) -> None:
        server.script(HANG)
        replica.script(HELLO)
        with origin_at(server, replica, metadata_s=1.0) as origin:
            assert origin.request("GET", "", credential=NOBODY).body == b"hello"

    def test_backoff_ends_at_it(self, server: RegistryServer) -> None:
        clock = StillClock()
        server.rule = lambda _: BUSY
        with (
            origin_at(server, clock=clock, metadata_s=1.0, backoff_base_s=0.4, max_attempts=100) as origin,
            pytest.raises(OriginUnreachableError),
        ):
            origin.request("GET", "", credential=NOBODY)
        assert clock.waits == [0.4]


class TestReplicas:
    """Several endpoints of one upstream."""

    def test_the_first_is_asked_first_and_the_next_when_it_fails(
        self, server: RegistryServer, replica: RegistryServer
    ) -> None:
        clock = StillClock()
        server.script(HELLO, BUSY)
        replica.rule = lambda _: HELLO
        with origin_at(server, replica, clock=clock) as origin:
            for _ in range(2):
                assert origin.request("GET", "", credential=NOBODY).body == b"hello"
        assert (len(server.seen), len(replica.seen), clock.waits) == (2, 1, [])

    def test_one_that_failed_comes_last_for_a_while(self, server: RegistryServer, replica: RegistryServer) -> None:
        clock = StillClock()
        server.script(BUSY)
        server.rule = replica.rule = lambda _: HELLO
        with origin_at(server, replica, clock=clock, cooldown_s=30.0) as origin:
            for expected in ((1, 1), (1, 2)):
                origin.request("GET", "", credential=NOBODY)
                assert (len(server.seen), len(replica.seen)) == expected
            clock.pass_s(30.0)
            origin.request("GET", "", credential=NOBODY)
        assert (len(server.seen), len(replica.seen)) == (2, 2)

    def test_each_is_asked_once_before_there_is_a_wait(self, server: RegistryServer, replica: RegistryServer) -> None:
        clock = StillClock()
        asked: list[int] = []
        clock.on_wait = lambda: asked.append(len(server.seen) + len(replica.seen))
        server.rule = replica.rule = lambda _: BUSY
        with origin_at(server, replica, clock=clock, max_attempts=3) as origin, pytest.raises(OriginUnreachableError):
            origin.request("GET", "", credential=NOBODY)
        assert asked == [2, 4]
        assert (len(server.seen), len(replica.seen)) == (3, 3)

    def test_what_one_does_not_have_the_next_may(self, server: RegistryServer, replica: RegistryServer) -> None:
        replica.script(HELLO)
        with origin_at(server, replica) as origin:
            assert origin.request("GET", "app/manifests/1", credential=NOBODY).status == 200
            assert origin.request("GET", "app/manifests/1", credential=NOBODY).status == 404
        assert (len(server.seen), len(replica.seen)) == (2, 2)

    def test_one_that_does_not_have_it_is_not_asked_again(
        self, server: RegistryServer, replica: RegistryServer
    ) -> None:
        server.script(BUSY, BUSY, HELLO)
        with origin_at(server, replica) as origin:
            assert origin.request("GET", "app/manifests/1", credential=NOBODY).status == 200
        assert (len(server.seen), len(replica.seen)) == (3, 1)

    def test_a_404_is_the_answer_when_the_rest_fails(self, server: RegistryServer, replica: RegistryServer) -> None:
        server.rule = lambda _: BUSY
        with origin_at(server, replica) as origin:
            assert origin.request("GET", "app/manifests/1", credential=NOBODY).status == 404

    def test_a_429_says_more_than_a_404(self, server: RegistryServer, replica: RegistryServer) -> None:
        server.script(Answering(429))
        with origin_at(server, replica) as origin:
            assert origin.request("GET", "app/manifests/1", credential=NOBODY).status == 429

    @pytest.mark.parametrize("status", [400, 403, 405, 407])
    def test_a_refusal_that_is_a_web_page_is_not_the_registrys(
        self, server: RegistryServer, replica: RegistryServer, status: int
    ) -> None:
        server.rule = lambda _: Answering(status, b"<html>", {"Content-Type": "text/html"})
        replica.script(HELLO)
        with origin_at(server, replica) as origin:
            assert origin.request("GET", "app/manifests/1", credential=NOBODY).status == 200
        with origin_at(server) as origin:
            assert origin.request("GET", "app/manifests/1", credential=NOBODY).status == status
        assert len(server.seen) == 2

    def test_a_403_is_the_answer_at_once(self, server: RegistryServer, replica: RegistryServer) -> None:
        server.script(Answering(403))
        with origin_at(server, replica) as origin:
            assert origin.request("GET", "app/manifests/1", credential=NOBODY).status == 403
        assert replica.seen == []


class TestClose:
    """Closing ends what waits, whatever it waits for."""

    def test_a_backoff_is_ended(self, server: RegistryServer) -> None:
        clock = StillClock()
        server.rule = lambda _: BUSY
        with origin_at(server, clock=clock) as origin:
            clock.on_wait = origin.close
            with pytest.raises(OriginUnreachableError, match="was ended"):
                origin.request("GET", "", credential=NOBODY)
        assert len(server.seen) == 1

    def test_an_exchange_is_ended(self, server: RegistryServer) -> None:
        server.script(HANG)
        caught: list[BaseException] = []

        def ask() -> None:
            with pytest.raises(OriginUnreachableError, match="was ended") as error:
                origin.request("GET", "", credential=NOBODY)
            caught.append(error.value)

        with origin_at(server) as origin:
            asking = threading.Thread(target=ask)
            asking.start()
            assert server.hanging.wait(PATIENCE_S)
            origin.close()
            asking.join(PATIENCE_S)
        assert len(caught) == 1

    def test_nothing_is_asked_afterwards(self, server: RegistryServer) -> None:
        with origin_at(server) as origin:
            origin.close()
            with pytest.raises(OriginUnreachableError, match="it is closed"):
                origin.request("GET", "", credential=NOBODY)
        assert server.seen == []


def test_statistics_count(server: RegistryServer) -> None:
    server.script(HELLO, BUSY, Answering(404))
    with origin_at(server) as origin:
        origin.request("GET", "", credential=NOBODY)
        origin.request("GET", "app/manifests/1", credential=NOBODY)
        found = origin.statistics()
        assert (found.requests, found.retries, found.received_bytes) == (3, 1, 0)
        assert found.answers == {"2xx": 1, "5xx": 1, "4xx": 1}
        assert found.open_connections == 1
        origin.close()
        assert origin.statistics().open_connections == 0
