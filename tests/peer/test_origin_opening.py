"""What an origin may answer to GET of content: all that can be proven is taken, and the rest is of no use."""

from __future__ import annotations

import dataclasses
import gzip
import zlib
from collections.abc import Iterator, Mapping

import pytest
from msgspec import structs

from peer.errors import OriginCorruptError, OriginRefusedError, OriginUnusableError
from peer.oci.digest import Digest
from peer.origin.api import ContentRef, Kind
from peer.origin.client import HttpOrigin
from peer.origin.opening import WHOLE_BYTES
from tests.peer.origin_fixtures import CONTENT, NOBODY, REF, StillClock, origin_at, read_all
from tests.support.registry_server import Answering, RegistryServer, Rule, Seen, chunked, partial

SIZE = len(CONTENT)
KNOWN = structs.replace(REF, size_bytes=SIZE)
SMALL = b"a small layer" * 100
SMALL_REF = ContentRef("app", Digest.of(SMALL))
MANIFEST = b'{"schemaVersion": 2}' * 20
MANIFEST_REF = ContentRef("app", Digest.of(MANIFEST), Kind.MANIFEST)
GZIPPED = gzip.compress(SMALL)
"""A layer is such a file: its digest is that of the compressed bytes."""


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.add_blob(REF.repository, REF.digest, CONTENT)
        server.add_blob("app", SMALL_REF.digest, SMALL)
        server.add_blob("app", MANIFEST_REF.digest, MANIFEST, kind="manifests")
        yield server


def get(origin: HttpOrigin, ref: ContentRef, start: int = 0, stop: int | None = None) -> bytes:
    got = bytearray()
    view = memoryview(bytearray(100_000))
    with origin.open(ref, start, stop, credential=NOBODY) as body:
        assert (body.start, body.size_bytes) in {(start, ref.size_bytes or body.size_bytes), (0, body.size_bytes)}
        while filled := body.readinto(view):
            got += view[:filled]
        assert len(got) == body.stop - body.start
    return bytes(got)


def ranges(server: RegistryServer) -> list[str | None]:
    return [seen.headers.get("range") for seen in server.seen]


def to_any_range(answering: Answering) -> Rule:
    return lambda seen: answering if "range" in seen.headers else None


def answer(body: bytes, *fields: str) -> Answering:
    """A 200 whose head has these fields only, and then the end of the connection."""
    head = "".join(f"{field}\r\n" for field in ("HTTP/1.1 200 OK", *fields))
    return Answering(wire=head.encode("latin-1") + b"\r\n" + body, then="close")


