"""`p2pd status` of a node: by subject, in words that need no knowledge of p2pd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p2pd.cli.status import of_node
from tests.support.node import asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.swarm.cluster import cluster


def shown(status: dict[str, Any]) -> list[str]:
    return [" ".join(row).strip() for row in of_node(status)]


@asynchronous
async def test_a_node_that_is_alone(tmp_path: Path, registry: ImageRegistry) -> None:
    async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:
        node.not_ready.append("p2pd is draining")
        status = (await node.ask_admin("GET", "/status")).json
        status["clients"] = {"docker": 1.6, "containers": 7300.0}
        status["downloads"] |= {"origin_bytes": 3 << 20, "peer_bytes": 1 << 20, "corrupt_pieces": 2}
        lines = shown(status)
        assert lines[0] == f"daemon p2pd is draining, up 0s, {status['version']}"
        assert lines[1:] == [
            f"runtimes pull through {node.mirror}; docker 2s ago, podman, CRI-O, skopeo or buildah 2h ago",
            "registries docker.io",
            "cache 0 blobs, 0B of 50.0GiB",
            f"in {tmp_path / 'store'}; 0 evicted, 0 lost on the disk",
            "received 3.0MiB from registries, 1.0MiB from other hosts; 0 blobs on their way",
            "2 pieces with wrong bytes",
            "cluster none: this node has no scheduler and no address for other hosts, and takes all from registries",
        ]


@asynchronous
async def test_a_host_of_a_cluster(tmp_path: Path, registry: ImageRegistry) -> None:
    async with cluster(tmp_path, registry) as swarm:
        status = await (await swarm.add()).status()
        lines = shown(status)
        assert f"cluster connected to the scheduler {swarm.scheduler.url}" in lines
        assert "0 neighbours; 0B sent to other hosts" in lines
        assert f"this host is host-1, others reach it at {status['advertise']}" in lines


@pytest.mark.parametrize(("alone", "said"), [(True, "does not answer"), (False, "looking for the scheduler")])
@asynchronous
async def test_a_scheduler_that_is_gone(tmp_path: Path, registry: ImageRegistry, alone: bool, said: str) -> None:
    async with cluster(tmp_path, registry) as swarm:
        status = await (await swarm.add()).status()
    status["swarm"] |= {"scheduler_connected": False, "alone": alone}
    assert any(said in line for line in shown(status))
