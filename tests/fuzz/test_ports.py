"""Whatever somebody sends to a port: no traceback, no 5xx of ours, and an honest client is served all the same."""

from __future__ import annotations

import gc
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.daemon.node import serve
from scheduler.core.scheduler import Scheduler
from scheduler.protocol.codec import FROM_HOST, LINK
from scheduler.protocol.from_host import Hello
from scheduler.protocol.link import Bitfield, LinkHello
from scheduler.shell.server import SchedulerServer
from tests.fuzz.standing import Errors, ask, converse, standing, watched_log
from tests.fuzz.wire import conversations, damaged, websocket
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import settings_for
from tests.support.registry import ImageRegistry

APP = "library/app"
LAYER = content_of("layer", 50_000)
IMAGE = make_image(LAYER)
BLOB = f"/v2/{APP}/blobs/{digest_of(LAYER)}"
TARGETS = {
    "mirror": [
        "/v2/", f"/v2/{APP}/manifests/1.0", f"/v2/{APP}/manifests/{IMAGE.digest}", BLOB, f"{BLOB}?ns=docker.io",
        f"/v2/{APP}/tags/list?n=2&last=x", f"/v2/{APP}/referrers/{IMAGE.digest}", f"/v2/{APP}/manifests/2.0",
        f"/v2/docker.io/{APP}/manifests/1.0", f"/v2/{APP}/blobs/sha512:{'0' * 128}", f"/v2/{APP}/blobs/uploads/",
        "/v2/_catalog", "/",
    ],
    "admin": ["/healthz", "/readyz", "/metrics", "/status", "/cache", f"/cache/{IMAGE.digest}", "/cache/gc"],
    "metrics": ["/metrics", "/status", "/"],
    "peer": [
        f"/v2/swarm/blobs/{digest_of(LAYER)}", f"/v2/swarm/0-9/blobs/{digest_of(LAYER)}", "/v2/swarm/1-0/blobs/x",
        "/v1/link",
    ],
    "scheduler": ["/v1/swarm", "/", "/v1/ca", "/v1/join", "/v1/renew"],
}  # fmt: skip
HONEST = {
    "mirror": (BLOB, LAYER[-100:]),
    "admin": ("/healthz", b'"healthy": true'),
    "metrics": ("/metrics", b"# HELP"),
    "peer": ("/", b"there is nothing here"),
    "scheduler": ("/", b"p2pd scheduler"),
}
LINKS = st.sampled_from(
    [LINK.encode(LinkHello("host-9", 1, 1)), LINK.encode(Bitfield(b"d" * 32, 1, True)), b"", bytes(200)]
)
SWARMS = st.sampled_from([FROM_HOST.encode(Hello("host-9", 1, 1, "127.0.0.1:9")), b"", bytes(200)])
MORE = {
    "mirror": [],
    "admin": [],
    "metrics": [],
    "peer": [websocket("/v1/link", damaged(LINKS))],
    "scheduler": [websocket("/v1/swarm", damaged(SWARMS))],
}


@dataclass(frozen=True)
class Ports:
    """The ports of a node and of a scheduler, by name, and what was logged."""

    numbers: dict[str, int]
    errors: Errors


@asynccontextmanager
async def _node(data: Path, registry: ImageRegistry) -> AsyncIterator[dict[str, int]]:
    async with SchedulerServer(Scheduler()).serving("127.0.0.1", 0) as scheduler:
        options = {"metrics": "127.0.0.1:0", "peer": "127.0.0.1:0", "scheduler": [f"http://127.0.0.1:{scheduler}"]}
        async with serve(settings_for(data, f"docker.io={registry.url}", **options), list) as addresses:
            named = {name: int(addresses[name].rpartition(":")[2]) for name in ("mirror", "admin", "metrics", "peer")}
            yield {**named, "scheduler": scheduler}


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with ImageRegistry() as registry, watched_log() as errors:
        registry.push(APP, "1.0", IMAGE)
        with standing(_node(tmp_path_factory.mktemp("node") / "data", registry)) as numbers:
            gc.freeze()
            yield Ports(numbers, errors)
            gc.unfreeze()


@pytest.mark.parametrize("name", list(TARGETS))
@settings(max_examples=60)
@given(data=st.data(), ends=st.booleans())
def test_whatever_is_sent_the_next_is_served(ports: Ports, name: str, data: st.DataObject, ends: bool) -> None:
    ports.errors.told.clear()
    parts = data.draw(conversations(TARGETS[name], *MORE[name]))
    port = ports.numbers[name]
    answer = converse(port, parts, ends=ends)
    assert re.match(rb"HTTP/1\.[01] (?!500)[1-5]|\Z", answer), answer[:200]
    path, expected = HONEST[name]
    honest = ask(port, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    assert expected in honest
    gc.collect()  # what a task has raised is told at its end
    assert not ports.errors.told
