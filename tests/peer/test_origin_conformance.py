"""The conformance suite over HTTP: a registry that answers from CONTENT, with and without ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from peer.origin.api import Kind
from peer.origin.layout import LayoutOrigin
from tests.peer.origin_conformance import ANONYMOUS, CONTENT, LAYER, OriginConformance, read_all
from tests.peer.origin_fixtures import origin_at
from tests.peer.test_layout_origin import listed, named, write_layout
from tests.support.registry_server import Answering, RegistryServer, Rule, Seen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from peer.origin.api import Origin


def answers_of(layout: LayoutOrigin) -> Rule:
    """All that `layout` says in small answers. The bodies of blobs are the server's own part."""

    def rule(seen: Seen) -> Answering | None:
        if seen.path.removeprefix("/v2/") in blob_paths() and seen.method == "GET":
            return None
        answer = layout.request("GET", seen.target.removeprefix("/v2/"), credential=ANONYMOUS)
        headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
        return Answering(answer.status, answer.body, headers)

    return rule


def blob_paths() -> set[str]:
    return {f"{CONTENT.repository}/{Kind.BLOB.value}/{digest}" for digest in CONTENT.blobs}


class TestHttp(OriginConformance):
    ignores_range = False

    @pytest.fixture
    def origin(self, tmp_path: Path) -> Iterator[Origin]:
        layout = write_layout(tmp_path, [*named(*CONTENT.tags), listed(CONTENT.referrer, {})])
        with RegistryServer() as server:
            server.rule = answers_of(LayoutOrigin(layout, upstream="reg.test"))
            server.ignores_range = self.ignores_range
            for digest, content in CONTENT.blobs.items():
                server.add_blob(CONTENT.repository, digest, content)
            with origin_at(server) as origin:
                yield origin


class TestHttpWithoutRanges(TestHttp):
    ignores_range = True

    @pytest.mark.parametrize("start", [300_000, 10**12])
    def test_a_start_beyond_the_end_is_refused(self, origin: Origin, start: int) -> None:
        """The whole blob comes: the registry has not looked at the range."""
        with origin.open(LAYER, start, None, credential=ANONYMOUS) as body:
            assert (body.start, body.stop, read_all(body)) == (0, 300_000, CONTENT.layer)
