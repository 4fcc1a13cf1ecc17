"""What every `Origin` has to do, whatever is behind it. A test module subclasses `OriginConformance` and gives it a
fixture `origin` that serves `CONTENT`.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import pytest

from peer.errors import OriginBrokenError, OriginRefusedError, OriginUnreachableError
from peer.oci.digest import Digest
from peer.oci.manifest import OCI_IMAGE, OCI_INDEX
from peer.origin.api import Body, ContentRef, Credential, Kind, Origin
from tests.support.registry_server import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Mapping

ANONYMOUS = Credential()
ABSENT = Digest("sha256:" + "0" * 64)


def digest_of(content: bytes) -> Digest:
    return Digest.of(content)


def descriptor_of(content: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


@dataclass(frozen=True, slots=True)
class InlineBlob:
    """An image with two tags, a signature that refers to it, and the blobs of both."""

    repository: str
    tags: tuple[str, ...]
    manifest: bytes
    referrer: bytes
    layer: bytes
    config: bytes

    @property
    def blobs(self) -> Mapping[str, bytes]:
        return {digest_of(blob): blob for blob in (self.layer, self.config)}


def _content() -> InlineBlob:
    layer, config = Random(1).randbytes(300_000), b"{}"
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_IMAGE,
        "config": descriptor_of(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor_of(layer, "application/vnd.oci.image.layer.v1.tar")],
    }
    body = json.dumps(manifest).encode()
    referrer = manifest | {"subject": descriptor_of(body, OCI_IMAGE), "artifactType": "application/x-signature"}
    return InlineBlob("library/app", ("1", "latest"), body, json.dumps(referrer).encode(), layer, config)


CONTENT = _content()
LAYER = ContentRef(CONTENT.repository, digest_of(CONTENT.layer))


def read_all(body: Body, *, buffer_bytes: int = 65_536) -> bytes:
    buffer = bytearray(buffer_bytes)
    view = memoryview(buffer)
    parts: list[bytes] = []
    while count := body.readinto(view):
        parts.append(bytes(view[:count]))
    return b"".join(parts)


class OriginConformance:
    """The tests. `origin` is the fixture to be given."""

    def test_the_ping_is_answered(self, origin: Origin) -> None:
        assert origin.request("GET", "", credential=ANONYMOUS).status == 200

    @pytest.mark.parametrize("reference", [*CONTENT.tags, digest_of(CONTENT.manifest)])
    def test_a_manifest_comes_by_tag_and_by_digest_with_what_clients_need(self, origin: Origin, reference: str) -> None:
        path = f"{CONTENT.repository}/manifests/{reference}"
        whole = origin.request("GET", path, credential=ANONYMOUS, headers={"Accept": OCI_IMAGE})
        head = origin.request("HEAD", path, credential=ANONYMOUS, headers={"Accept": OCI_IMAGE})

        assert (whole.status, head.status) == (200, 200)
        assert (whole.body, head.body) == (CONTENT.manifest, b"")
        for answer in (whole, head):
            assert answer.headers["content-type"] == OCI_IMAGE
            assert answer.headers["content-length"] == str(len(CONTENT.manifest))
            assert answer.headers["docker-content-digest"] == digest_of(CONTENT.manifest)

    def test_the_head_of_a_blob_tells_its_length(self, origin: Origin) -> None:
        path = f"{CONTENT.repository}/blobs/{LAYER.digest}"
        answer = origin.request("HEAD", path, credential=ANONYMOUS)

        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-length"] == str(len(CONTENT.layer))

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            (f"{CONTENT.repository}/manifests/absent", "MANIFEST_UNKNOWN"),
            (f"{CONTENT.repository}/manifests/{ABSENT}", "MANIFEST_UNKNOWN"),
            (f"{CONTENT.repository}/blobs/{ABSENT}", "BLOB_UNKNOWN"),
        ],
    )
    def test_what_is_absent_is_a_404_with_an_error_in_json(self, origin: Origin, path: str, code: str) -> None:
        answer = origin.request("GET", path, credential=ANONYMOUS)

        assert answer.status == 404
        assert json.loads(answer.body)["errors"][0]["code"] == code
        assert origin.request("HEAD", path, credential=ANONYMOUS).status == 404

    def test_tags_are_listed_in_order(self, origin: Origin) -> None:
        answer = origin.request("GET", f"{CONTENT.repository}/tags/list", credential=ANONYMOUS)

        assert answer.status == 200
        assert json.loads(answer.body) == {"name": CONTENT.repository, "tags": ["1", "latest"]}

    def test_tags_are_listed_in_pages(self, origin: Origin) -> None:
        first = origin.request("GET", f"{CONTENT.repository}/tags/list?n=1", credential=ANONYMOUS)
        second = origin.request("GET", f"{CONTENT.repository}/tags/list?n=1&last=1", credential=ANONYMOUS)

        assert json.loads(first.body)["tags"] == ["1"]
        assert 'rel="next"' in first.headers["link"]
        assert json.loads(second.body)["tags"] == ["latest"]

    def test_referrers_are_found_by_their_subject(self, origin: Origin) -> None:
        path = f"{CONTENT.repository}/referrers/{digest_of(CONTENT.manifest)}"
        answer = origin.request("GET", path, credential=ANONYMOUS)

        assert (answer.status, answer.headers["content-type"]) == (200, OCI_INDEX)
        assert [found["digest"] for found in json.loads(answer.body)["manifests"]] == [digest_of(CONTENT.referrer)]

    def test_nothing_refers_to_what_nobody_knows(self, origin: Origin) -> None:
        answer = origin.request("GET", f"{CONTENT.repository}/referrers/{ABSENT}", credential=ANONYMOUS)

        assert (answer.status, json.loads(answer.body)["manifests"]) == (200, [])

    @pytest.mark.parametrize("content", [CONTENT.layer, CONTENT.config])
    def test_a_blob_comes_whole(self, origin: Origin, content: bytes) -> None:
        ref = ContentRef(CONTENT.repository, digest_of(content))
        with origin.open(ref, 0, None, credential=ANONYMOUS) as body:
            assert (body.start, body.stop, body.size_bytes) == (0, len(content), len(content))
            assert read_all(body) == content

    def test_a_manifest_comes_as_a_body_with_its_type(self, origin: Origin) -> None:
        ref = ContentRef(CONTENT.repository, digest_of(CONTENT.manifest), Kind.MANIFEST)
        with origin.open(ref, 0, None, credential=ANONYMOUS) as body:
            assert body.media_type == OCI_IMAGE
            assert read_all(body) == CONTENT.manifest

    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 1), (0, 300_000), (1, 2), (99_999, 200_001), (299_999, None), (1, None), (10, 300_001)]
    )
    def test_a_range_comes_as_it_was_asked_for_and_cut_to_the_end(
        self, origin: Origin, start: int, stop: int | None
    ) -> None:
        with origin.open(LAYER, start, stop, credential=ANONYMOUS) as body:
            got = read_all(body, buffer_bytes=7_000)
            assert got == CONTENT.layer[body.start : body.stop]
            # An origin may ignore Range; it may not send less than was asked for.
            assert body.start <= start
            assert body.stop >= min(stop or 300_000, 300_000)
            assert body.size_bytes == 300_000

    def test_a_read_fills_the_buffer_until_the_end_and_is_empty_after_it(self, origin: Origin) -> None:
        view = memoryview(bytearray(200_000))
        with origin.open(LAYER, 0, None, credential=ANONYMOUS) as body:
            assert [body.readinto(view) for _ in range(4)] == [200_000, 100_000, 0, 0]

    @pytest.mark.parametrize("start", [300_000, 300_001, 10**12])
    def test_a_start_beyond_the_end_is_refused(self, origin: Origin, start: int) -> None:
        with pytest.raises(OriginRefusedError) as refusal:
            origin.open(LAYER, start, None, credential=ANONYMOUS)

        assert refusal.value.status == 416

    @pytest.mark.parametrize(("start", "stop"), [(-1, None), (5, 5), (5, 4)])
    def test_what_is_no_range_is_our_mistake(self, origin: Origin, start: int, stop: int | None) -> None:
        with pytest.raises(ValueError, match="not a range of bytes"):
            origin.open(LAYER, start, stop, credential=ANONYMOUS)

    @pytest.mark.parametrize("kind", list(Kind))
    def test_to_open_what_is_absent_is_refused_with_a_404(self, origin: Origin, kind: Kind) -> None:
        with pytest.raises(OriginRefusedError) as refusal:
            origin.open(ContentRef(CONTENT.repository, ABSENT, kind), 0, None, credential=ANONYMOUS)

        assert refusal.value.status == 404
        assert b"UNKNOWN" in refusal.value.body

    def test_an_aborted_body_gives_nothing_more(self, origin: Origin) -> None:
        with origin.open(LAYER, 0, None, credential=ANONYMOUS) as body:
            assert body.readinto(memoryview(bytearray(10))) == 10
            aborting = threading.Thread(target=body.abort)
            aborting.start()
            aborting.join(PATIENCE_S)
            with pytest.raises(OriginBrokenError):
                read_all(body)

    def test_a_body_can_be_closed_unread_and_more_than_once(self, origin: Origin) -> None:
        body = origin.open(LAYER, 0, None, credential=ANONYMOUS)
        body.close()
        body.close()
        with origin.open(LAYER, 0, None, credential=ANONYMOUS) as again:
            assert read_all(again) == CONTENT.layer

    def test_bodies_are_read_side_by_side(self, origin: Origin) -> None:
        with (
            origin.open(LAYER, 0, None, credential=ANONYMOUS) as one,
            origin.open(LAYER, 0, None, credential=ANONYMOUS) as other,
        ):
            assert one.readinto(memoryview(bytearray(1000))) == 1000
            assert read_all(other) == CONTENT.layer
            assert read_all(one) == CONTENT.layer[1000:]

    def test_after_close_every_call_is_unreachable(self, origin: Origin) -> None:
        origin.close()
        origin.close()
        with pytest.raises(OriginUnreachableError):
            origin.request("GET", "", credential=ANONYMOUS)
        with pytest.raises(OriginUnreachableError):
            origin.open(LAYER, 0, None, credential=ANONYMOUS)
