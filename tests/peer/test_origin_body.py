"""Bodies: what an origin may answer to a range, and how a body goes on when its connection does not."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.errors import OriginBrokenError, OriginRefusedError, OriginUnreachableError, OriginUnusableError
from peer.oci.digest import Digest
from peer.origin.api import Body, ContentRef, Credential, Kind
from peer.origin.http1 import LOW_WATER_BYTES
from peer.pacing import PACED_BYTES
from tests.peer.origin_fixtures import CONTENT, NOBODY, REF, StillClock, origin_at, read_all
from tests.support.registry_server import HANG, PATIENCE_S, SILENT_CLOSE, Answering, RegistryServer, Rule, Seen, partial

SIZE = len(CONTENT)
LAST = SIZE - 1
STEP = 64 * 1024


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.add_blob(REF.repository, REF.digest, CONTENT)
        yield server


@pytest.fixture
def replica() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.add_blob(REF.repository, REF.digest, CONTENT)
        yield server


def cut(answering: Answering, sent_bytes: int, then: str = "close") -> Answering:
    return dataclasses.replace(answering, sent_bytes=sent_bytes, then=then)


def ranges(server: RegistryServer) -> list[str | None]:
    return [seen.headers.get("range") for seen in server.seen]


def first_of(seen: Seen) -> int:
    """Where the range starts that was asked for."""
    return int(seen.headers["range"].removeprefix("bytes=").partition("-")[0])


def cut_rule(sent_bytes: int, then: str, *, whole: bool) -> Rule:
    """Ignore the range or obey it, and break off."""
    return lambda seen: cut(
        Answering(200, CONTENT) if whole else partial(CONTENT, first_of(seen), LAST), sent_bytes, then
    )


def abort_when_silent(server: RegistryServer, body: Body) -> None:
    assert server.hanging.wait(PATIENCE_S)
    body.abort()


class TestOpening:
    """What is asked for, and what counts as the answer to it."""

    @pytest.mark.parametrize(
        ("start", "stop", "asked"),
        [
            (0, None, None),
            (0, 10, "bytes=0-9"),
            (7, None, "bytes=7-"),
            (7, 8, "bytes=7-7"),
            (7, SIZE + 5, f"bytes=7-{SIZE + 4}"),
        ],
    )
    def test_a_range_is_asked_for_and_cut_to_the_end(
        self, server: RegistryServer, start: int, stop: int | None, asked: str | None
    ) -> None:
        with origin_at(server) as origin, origin.open(REF, start, stop, credential=NOBODY) as body:
            assert (body.start, body.stop, body.size_bytes) == (start, min(stop or SIZE, SIZE), SIZE)
            view = memoryview(bytearray(SIZE))
            assert body.readinto(view) == body.stop - body.start
            assert view[: body.stop - body.start] == CONTENT[body.start : body.stop]
            assert body.readinto(view) == 0
        assert ranges(server) == [asked]
        assert server.seen[0].target == f"/v2/app/blobs/{REF.digest}"
        assert server.seen[0].headers["accept-encoding"] == "identity"

    def test_manifests_are_accepted_in_every_form(self, server: RegistryServer) -> None:
        server.add_blob("app", Digest.of(b"{}"), b"{}", kind="manifests")
        with origin_at(server) as origin:
            origin.open(ContentRef("app", Digest.of(b"{}"), Kind.MANIFEST), 0, None, credential=NOBODY).close()
        assert "application/vnd.oci.image.index.v1+json" in server.seen[0].headers["accept"]

    def test_the_media_type_is_unchanged(self, server: RegistryServer) -> None:
        server.script(Answering(200, b"x", {"Content-Type": "text/Plain; a=b"}))
        with origin_at(server) as origin, origin.open(REF, 0, None, credential=NOBODY) as body:
            assert body.media_type == "text/Plain; a=b"

    def test_an_origin_may_ignore_the_range(self, server: RegistryServer) -> None:
        server.ignores_range = True
        with origin_at(server) as origin:
            with origin.open(REF, 100, 200, credential=NOBODY) as body:
                assert (body.start, body.stop, body.size_bytes) == (0, SIZE, SIZE)
            assert read_all(origin, 100, 200) == CONTENT

    def test_a_clients_authorization_is_relayed_and_not_shown(self, server: RegistryServer) -> None:
        credential = Credential("Bearer secret")
        with origin_at(server) as origin:
            origin.open(REF, 0, None, credential=credential).close()
        assert server.seen[0].headers["authorization"] == "Bearer secret"
        assert "secret" not in repr(credential)

    def test_a_refusal_has_what_the_client_needs(self, server: RegistryServer) -> None:
        headers = {"WWW-Authenticate": 'Bearer realm="https://a.b"', "Retry-After": "60", "Set-Cookie": "a=b"}
        server.script(Answering(401, b"{}", headers))
        with origin_at(server) as origin, pytest.raises(OriginRefusedError, match="status 401") as caught:
            origin.open(REF, 0, None, credential=NOBODY)
        assert (caught.value.status, caught.value.body) == (401, b"{}")
        assert caught.value.headers == {"WWW-Authenticate": 'Bearer realm="https://a.b"', "Retry-After": "60"}

    def test_trouble_is_tried_again(self, server: RegistryServer, replica: RegistryServer) -> None:
        server.script(Answering(500), SILENT_CLOSE)
        replica.script(Answering(404), Answering(502))
        with origin_at(server, replica) as origin:
            assert read_all(origin) == CONTENT
        assert (len(server.seen), len(replica.seen)) == (3, 1)

    def test_a_registry_that_is_down_is_unreachable(self, server: RegistryServer) -> None:
        server.rule = lambda _: Answering(500)
        with origin_at(server) as origin, pytest.raises(OriginUnreachableError):
            origin.open(REF, 0, None, credential=NOBODY)

    @pytest.mark.parametrize(("start", "stop"), [(-1, None), (5, 5), (5, 4)])
    def test_no_range_is_our_misuse(self, server: RegistryServer, start: int, stop: int) -> None:
        with origin_at(server) as origin, pytest.raises(ValueError, match="not a range"):
            origin.open(REF, start, stop, credential=NOBODY)


class TestResuming:
    """A body goes on from the byte where it broke."""

    @pytest.mark.parametrize("then", ["close", "reset"])
    def test_from_the_exact_byte(self, server: RegistryServer, then: str) -> None:
        clock = StillClock()
        server.script(cut(Answering(200, CONTENT), 100_001, then))
        with origin_at(server, clock=clock) as origin:
            assert read_all(origin) == CONTENT
            assert origin.statistics().retries == 1
            assert origin.statistics().received_bytes == SIZE
        assert clock.waits == []
        if then == "close":  # a reset may overtake data
            assert ranges(server) == [None, f"bytes=100001-{LAST}"]

    def test_within_the_range_that_was_asked_for(self, server: RegistryServer) -> None:
        server.script(cut(partial(CONTENT, 100, 899), 300))
        with origin_at(server) as origin:
            assert read_all(origin, 100, 900) == CONTENT[100:900]
        assert ranges(server) == ["bytes=100-899", "bytes=400-899"]

    def test_headers_may_take_longer_than_bytes(self, server: RegistryServer) -> None:
        """A registry that scans a layer first, or fetches it from another registry."""
        clock = StillClock()
        server.script(Answering(200, CONTENT, before_byte=lambda: clock.pass_s(1.0)))
        with origin_at(server, clock=clock, stall_s=5.0, first_byte_s=1000.0) as origin:
            assert read_all(origin) == CONTENT
            assert clock.now > 1005.0

    def test_but_not_where_another_endpoint_can_be_asked(self, server: RegistryServer, replica: RegistryServer) -> None:
        server.script(HANG)
        replica.script(Answering(200, CONTENT))
        with origin_at(server, replica, stall_s=0.2) as origin:
            assert read_all(origin) == CONTENT

    @pytest.mark.parametrize("came", [1000, LOW_WATER_BYTES // 2])
    def test_after_a_stall(self, server: RegistryServer, came: int) -> None:
        """What came before it counts, though it is too little to wake who waits for it."""
        server.script(cut(Answering(200, CONTENT), came, "hang"))
        with origin_at(server, stall_s=0.5) as origin:
            assert read_all(origin) == CONTENT
        assert ranges(server) == [None, f"bytes={came}-{LAST}"]

    def test_not_after_a_moment_without_bytes(self, server: RegistryServer) -> None:
        """What is left is too little to wake who waits for much, as was done on this connection before."""
        large, small = CONTENT[: 3 * LOW_WATER_BYTES], CONTENT[: LOW_WATER_BYTES // 2]
        server.script(Answering(200, large), cut(Answering(200, small), len(small) - 1, "rest"))
        with origin_at(server, stall_s=PATIENCE_S) as origin:
            assert [read_all(origin, view_bytes=SIZE) for _ in range(2)] == [large, small]
            assert origin.statistics().retries == 0
        assert server.connections == 1

    def test_at_the_replica_first(self, server: RegistryServer, replica: RegistryServer) -> None:
        server.script(cut(Answering(200, CONTENT), 1000))
        with origin_at(server, replica) as origin:
            assert read_all(origin) == CONTENT
        assert (ranges(server), ranges(replica)) == ([None], [f"bytes=1000-{LAST}"])

    def test_where_less_of_the_range_came_than_was_asked_for(self, server: RegistryServer) -> None:
        server.script(partial(CONTENT, 100, 299))
        with origin_at(server) as origin, origin.open(REF, 100, 900, credential=NOBODY) as body:
            assert (body.start, body.stop) == (100, 900)
            view = memoryview(bytearray(1000))
            assert body.readinto(view) == 800
            assert view[:800] == CONTENT[100:900]
        assert ranges(server) == ["bytes=100-899", "bytes=300-899"]
        assert server.connections == 1

    def test_an_origin_that_ignores_the_range_is_read_from_its_start(self, server: RegistryServer) -> None:
        server.ignores_range = True
        server.script(cut(Answering(200, CONTENT), 700_000))
        with origin_at(server) as origin:
            assert read_all(origin) == CONTENT
            assert origin.statistics().received_bytes == SIZE + 700_000

    def test_one_that_breaks_before_the_lost_byte_is_resumed_again(self, server: RegistryServer) -> None:
        server.ignores_range = True
        server.script(*(cut(Answering(200, CONTENT), sent) for sent in (700_000, 500_000, 600_000)))
        with origin_at(server) as origin:
            assert read_all(origin) == CONTENT

    def test_a_length_that_changed_is_of_no_use(self, server: RegistryServer) -> None:
        server.script(cut(Answering(200, CONTENT), 1000), partial(CONTENT[:-1], 1000, LAST - 1))
        with origin_at(server) as origin, pytest.raises(OriginUnusableError, match=f"was {SIZE} bytes long"):
            read_all(origin)

    def test_a_refusal_on_resuming_is_one(self, server: RegistryServer) -> None:
        server.script(cut(Answering(200, CONTENT), 1000), Answering(401))
        with origin_at(server) as origin, pytest.raises(OriginRefusedError):
            read_all(origin)

    def test_an_origin_that_has_gone_is_broken(self, server: RegistryServer) -> None:
        server.script(cut(Answering(200, CONTENT), 1000))
        server.rule = lambda _: Answering(503)
        with origin_at(server) as origin, pytest.raises(OriginBrokenError, match=r"byte 1000 of 1048576.*503"):
            read_all(origin)

    def test_resumes_without_progress_are_bounded_and_spaced(self, server: RegistryServer) -> None:
        clock = StillClock()
        server.rule = lambda seen: cut(partial(CONTENT, first_of(seen), LAST), 1)
        with (
            origin_at(server, clock=clock, backoff_base_s=1.0, max_attempts=3) as origin,
            pytest.raises(OriginBrokenError, match=r"byte 4 of 1048576, and 3 resumes in a row"),
        ):
            read_all(origin, 0, SIZE)
        assert clock.waits == [1.0, 2.0]
        assert len(server.seen) == 4

    def test_resumes_with_progress_are_not(self, server: RegistryServer) -> None:
        clock = StillClock()
        server.rule = lambda seen: cut(partial(CONTENT, first_of(seen), LAST), STEP)
        with origin_at(server, clock=clock, max_attempts=1) as origin:
            assert read_all(origin, 0, SIZE) == CONTENT
        assert len(server.seen) == SIZE // STEP
        assert clock.waits == []


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.tuples(st.integers(0, 300_000), st.sampled_from(["close", "reset"]), st.booleans()), max_size=4),
    view_bytes=st.integers(1000, 400_000),
    start=st.integers(0, 500_000),
)
def test_a_blob_comes_whole_however_it_is_cut(cuts: list[tuple[int, str, bool]], view_bytes: int, start: int) -> None:
    with RegistryServer() as server:
        server.add_blob(REF.repository, REF.digest, CONTENT)
        server.script(*(cut_rule(sent_bytes, then, whole=whole) for sent_bytes, then, whole in cuts))
        with origin_at(server, max_attempts=5) as origin:
            got = read_all(origin, start, SIZE, view_bytes=view_bytes)
    assert got in (CONTENT, CONTENT[start:])


class TestEnding:
    """Bodies end when they are told to, and give back what they held."""

    def test_abort_ends_a_wait_for_bytes(self, server: RegistryServer) -> None:
        server.script(cut(Answering(200, CONTENT), 1000, "hang"))
        with origin_at(server) as origin, origin.open(REF, 0, None, credential=NOBODY) as body:
            aborting = threading.Thread(target=abort_when_silent, args=(server, body))
            aborting.start()
            with pytest.raises(OriginBrokenError, match="was ended"):
                body.readinto(memoryview(bytearray(SIZE)))
            aborting.join(PATIENCE_S)
            with pytest.raises(OriginBrokenError):
                body.readinto(memoryview(bytearray(1)))
        assert len(server.seen) == 1

    def test_abort_ends_a_resume(self, server: RegistryServer) -> None:
        server.script(cut(Answering(200, CONTENT), 1000), HANG)
        with origin_at(server) as origin, origin.open(REF, 0, None, credential=NOBODY) as body:
            aborting = threading.Thread(target=abort_when_silent, args=(server, body))
            aborting.start()
            with pytest.raises(OriginBrokenError, match="was ended"):
                body.readinto(memoryview(bytearray(SIZE)))
            aborting.join(PATIENCE_S)

    def test_closing_the_origin_aborts_bodies(self, server: RegistryServer) -> None:
        with origin_at(server) as origin, origin.open(REF, 0, None, credential=NOBODY) as body:
            origin.close()
            with pytest.raises(OriginBrokenError):
                body.readinto(memoryview(bytearray(SIZE)))
            with pytest.raises(OriginUnreachableError):
                origin.open(REF, 0, None, credential=NOBODY)

    def test_a_body_read_to_its_end_gives_its_connection_back(self, server: RegistryServer) -> None:
        with origin_at(server) as origin:
            for start in (0, 10):
                read_all(origin, start)
            assert origin.statistics().open_connections == 1
        assert server.connections == 1

    def test_a_body_that_is_not_closes_it(self, server: RegistryServer) -> None:
        with origin_at(server) as origin:
            origin.open(REF, 0, None, credential=NOBODY).close()
            assert origin.statistics().open_connections == 0

    def test_a_closed_body_gives_nothing(self, server: RegistryServer) -> None:
        with origin_at(server) as origin:
            body = origin.open(REF, 0, None, credential=NOBODY)
            body.close()
            body.close()
            with pytest.raises(OriginBrokenError):
                body.readinto(memoryview(bytearray(1)))


class TestRate:
    """The rate holds for all bodies of the upstream together."""

    def test_what_comes_too_fast_is_waited_for(self, server: RegistryServer) -> None:
        clock = StillClock()
        with origin_at(server, clock=clock, rate_bytes_per_s=PACED_BYTES) as origin:
            assert read_all(origin) == CONTENT
            assert read_all(origin) == CONTENT
        assert sum(clock.waits) == pytest.approx((2 * SIZE - PACED_BYTES) / PACED_BYTES)
        assert max(clock.waits) <= 1.0

    def test_abort_ends_that_wait(self, server: RegistryServer) -> None:
        clock = StillClock()
        with (
            origin_at(server, clock=clock, rate_bytes_per_s=1) as origin,
            origin.open(REF, 0, None, credential=NOBODY) as body,
        ):
            clock.on_wait = body.abort
            with pytest.raises(OriginBrokenError):
                body.readinto(memoryview(bytearray(SIZE)))
