"""The admin port of a whole node: what it tells, and what may be changed by whom."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from p2pd.admin.secret import NAME
from p2pd.doctor.swarm import NO_WEBSOCKET
from tests.support.client import ask
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import Node, admin_headers, asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S

APP = "library/app"
LAYER = content_of("layer", 700_000)
LAYER_DIGEST = digest_of(LAYER)
IMAGE = make_image(LAYER)
UNKNOWN = "sha256:" + "0" * 64


def hub(registry: ImageRegistry) -> str:
    registry.push(APP, "1.0", IMAGE)
    return f"docker.io={registry.url}"


async def pull_layer(node: Node) -> None:
    assert (await node.get(f"{APP}/blobs/{LAYER_DIGEST}")).body == LAYER
    await node.until(lambda cached: not cached[LAYER_DIGEST]["in_use"])


class TestHealth:
    @asynchronous
    async def test_healthy_and_ready(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert (await node.ask_admin("GET", "/healthz")).status == 200
            ready = await node.ask_admin("GET", "/readyz")
            assert (ready.status, ready.json) == (200, {"ready": True, "reasons": [], "degraded": []})
            node.not_ready.append("the disk is on fire")
            unready = await node.ask_admin("GET", "/readyz")
            assert (unready.status, unready.json) == (
                503,
                {"ready": False, "reasons": ["the disk is on fire"], "degraded": []},
            )
            assert (await node.ask_admin("GET", "/healthz")).status == 200
            assert not (await node.ask_admin("GET", "/status")).json["ready"]

    @asynchronous
    async def test_status(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", hub(registry), "ghcr.io=http://127.0.0.1:1") as node:
            await pull_layer(node)
            await node.get(f"{APP}/manifests/1.0", {"User-Agent": "containerd/2.1.0"})
            status = (await node.ask_admin("GET", "/status")).json
        assert status["mirror"] == node.mirror
        assert status["admin"] == node.admin
        assert status["data"] == str(tmp_path / "store")
        assert status["upstreams"] == ["docker.io", "ghcr.io"]
        assert status["cache"]["blobs"] == 2
        assert status["cache"]["used_bytes"] == len(LAYER) + len(IMAGE.manifest)
        assert status["downloads"]["active"] == 0
        assert status["cache"]["min_free_bytes"] == 0
        assert [(each["name"], each["urls"]) for each in status["upstream_settings"]] == [
            ("docker.io", [registry.url]),
            ("ghcr.io", ["http://127.0.0.1:1"]),
        ]
        assert set(status["clients"]) == {"containerd", "unknown"}
        assert 0 <= status["clients"]["containerd"] <= status["uptime_s"] + 1

    @asynchronous
    async def test_status_of_what_clients_got(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node:
            await pull_layer(node)
            await pull_layer(node)
            assert (await node.get(f"{APP}/manifests/none", {"User-Agent": "docker/29.0"})).status == 404
            served = (await node.ask_admin("GET", "/status")).json["served"]
        refusal = served.pop("last_refusal")
        size = len(LAYER)
        assert served == {"hits": 1, "misses": 1, "hit_bytes": size, "miss_bytes": size}
        assert 0 <= refusal.pop("age_s") < 60
        assert refusal == {"status": 404, "upstream": "docker.io", "kind": "manifests", "client": "docker"}

    @asynchronous
    async def test_status_of_a_host_whose_scheduler_is_gone(self, tmp_path: Path) -> None:
        settings: dict[str, Any] = {"scheduler": "http://127.0.0.1:1", "site": "east", "rack": "r1"}
        async with node_at(tmp_path / "store", "docker.io=http://127.0.0.1:1", **settings) as node:
            async with asyncio.timeout(PATIENCE_S):
                swarm: dict[str, Any] = {"last_error": ""}
                while not swarm["last_error"]:
                    swarm = (await node.ask_admin("GET", "/status")).json["swarm"]
            peer = (await node.ask_admin("GET", "/status")).json["peer"]
            assert (await ask(peer, "GET", "/v1/link")).status == NO_WEBSOCKET, "by that the doctor knows a host"
        assert not swarm["scheduler_connected"]
        assert swarm["place"] == ["east", "r1"]
        assert swarm["last_error"] == "http://127.0.0.1:1: connection refused: nothing listens there"
        assert swarm["scheduler_out_s"] >= swarm["last_error_age_s"] >= 0
        assert (swarm["neighbours"], swarm["unreachable_reports"]) == (0, 0)


class TestCache:
    @asynchronous
    async def test_what_is_there(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert await node.cached() == {}
            await node.get(f"{APP}/manifests/1.0")
            await pull_layer(node)
            (newest, oldest) = (await node.ask_admin("GET", "/cache")).json
        assert newest.pop("last_used") >= oldest.pop("last_used") > 1.7e9
        assert newest == {
            "digest": LAYER_DIGEST,
            "size_bytes": len(LAYER),
            "held_bytes": len(LAYER),
            "complete": True,
            "media_type": newest["media_type"],
            "in_use": False,
            "pinned_s": 0.0,
            "adopted": False,
            "piece_length": 256 * 1024,
        }
        assert (oldest["digest"], oldest["media_type"]) == (IMAGE.digest, IMAGE.media_type)

    @asynchronous
    async def test_remove(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node:
            await pull_layer(node)
            assert (await node.ask_admin("DELETE", f"/cache/{LAYER_DIGEST}")).status == 200
            assert await node.cached() == {}
            gone = await node.ask_admin("DELETE", f"/cache/{LAYER_DIGEST}")
            assert (gone.status, list(gone.json)) == (404, ["error"])
            await pull_layer(node)  # it can be had again
        assert registry.sent[f"/v2/{APP}/blobs/{LAYER_DIGEST}"] == 2 * len(LAYER)

    @asynchronous
    async def test_what_is_in_use_is_not_removed(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node, node.client() as client:
            hold = registry.hold(APP, LAYER_DIGEST, 1000)
            await client.request("GET", f"/v2/{APP}/blobs/{LAYER_DIGEST}")
            head = await client.head()
            busy = await node.ask_admin("DELETE", f"/cache/{LAYER_DIGEST}")
            assert busy.status == 409
            assert "try again" in busy.json["error"]
            assert (await node.ask_admin("POST", "/cache/gc")).json == {"removed": [], "freed_bytes": 0}
            hold.go.set()
            assert (await client.rest(head)).body == LAYER

    @pytest.mark.parametrize("digest", ["latest", "sha256:short", "..%2f..%2fetc", "%00", UNKNOWN.upper()])
    @asynchronous
    async def test_what_is_no_digest(self, registry: ImageRegistry, tmp_path: Path, digest: str) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node:
            reply = await node.ask_admin("DELETE", f"/cache/{digest}")
            assert reply.status in (400, 404)
            assert list(reply.json) == ["error"]

    @asynchronous
    async def test_collect(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """All that is older than a time to live of next to nothing."""
        async with node_at(tmp_path / "store", hub(registry), ttl_s="0.000001") as node:
            await pull_layer(node)
            reply = await node.ask_admin("POST", "/cache/gc")
            assert reply.json == {"removed": [LAYER_DIGEST], "freed_bytes": len(LAYER)}
            assert await node.cached() == {}

    @asynchronous
    async def test_verify(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node:
            await pull_layer(node)
            await node.get(f"{APP}/manifests/1.0")
            assert (await node.ask_admin("POST", "/cache/verify")).json == {"checked": 2, "bad": []}
            (data,) = (tmp_path / "store" / "blobs").rglob(LAYER_DIGEST.removeprefix("sha256:"))
            damaged = bytearray(data.read_bytes())
            damaged[-1] ^= 1
            data.write_bytes(damaged)
            reply = await node.ask_admin("POST", "/cache/verify")
            assert reply.json == {"checked": 2, "bad": [LAYER_DIGEST]}
            await pull_layer(node)
        assert registry.sent[f"/v2/{APP}/blobs/{LAYER_DIGEST}"] == 2 * len(LAYER)


class TestRules:
    @pytest.mark.parametrize(
        ("method", "path"),
        [("DELETE", f"/cache/{LAYER_DIGEST}"), ("POST", "/cache/gc"), ("POST", "/cache/verify")],
    )
    @asynchronous
    async def test_without_the_secret_nothing_is_changed(
        self, registry: ImageRegistry, tmp_path: Path, method: str, path: str
    ) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node:
            await pull_layer(node)
            for shown in ("", "Bearer ", "Bearer \xfc"):
                reply = await ask(node.admin, method, path, {"Authorization": shown})
                assert (reply.status, list(reply.json)) == (403, ["error"])
                assert "admin-secret" in reply.json["error"]
            preflight = await ask(
                node.admin,
                "OPTIONS",
                path,
                {"Origin": "http://evil.example", "Access-Control-Request-Headers": "authorization"},
            )
            assert preflight.status >= 400
            assert not any(name.startswith("access-control-") for name in preflight.headers)
            assert LAYER_DIGEST in await node.cached()

    @asynchronous
    async def test_without_the_secret_nobody_sees_what_is_held(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node:
            await pull_layer(node)
            reply = await node.ask_admin("GET", "/cache", authorized=False)
            assert (reply.status, reply.json) == (403, [])
            for path in ("/status", "/metrics", "/healthz", "/readyz"):
                reply = await node.ask_admin("GET", path, authorized=False)
                assert reply.status == 200
                assert LAYER_DIGEST.encode() not in reply.body

    @asynchronous
    async def test_the_secret_is_for_one_start_and_one_user(self, registry: ImageRegistry, tmp_path: Path) -> None:
        seen = set()
        for _ in range(2):
            async with node_at(tmp_path / "store", hub(registry)) as node:
                file = tmp_path / "store" / NAME
                assert file.stat().st_mode & 0o777 == 0o600
                secret, address = file.read_text().split()
                assert address == node.admin
                seen.add(secret)
            assert not file.exists()
        assert len(seen) == 2

    @asynchronous
    async def test_the_metrics_have_a_port_of_their_own_that_does_nothing_else(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        async with node_at(tmp_path / "store", hub(registry), metrics="127.0.0.1:0") as node:
            port = (await node.ask_admin("GET", "/status")).json["metrics"]
            assert (await ask(port, "GET", "/metrics")).body.startswith(b"# HELP")
            for method, path in [("GET", "/status"), ("GET", "/cache"), ("POST", "/cache/gc"), ("POST", "/metrics")]:
                reply = await ask(port, method, path, admin_headers(tmp_path / "store"))
                assert reply.status in (404, 405)

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("GET", "/", 404), ("GET", "/cache/", 404), ("POST", "/status", 405), ("PUT", "/cache/gc", 405)],
    )
    @asynchronous
    async def test_errors_are_json(
        self, registry: ImageRegistry, tmp_path: Path, method: str, path: str, status: int
    ) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node:
            reply = await node.ask_admin(method, path)
            assert (reply.status, list(reply.json)) == (status, ["error"])

    @asynchronous
    async def test_the_mirror_and_the_admin_port_are_apart(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node, asyncio.timeout(PATIENCE_S):
            assert (await ask(node.mirror, "GET", "/healthz")).status == 404
            assert (await ask(node.admin, "GET", "/v2/")).status == 404
