"""DNS rebinding: what a web page can do in a browser on this machine, once its own name leads to 127.0.0.1."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pd.config.sources import load
from p2pd.config.values import Address
from p2pd.daemon.listeners import names_of
from tests.support.client import ask
from tests.support.images import content_of, digest_of
from tests.support.node import Node, admin_headers, asynchronous, node_at
from tests.support.registry import ImageRegistry

APP = "library/app"
LAYER = content_of("layer", 1000)
PATH = f"/v2/{APP}/blobs/{digest_of(LAYER)}"


def hub(registry: ImageRegistry) -> str:
    registry.put_blob(APP, LAYER)
    return f"docker.io={registry.url}"


def port_of(address: str) -> str:
    return address.rpartition(":")[2]


async def statuses(node: Node, host: str) -> list[int]:
    """What a request for `host` gets of the mirror, and of the admin port when it reads and when it changes."""
    page = {"Host": host, **admin_headers(node.data)}  # to its browser it is of the same origin: any header can be sent
    replies = [
        await ask(node.mirror, "GET", PATH, {**page, "Host": f"{host}:{port_of(node.mirror)}"}),
        await ask(node.admin, "GET", "/cache", page),
        await ask(node.admin, "DELETE", f"/cache/{digest_of(LAYER)}", page),
    ]
    assert all(reply.status == 200 or LAYER not in reply.body for reply in replies)
    return [reply.status for reply in replies]


@pytest.mark.parametrize("host", ["evil.example", "docker.io", "127.0.0.1.evil.example", "node-1.internal"])
@asynchronous
async def test_a_page_gets_nothing(registry: ImageRegistry, tmp_path: Path, host: str) -> None:
    async with node_at(tmp_path / "store", hub(registry)) as node:
        assert (await ask(node.mirror, "GET", PATH)).body == LAYER
        await node.until(lambda cached: not cached[digest_of(LAYER)]["in_use"])
        assert await statuses(node, host) == [421, 421, 421]
        refused = await ask(node.mirror, "GET", PATH, {"Host": host})
        assert refused.code == "DENIED"
        assert "Host header" in refused.message
        assert "Host header" in (await ask(node.admin, "GET", "/cache", {"Host": host})).json["error"]
        assert digest_of(LAYER) in await node.cached()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.9.8.7", "[::1]", "Node-1.internal"])
@asynchronous
async def test_what_clients_call_it(registry: ImageRegistry, tmp_path: Path, host: str) -> None:
    async with node_at(tmp_path / "store", hub(registry), advertise="node-1.internal:1") as node:
        assert (await ask(node.mirror, "GET", PATH)).body == LAYER
        await node.until(lambda cached: not cached[digest_of(LAYER)]["in_use"])
        assert await statuses(node, host) == [200, 200, 200]


@pytest.mark.parametrize(
    ("listening", "names"),
    [
        (Address("127.0.0.1", 1), frozenset({"127.0.0.1", "node-1.internal"})),
        (Address("LocalHost", 1), frozenset({"localhost", "node-1.internal"})),
        (Address("0.0.0.0", 1), None),
        (Address("10.0.0.1", 1), None),
        (Address("mirror.internal", 1), None),
    ],
)
def test_only_where_nobody_else_can_connect(listening: Address, names: frozenset[str] | None) -> None:
    settings = load({"advertise": "Node-1.internal:1"}, {}, default_file=Path("/nonexistent/p2pd.toml"))
    assert names_of(settings, listening) == names


def test_without_an_address_that_is_advertised_there_is_the_one_that_it_listens_on() -> None:
    settings = load({}, {}, default_file=Path("/nonexistent/p2pd.toml"))
    assert names_of(settings, settings.admin) == frozenset({"127.0.0.1"})
