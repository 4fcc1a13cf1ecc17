"""The background transport between real hosts of two sites: what comes by it, and what does not."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.client import ask
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.swarm.cluster import MIB, Host, cluster
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
