"""The background transport of real processes with certificates: a preheat within a site, and a host once revoked."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from peer.background.client import BackgroundError, BackgroundProcess
from peer.background.messages import Content, Fetch
from peer.background.ticket import parse_ticket
from scheduler.protocol.geometry import piece_length
from tests.peer.test_background_process import LOOPBACK, asked
from tests.support.client import ask
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous
from tests.support.ports import free_port
from tests.support.registry import ImageRegistry
from tests.swarm.cluster import MIB, REPOSITORY, UPSTREAM
from tests.swarm.secure_cluster import Process, SecureCluster, cluster, raw
from tests.swarm.test_strangers import Thief, request

BITTORRENT: dict[str, object] = {"background-transport": "bittorrent"}
IMAGE = make_image(content_of("a layer", 4 * MIB))
LAYER = IMAGE.layers[0]
DIGEST = digest_of(LAYER)
CONTENT = Content(DIGEST.removeprefix("sha256:"), len(LAYER), piece_length(len(LAYER)))
FIRST = LAYER[: CONTENT.piece_bytes]


def root_of(ticket: bytes) -> bytes:
    return parse_ticket(ticket).root


async def metric(node: Process, name: str) -> float:
    text = (await ask(node.at["admin"], "GET", "/metrics")).body.decode()
    found = re.search(rf"^{re.escape(name)} (.+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


@asynccontextmanager
async def pair(directory: Path, registry: ImageRegistry) -> AsyncIterator[tuple[SecureCluster, Process, Process]]:
    """Two nodes in one site, the first of which holds the image."""
    registry.push(REPOSITORY, "v1", IMAGE)
    async with cluster(directory, registry) as secure:
        one, two = await secure.pair(BITTORRENT, BITTORRENT)
        await ask(one.at["mirror"], "GET", f"/v2/{REPOSITORY}/manifests/v1")
        for blob in IMAGE.blobs:
            assert (await one.blob(digest_of(blob))).body == blob
        yield secure, one, two


@asynchronous
async def test_a_preheat_within_a_site_gives_way(tmp_path: Path, registry: ImageRegistry) -> None:
    async with pair(tmp_path, registry) as (secure, _, two):
        words = ("preheat", f"{UPSTREAM}/{REPOSITORY}:v1", "--to", two.host, "--wait")
        await asyncio.to_thread(secure.p2pd, *words, f"--admin={secure.scheduler.at['admin']}")
        assert await metric(two, 'p2pd_background_bytes_total{direction="received"}') >= len(LAYER)
        assert await metric(two, "p2pd_background_fallbacks_total") == 0
        assert registry.sent[f"/v2/{REPOSITORY}/blobs/{DIGEST}"] == len(LAYER), "it has left the registry once"
        assert (await two.blob(DIGEST)).body == LAYER


@asynchronous
async def test_a_host_that_is_revoked_has_no_ticket_within_a_minute(tmp_path: Path, registry: ImageRegistry) -> None:
    """It has one that is good, and is connected with it, when it is revoked; others go on with tickets of their own."""
    async with pair(tmp_path, registry) as (secure, one, two):
        thief = await asyncio.to_thread(Thief, secure, one, "thief")
        process = BackgroundProcess(tmp_path / "thief", LOOPBACK, free_port())

        async def ticket(tls: ssl.SSLContext) -> bytes:
            answer = await raw(one.at["peer"], request("GET", f"/v2/swarm/background/blobs/{DIGEST}"), tls)
            head, _, body = answer.partition(b"\r\n\r\n")
            return body if head.startswith(b"HTTP/1.1 200 ") else b""

        async def first_piece(shown: bytes) -> bytes:
            return await asyncio.to_thread(asked, process, Fetch(CONTENT, 0, LOOPBACK, shown))

        try:
            old = await ticket(thief.tls)
            assert await first_piece(old) == FIRST
            revoked = time.monotonic()
            await asyncio.to_thread(secure.p2pd, "host", "revoke", "thief")
            while await ticket(thief.tls) or root_of(new := await ticket(two.tls())) == root_of(old):
                assert time.monotonic() - revoked < 60
            with pytest.raises(BackgroundError):
                await first_piece(old)
            assert await first_piece(new) == FIRST, "the host that asked for it is good"
        finally:
            await asyncio.to_thread(process.close)