class TestRanges:
    """An answer to a range that cannot be used is asked for again, without the range."""

    @pytest.mark.parametrize(
        "answering",
        [
            Answering(206, CONTENT[100:200]),
            Answering(206, CONTENT),
            Answering(206, CONTENT[100:200], {"Content-Range": "bytes 100-199/*"}),
            Answering(206, CONTENT[100:200], {"Content-Range": f"bytes 0-99/{SIZE}"}),
            Answering(206, CONTENT[100:201], {"Content-Range": f"bytes 100-200/{SIZE}"}),
            Answering(206, CONTENT[100:199], {"Content-Range": f"bytes 100-199/{SIZE}"}),
            Answering(206, CONTENT[100:201], {"Content-Range": f"bytes 100-199/{SIZE}"}),
            Answering(206, b"--x\r\nContent-Range: ...", {"Content-Type": "multipart/byteranges; boundary=x"}),
            Answering(206, CONTENT[:9], {"Content-Range": "bytes 100-108/500", "Content-Encoding": "gzip"}),
            Answering(400),
            Answering(405),
            Answering(416, headers={"Content-Range": f"bytes */{SIZE}"}),
            Answering(416, headers={"Content-Range": "bytes */0"}),
            Answering(400, b"no", sent_bytes=1, then="close"),
            Answering(501),
        ],
        ids=[
            "no range",
            "no range, all",
            "no total",
            "other start",
            "beyond",
            "fewer",
            "more",
            "multipart",
            "coded",
            "400",
            "405",
            "416 that fits",
            "416 of nothing",
            "400 that breaks off",
            "501",
        ],
    )
    def test_it_is_asked_again_without(self, server: RegistryServer, answering: Answering) -> None:
        server.rule = to_any_range(answering)
        with origin_at(server) as origin:
            assert get(origin, REF, 100, 200) == CONTENT
            assert origin.statistics().retries == 0
        assert ranges(server) == ["bytes=100-199", None]

    def test_the_endpoint_is_not_asked_for_ranges_for_a_while(self, server: RegistryServer) -> None:
        clock = StillClock()
        server.rule = to_any_range(Answering(400))
        with origin_at(server, clock=clock, idle_s=1e6) as origin:
            for passed_s in (0.0, 59.0, 2.0):
                clock.pass_s(passed_s)
                get(origin, REF, 0, 100)
        assert ranges(server) == ["bytes=0-99", None, None, "bytes=0-99", None]

    def test_a_coded_blob_says_nothing_of_others(self, server: RegistryServer) -> None:
        coded = Answering(206, b"x" * 9, {"Content-Range": "bytes 0-8/500", "Content-Encoding": "gzip"})
        server.script(coded)
        with origin_at(server) as origin:
            get(origin, REF, 0, 100)
            get(origin, REF, 0, 100)
        assert ranges(server) == ["bytes=0-99", None, "bytes=0-99"]

    def test_a_refusal_of_both_is_a_refusal(self, server: RegistryServer) -> None:
        server.rule = lambda _: Answering(400)
        with origin_at(server) as origin, pytest.raises(OriginRefusedError, match="status 400"):
            get(origin, REF, 0, 100)
        assert len(server.seen) == 2

    def test_a_range_beyond_the_end_is_a_refusal(self, server: RegistryServer) -> None:
        with origin_at(server) as origin, pytest.raises(OriginRefusedError, match="status 416"):
            get(origin, REF, SIZE, SIZE + 1)
        assert len(server.seen) == 1

    def test_a_range_that_fits_is_not_beyond_the_end(self, server: RegistryServer) -> None:
        server.rule = to_any_range(Answering(416))
        with origin_at(server) as origin:
            assert get(origin, KNOWN, 100, 200) == CONTENT
        with origin_at(server) as origin, pytest.raises(OriginRefusedError, match="status 416"):
            get(origin, REF, 100, 200)

    def test_a_range_of_the_whole_is_not_asked_for(self, server: RegistryServer) -> None:
        with origin_at(server) as origin:
            assert get(origin, KNOWN, 0, SIZE) == CONTENT
            assert get(origin, KNOWN, 0, SIZE + 5) == CONTENT
            assert get(origin, KNOWN, 0, SIZE - 1) == CONTENT[:-1]
        assert ranges(server) == [None, None, f"bytes=0-{SIZE - 2}"]

    def test_a_total_that_is_not_told_is_known(self, server: RegistryServer) -> None:
        server.script(Answering(206, CONTENT[100:200], {"Content-Range": "bytes 100-199/*"}))
        with origin_at(server) as origin:
            assert get(origin, KNOWN, 100, 200) == CONTENT[100:200]
        assert len(server.seen) == 1

    @pytest.mark.parametrize("told", [f"bytes 0-{SIZE - 1}/{SIZE}", "bytes 0-9/*", None])
    def test_one_that_nobody_asked_for_is_the_whole(self, server: RegistryServer, told: str | None) -> None:
        server.rule = lambda _: Answering(206, CONTENT, {"Content-Range": told})
        with origin_at(server) as origin:
            assert get(origin, REF) == CONTENT

    def test_the_length_of_a_part_may_be_told_by_its_range_only(self, server: RegistryServer) -> None:
        fields = f"Content-Range: bytes 100-899/{SIZE}", "Transfer-Encoding: chunked"
        wire = answer(chunked(CONTENT[100:300], CONTENT[300:900]), *fields).wire or b""
        server.script(Answering(wire=wire.replace(b"200 OK", b"206 Partial")))
        with origin_at(server) as origin:
            assert get(origin, REF, 100, 900) == CONTENT[100:900]
        assert len(server.seen) == 1


