"""What the cache may take of the disk: of one that a kubelet watches, and of one that others have nearly filled."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from p2pd.cli.app import app
from p2pd.config import room
from p2pd.config.room import quota_of, room_under
from p2pd.config.sources import load
from peer.core.eviction import DiskShare, Quota
from tests.support.images import content_of
from tests.support.node import asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.support.small_disk import small_disk

NOWHERE = Path("/nowhere")
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


def test_beside_a_kubelet_the_cache_gives_way_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 15 % are free, and images are removed. In a pod nothing shows that the disk is the kubelet's."""
    settings = load({"data": tmp_path / "not" / "yet"}, {}, default_file=NOWHERE)
    assert quota_of(settings, POD) == Quota(DiskShare(50), DiskShare(20), settings.ttl_s)
    monkeypatch.setattr(room, "KUBELETS", (str(tmp_path),))
    assert quota_of(settings, {}) == quota_of(settings, POD)
    monkeypatch.setattr(room, "KUBELETS", ("/proc/self", "/nowhere"))  # another disk, and no kubelet
    assert quota_of(settings, {}).min_free_bytes == DiskShare(20, yields=True)
    said = load({"data": tmp_path, "min_free_bytes": "1GiB", "max_bytes": "70%"}, {}, default_file=NOWHERE)
    assert quota_of(said, POD) == Quota(DiskShare(70), 2**30, said.ttl_s)


@pytest.mark.real
@asynchronous
async def test_a_disk_that_others_fill_still_takes_blobs(tmp_path: Path, registry: ImageRegistry) -> None:
    """Nine tenths of it are taken, and nothing is set: the cache has half of what is left."""
    digests = [registry.put_blob("x/app", content_of(f"layer {number}", 100_000)) for number in range(8)]
    with small_disk(tmp_path / "disk", "size=4m") as disk:
        (disk / "of others").write_bytes(bytes(3_500_000))
        async with node_at(disk / "data", f"docker.io={registry.url}", min_free_bytes="auto") as node:
            for digest in digests:
                assert (await node.get(f"x/app/blobs/{digest}?ns=docker.io")).status == 200
            found = room_under(disk)
            assert found is not None
            held = sum(blob["held_bytes"] for blob in (await node.cached()).values())
            assert 100_000 <= held <= found.free_bytes + 100_000


def test_the_settings_are_shown_both_ways(tmp_path: Path) -> None:
    options = ["--admin=127.0.0.1:1", f"--data={tmp_path}"]
    shown = CliRunner().invoke(app, ["config", *options], env={"P2PD_MIN_FREE_BYTES": "25%"}).output
    assert re.search(r"max_bytes = 50% \([0-9.]+[MGT]iB, 50 % of the disk\) +default", shown)
    assert re.search(r"min_free_bytes = 25% \([0-9.]+[MGT]iB, 25 % of the disk\) +P2PD_MIN_FREE_BYTES", shown)
