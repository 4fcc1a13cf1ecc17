"""The background transport between real hosts of two sites: what comes by it, and what does not."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from peer.oci.digest import Digest
from scheduler.core.preheat_job import JobState
from tests.support.client import ask
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import MIB, Host, cluster, held_bytes
from tests.swarm.test_preheat import SETTLED, app, ended, holds, order, preheats

BITTORRENT = {"background_transport": "bittorrent"}


async def metric(host: Host, name: str) -> float:
    text = (await ask(host.admin, "GET", "/metrics")).body.decode()
    found = re.search(rf"^{re.escape(name)} (.+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


async def received(host: Host) -> float:
    return await metric(host, 'p2pd_background_bytes_total{direction="received"}')


@asynchronous
async def test_a_preheat_comes_from_the_other_site_by_the_background_transport(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    image = app(registry, 9 * MIB)
    layer = image.layer_digests[0]
    async with cluster(tmp_path, registry, SETTLED) as swarm, preheats(swarm.scheduler, tmp_path / "jobs") as service:
        near = await swarm.add(site="near", **BITTORRENT)
        assert (await near.blob(layer)).status == 200
        away = await swarm.add(site="away", **BITTORRENT)
        await ended(service, await order(service, to="site=away"))
        assert await holds(away, image)
        assert swarm.sent_bytes(layer) == len(image.blobs[1]), "it has left the registry once"
        assert await received(away) >= 8 * MIB
        assert await metric(away, "p2pd_background_fallbacks_total") == 0
        assert (await away.blob(layer)).body == image.blobs[1]


@asynchronous
async def test_what_a_client_waits_for_comes_by_http(tmp_path: Path, registry: ImageRegistry) -> None:
    image = app(registry, 4 * MIB)
    layer = image.layer_digests[0]
    async with cluster(tmp_path, registry, SETTLED) as swarm:
        near = await swarm.add(site="near", **BITTORRENT)
        assert (await near.blob(layer)).status == 200
        away = await swarm.add(site="away", **BITTORRENT)
        assert (await away.blob(layer)).body == image.blobs[1]
        assert swarm.sent_bytes(layer) == 4 * MIB
        assert await received(away) == 0


@asynchronous
async def test_within_a_site_a_preheat_gives_way_and_what_is_fetched_ahead_does_not(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    image = app(registry, 4 * MIB, 3 * MIB)
    async with cluster(tmp_path, registry, SETTLED) as swarm, preheats(swarm.scheduler, tmp_path / "jobs") as service:
        one = await swarm.add(site="near", **BITTORRENT)
        for layer in image.layer_digests:
            assert (await one.blob(layer)).status == 200
        preheated = await swarm.add(site="near", **BITTORRENT)
        await ended(service, await order(service, to="host-2"))
        assert await holds(preheated, image)
        assert await received(preheated) >= 7 * MIB
        pulling = await swarm.add(site="near", prefetch_layers=1, **BITTORRENT)
        assert (await pulling.manifest("v1")).status == 200
        assert (await pulling.blob(image.layer_digests[0])).status == 200
        await held_bytes(pulling, image.layer_digests[1], 3 * MIB)
        assert await received(pulling) == 0
        assert [swarm.sent_bytes(layer) for layer in image.layer_digests] == [4 * MIB, 3 * MIB]


@asynchronous
async def test_a_client_takes_over_and_no_piece_is_lost(tmp_path: Path, registry: ImageRegistry) -> None:
    """The other host sends slowly, so that a part has come by the background transport when the client comes."""
    image = app(registry, 6 * MIB)
    layer = image.layer_digests[0]
    async with cluster(tmp_path, registry, SETTLED) as swarm, preheats(swarm.scheduler, tmp_path / "jobs") as service:
        near = await swarm.add(site="near", upload_rate="2MiB", **BITTORRENT)
        assert (await near.blob(layer)).status == 200
        away = await swarm.add(site="away", **BITTORRENT)
        job = await order(service, to="site=away")
        async with asyncio.timeout(PATIENCE_S):
            while not await received(away):
                pass
        assert (await away.blob(layer)).body == image.blobs[1]
        assert (await ended(service, job)).record.state is JobState.SUCCEEDED
        assert swarm.sent_bytes(layer) == 6 * MIB
        assert await received(away) < 6 * MIB
        came = await metric(away, 'p2pd_download_bytes_total{source="peer"}')
        assert came - 6 * MIB < 64 * 1024, "beside the layer there are a manifest and a config"


@asynchronous
async def test_a_neighbour_without_it_gives_the_same_by_http(tmp_path: Path, registry: ImageRegistry) -> None:
    image = app(registry, 4 * MIB)
    layer = image.layer_digests[0]
    async with cluster(tmp_path, registry, SETTLED) as swarm, preheats(swarm.scheduler, tmp_path / "jobs") as service:
        near = await swarm.add(site="near")
        assert (await near.blob(layer)).status == 200
        away = await swarm.add(site="away", **BITTORRENT)
        await ended(service, await order(service, to="site=away"))
        assert await holds(away, image)
        assert swarm.sent_bytes(layer) == 4 * MIB
        assert await received(away) == 0


@asynchronous
async def test_a_piece_that_is_wrong_costs_a_request_by_http_and_nobody_is_blamed(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    """It has rotted on the other host, which finds that when it is asked by HTTP."""
    image = app(registry, 4 * MIB)
    layer = image.layer_digests[0]
    async with cluster(tmp_path, registry, SETTLED) as swarm, preheats(swarm.scheduler, tmp_path / "jobs") as service:
        near = await swarm.add(site="near", **BITTORRENT)
        assert (await near.blob(layer)).status == 200
        async with asyncio.timeout(PATIENCE_S):
            while any(row["in_use"] or not row["complete"] for row in await near.cached()):
                pass  # what is written before the blob is sealed counts as p2pd's own
        digest = Digest(layer)
        path = near.data / "blobs" / digest.hex[:2] / digest.hex
        with path.open("r+b") as file:
            file.seek(2 * MIB)
            file.write(b"rot")
        os.utime(path, (0, 0))  # the clock of the file system may stand still meanwhile
        away = await swarm.add(site="away", **BITTORRENT)
        await ended(service, await order(service, to="site=away"))
        assert await holds(away, image)
        assert await metric(away, "p2pd_background_fallbacks_total") > 0
        assert await metric(away, "p2pd_corrupt_pieces_total") == 0
        assert (await away.blob(layer)).body == image.blobs[1]


@asynchronous
async def test_tickets_are_for_blobs_that_are_whole_and_may_be_shared(tmp_path: Path, registry: ImageRegistry) -> None:
    image = app(registry, MIB)
    layer = image.layer_digests[0]
    async with cluster(tmp_path, registry, SETTLED) as swarm:
        near = await swarm.add(site="near", **BITTORRENT)
        plain = await swarm.add(site="near")

        async def ticket(host: Host, digest: str) -> int:
            return (await ask(host.peer, "GET", f"/v2/swarm/background/blobs/{digest}")).status

        assert await ticket(near, layer) == 404
        assert (await near.blob(layer)).status == 200
        assert await ticket(near, layer) == 200
        assert await ticket(near, "sha256:nonsense") == 400
        assert await ticket(plain, layer) == 501
        assert (await near.remove(layer)).status == 200
        assert await ticket(near, layer) == 404