FRAMED = {
    "chunked": answer(chunked(CONTENT[:5], CONTENT[5:]), "Transfer-Encoding: chunked"),
    "chunked with trailers": answer(chunked(CONTENT, trailer=b"X-Sum: 1\r\n"), "Transfer-Encoding: Chunked "),
    "chunked and a length": answer(chunked(CONTENT), "Transfer-Encoding: chunked", "Content-Length: 7"),
    "to the end of the connection": answer(CONTENT),
    "one length in two fields": answer(CONTENT, f"Content-Length: {SIZE}", f"Content-Length: {SIZE}"),
    "one length twice": answer(CONTENT, f"Content-Length: {SIZE}, {SIZE}"),
    "a length with zeros": answer(CONTENT, f"content-LENGTH :  00{SIZE} "),
}


class TestLengths:
    """A length that is not told is known, or found out."""

    @pytest.mark.parametrize("answering", FRAMED.values(), ids=FRAMED)
    def test_a_known_length_needs_no_more(self, server: RegistryServer, answering: Answering) -> None:
        server.script(answering)
        with origin_at(server) as origin:
            assert get(origin, KNOWN) == CONTENT
        assert len(server.seen) == 1

    def test_http_1_0(self, server: RegistryServer) -> None:
        server.script(Answering(wire=b"HTTP/1.0 200 OK\nDate: x\n\n" + CONTENT, then="close"))
        with origin_at(server) as origin:
            assert get(origin, KNOWN) == CONTENT

    @pytest.mark.parametrize("whole", [False, True])
    def test_a_body_that_ends_early_is_resumed(self, server: RegistryServer, whole: bool) -> None:
        server.ignores_range = whole
        server.script(answer(chunked(CONTENT[:70_000])[:-5], "Transfer-Encoding: chunked"))
        with origin_at(server) as origin:
            assert get(origin, KNOWN) == CONTENT
        assert ranges(server) == [None, f"bytes=70000-{SIZE - 1}"]

    def test_a_small_blob_is_read_whole(self, server: RegistryServer) -> None:
        server.rule = lambda _: Answering(wire=answer(chunked(SMALL), "Transfer-Encoding: chunked").wire)
        with origin_at(server) as origin:
            for _ in range(2):
                assert get(origin, SMALL_REF, 0, 10_000_000) == SMALL
        assert (len(server.seen), server.connections) == (2, 1)

    @pytest.mark.parametrize("by_head", [True, False], ids=["HEAD", "range"])
    def test_the_length_of_a_large_blob_is_asked_for(self, server: RegistryServer, by_head: bool) -> None:
        large = bytes(WHOLE_BYTES + 1)

        def rule(seen: Seen) -> Answering:
            if seen.method == "HEAD":
                return Answering(200, large) if by_head else Answering(405)
            if seen.headers.get("range") == "bytes=0-0":
                return partial(large, 0, 0)
            return answer(chunked(large), "Transfer-Encoding: chunked")

        server.rule = rule
        with origin_at(server) as origin:
            assert get(origin, REF) == large
        assert [seen.method for seen in server.seen] == (
            ["GET", "HEAD", "GET"] if by_head else ["GET", "HEAD", "GET", "GET"]
        )

    def test_a_length_that_nobody_tells_is_an_error(self, server: RegistryServer) -> None:
        endless = answer(chunked(bytes(WHOLE_BYTES + 1)), "Transfer-Encoding: chunked")
        server.rule = lambda _: endless
        with origin_at(server) as origin, pytest.raises(OriginUnusableError, match="does not tell its length"):
            get(origin, REF)

    @pytest.mark.parametrize(
        "answering",
        [
            answer(CONTENT, "Content-Length: 5", "Content-Length: 6"),
            answer(CONTENT, "Content-Length: five"),
            answer(CONTENT, "Transfer-Encoding: gzip, chunked"),
        ],
    )
    def test_what_contradicts_itself_is_asked_for_again(self, server: RegistryServer, answering: Answering) -> None:
        server.script(answering)
        with origin_at(server) as origin:
            assert get(origin, REF) == CONTENT
            assert origin.statistics().retries == 1


