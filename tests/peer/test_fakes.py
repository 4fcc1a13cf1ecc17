"""The fake origin is an origin: the tests that use it say something about the real ones."""

from __future__ import annotations

import json

import pytest

from peer.oci.manifest import OCI_IMAGE, OCI_INDEX
from peer.origin.api import Answer
from tests.peer.fakes import FakeOrigin
from tests.peer.origin_conformance import ABSENT, CONTENT, OriginConformance, descriptor_of, digest_of


def _tags(*tags: str, more: bool = False) -> Answer:
    headers = {"link": '</v2/next>; rel="next"'} if more else {}
    return Answer(200, headers, json.dumps({"name": CONTENT.repository, "tags": tags}).encode())


def _index(*manifests: bytes) -> Answer:
    found = [descriptor_of(manifest, OCI_IMAGE) for manifest in manifests]
    return Answer(200, {"content-type": OCI_INDEX}, json.dumps({"manifests": found}).encode())


class TestFakeOrigin(OriginConformance):
    @pytest.fixture
    def origin(self) -> FakeOrigin:
        repository, manifest = CONTENT.repository, digest_of(CONTENT.manifest)
        image = Answer(
            200,
            {
                "content-type": OCI_IMAGE,
                "content-length": str(len(CONTENT.manifest)),
                "docker-content-digest": manifest,
            },
            CONTENT.manifest,
        )
        layer = Answer(200, {"content-length": str(len(CONTENT.layer))}, CONTENT.layer)
        answers = {
            "": Answer(200, {}, b""),
            **{f"{repository}/manifests/{reference}": image for reference in (*CONTENT.tags, manifest)},
            f"{repository}/blobs/{digest_of(CONTENT.layer)}": layer,
            f"{repository}/tags/list": _tags(*CONTENT.tags),
            f"{repository}/tags/list?n=1": _tags(CONTENT.tags[0], more=True),
            f"{repository}/tags/list?n=1&last=1": _tags(CONTENT.tags[1]),
            f"{repository}/referrers/{manifest}": _index(CONTENT.referrer),
            f"{repository}/referrers/{ABSENT}": _index(),
        }
        origin = FakeOrigin([CONTENT.manifest, CONTENT.layer, CONTENT.config], answers)
        origin.media_type = OCI_IMAGE
        return origin