class TestCodings:
    """The digest and the length decide whether bytes are coded, or only said to be."""

    @pytest.mark.parametrize("coding", ["gzip", "identity", "", "none", "br", "aws-chunked"])
    @pytest.mark.parametrize("known", [True, False])
    def test_a_label_on_bytes_that_are_right(self, server: RegistryServer, coding: str, known: bool) -> None:
        server.rule = lambda _: Answering(200, GZIPPED, {"Content-Encoding": coding})
        ref = ContentRef("app", Digest.of(GZIPPED), size_bytes=len(GZIPPED) if known else None)
        with origin_at(server) as origin:
            assert get(origin, ref) == GZIPPED

    def test_a_label_on_a_range_of_bytes_that_are_right(self, server: RegistryServer) -> None:
        headers = {"Content-Range": f"bytes 100-199/{SIZE}", "Content-Encoding": "gzip"}
        server.script(Answering(206, CONTENT[100:200], headers))
        with origin_at(server) as origin:
            assert get(origin, KNOWN, 100, 200) == CONTENT[100:200]

    @pytest.mark.parametrize(
        ("coding", "coded"),
        [
            ("gzip", gzip.compress(CONTENT)),
            ("gzip", gzip.compress(CONTENT[:9]) + gzip.compress(CONTENT[9:]) + bytes(9)),
            ("deflate", zlib.compress(CONTENT)),
            ("deflate", zlib.compress(CONTENT)[2:-4]),
        ],
        ids=["gzip", "members", "deflate", "raw deflate"],
    )
    @pytest.mark.parametrize("length", [True, False], ids=["length", "chunked"])
    def test_bytes_that_are_coded(self, server: RegistryServer, coding: str, coded: bytes, length: bool) -> None:
        framing = "Transfer-Encoding: chunked"
        plain = Answering(200, coded, {"Content-Encoding": coding})
        server.rule = lambda _: plain if length else answer(chunked(coded), framing, f"Content-Encoding: {coding}")
        with origin_at(server) as origin:
            assert get(origin, KNOWN) == CONTENT

    def test_coded_bytes_that_break_off_come_from_the_start_again(self, server: RegistryServer) -> None:
        coded = gzip.compress(CONTENT, compresslevel=0)
        whole = Answering(200, coded, {"Content-Encoding": "gzip"})

        def rule(seen: Seen) -> Answering:
            if "range" not in seen.headers:
                return whole
            headers = {"Content-Range": f"bytes 9-{len(coded) - 1}/{len(coded)}", "Content-Encoding": "gzip"}
            return Answering(206, coded[9:], headers)

        server.script(dataclasses.replace(whole, sent_bytes=300_000, then="close"))
        server.rule = rule
        with origin_at(server) as origin:
            assert get(origin, KNOWN) == CONTENT

    def test_a_small_blob_of_unknown_length(self, server: RegistryServer) -> None:
        server.rule = lambda _: Answering(200, gzip.compress(SMALL), {"Content-Encoding": "gzip"})
        with origin_at(server) as origin:
            assert get(origin, SMALL_REF) == SMALL

    @pytest.mark.parametrize("coded", [GZIPPED[:-9] + b"xxxxxxxxx", b"not gzip at all" * 9], ids=["broken", "no gzip"])
    def test_a_coding_that_is_broken_is_of_no_use(self, server: RegistryServer, coded: bytes) -> None:
        server.rule = lambda _: Answering(200, coded, {"Content-Encoding": "gzip"})
        with origin_at(server) as origin, pytest.raises(OriginUnusableError, match="not in their coding"):
            get(origin, structs.replace(SMALL_REF, size_bytes=len(SMALL)))


class TestManifests:
    """A manifest is read whole, and its digest decides."""

    @pytest.mark.parametrize(
        "answering",
        [
            Answering(200, MANIFEST, {"Content-Encoding": "gzip"}),
            Answering(200, gzip.compress(MANIFEST), {"Content-Encoding": "gzip"}),
            answer(chunked(MANIFEST), "Transfer-Encoding: chunked"),
            answer(chunked(gzip.compress(MANIFEST)), "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
            answer(MANIFEST),
        ],
        ids=["label", "gzip", "chunked", "chunked gzip", "no length"],
    )
    def test_it_is_proven(self, server: RegistryServer, answering: Answering) -> None:
        server.script(answering)
        with origin_at(server) as origin:
            assert get(origin, MANIFEST_REF) == MANIFEST
        assert len(server.seen) == 1

    def test_wrong_bytes_are_corrupt(self, server: RegistryServer) -> None:
        server.rule = lambda _: Answering(200, b"<html>", {"Content-Type": "text/html"})
        with origin_at(server) as origin, pytest.raises(OriginCorruptError, match="text/html"):
            get(origin, MANIFEST_REF)
        assert len(server.seen) == 1

    def test_too_many_bytes_are_of_no_use(self, server: RegistryServer) -> None:
        server.rule = lambda _: Answering(200, bytes(8 * 1024 * 1024 + 1))
        with origin_at(server) as origin, pytest.raises(OriginUnusableError, match="more than 8388608 bytes"):
            get(origin, MANIFEST_REF)


USELESS: Mapping[str, Answering] = {
    "web page": Answering(200, b"<html>log in</html>", {"Content-Type": "text/html; charset=utf-8"}),
    "204": Answering(204),
    "304": Answering(304),
    "302 to nowhere": Answering(302),
    "101": Answering(101),
}


class TestUseless:
    """A useless answer of one endpoint does not hide the good one of the next."""

    @pytest.mark.parametrize("answering", USELESS.values(), ids=USELESS)
    def test_the_next_endpoint_is_asked(self, server: RegistryServer, answering: Answering) -> None:
        with RegistryServer() as portal:
            portal.rule = lambda _: answering
            with origin_at(portal, server) as origin:
                for ref, content in ((KNOWN, CONTENT), (MANIFEST_REF, MANIFEST)):
                    assert get(origin, ref) == content

    def test_small_answers_come_from_the_next_endpoint_too(self, server: RegistryServer) -> None:
        server.rule = lambda _: Answering(200, b"{}", {"Docker-Content-Digest": "sha256:1"})
        with RegistryServer() as portal:
            portal.rule = lambda _: USELESS["web page"]
            with origin_at(portal, server) as origin:
                assert "docker-content-digest" in origin.request("HEAD", "app/manifests/1", credential=NOBODY).headers
            with origin_at(portal, server) as origin:
                assert origin.request("GET", "app/tags/list", credential=NOBODY).body == b"{}"

    def test_alone_a_web_page_is_no_small_answer(self, server: RegistryServer) -> None:
        server.rule = lambda _: USELESS["web page"]
        with origin_at(server) as origin:
            with pytest.raises(OriginUnusableError, match="web page"):
                origin.request("GET", "app/tags/list", credential=NOBODY)
            assert origin.request("HEAD", "app/manifests/1", credential=NOBODY).status == 200
            assert origin.request("GET", "", credential=NOBODY).status == 200

    def test_json_that_is_called_a_web_page_is_json(self, server: RegistryServer) -> None:
        server.rule = lambda _: Answering(200, b'{"tags": []}', {"Content-Type": "text/html"})
        with origin_at(server) as origin:
            assert origin.request("GET", "app/tags/list", credential=NOBODY).status == 200

    def test_a_blob_that_is_called_a_web_page_is_proven(self, server: RegistryServer) -> None:
        server.rule = lambda _: Answering(200, SMALL, {"Content-Type": "Text/HTML"})
        with origin_at(server) as origin:
            assert get(origin, SMALL_REF) == SMALL
            with pytest.raises(OriginUnusableError, match="web page"):
                get(origin, REF)

    @pytest.mark.parametrize("answering", USELESS.values(), ids=USELESS)
    def test_alone_it_is_of_no_use(self, server: RegistryServer, answering: Answering) -> None:
        server.rule = lambda _: answering
        with origin_at(server) as origin, pytest.raises(OriginUnusableError, match=r"upstream reg\.test"):
            get(origin, KNOWN)
        assert len(server.seen) == 1


def test_nothing_is_left_over_from_what_could_not_be_used(server: RegistryServer) -> None:
    server.script(Answering(206, CONTENT[100:200]))
    with origin_at(server) as origin:
        assert read_all(origin, 100, 200) == CONTENT
        assert read_all(origin) == CONTENT
