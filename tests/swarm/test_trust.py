"""A cluster with certificates, of real processes: one command and one flag more than without."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from p2pd.demo.process import command, neutral_environ
from scheduler.protocol.codec import LINK
from scheduler.protocol.link import LinkHello
from tests.support.images import content_of
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import MIB, REPOSITORY
from tests.swarm.secure_cluster import cluster, free_address
from tests.trust.fixtures import credentials, host
from tests.trust.fixtures import scheduler as scheduler_identity
from tests.trust.test_directory import fill

BLOB = content_of("trust", 6 * MIB)


def test_hosts_that_joined_exchange_pieces(tmp_path: Path, registry: ImageRegistry) -> None:
    async def main() -> None:
        async with cluster(tmp_path, registry) as secure:
            (file := tmp_path / "token").write_text(f"{secure.token()}\n")
            one, two = await secure.pair({}, {"join-file": file})
            await secure.pull(BLOB, one, two)
            swarm = await one.swarm()
            assert swarm["sent_bytes"] >= len(BLOB)
            assert 86_000 < swarm["certificate_expires_s"] <= 86_400
            assert {each["id"] for each in secure.hosts()} == {one.host, two.host}

    asyncio.run(main())


@pytest.mark.parametrize("pieces", ["encrypted", "plain", "tls"])
def test_what_can_be_seen_on_the_wire(tmp_path: Path, registry: ImageRegistry, pieces: str) -> None:
    async def main() -> None:
        peer = free_address()
        async with cluster(tmp_path, registry) as secure, sniffing(peer) as wire:
            one = {"peer": peer, "advertise": wire.address, "pieces": pieces}
            await secure.pull(BLOB, *await secure.pair(one, {"pieces": pieces}))
            seen = bytes(wire.seen)
            assert len(seen) >= len(BLOB)
            plain = [BLOB[at : at + 16] in seen for at in range(0, len(BLOB), len(BLOB) // 12)]
            assert all(plain) if pieces == "plain" else not any(plain)
            assert (b"Content-Encoding: aes128gcm" in seen) == (pieces == "encrypted")
            assert (b"authorization: p2pd-piece" in seen.lower()) == (pieces != "tls")

    asyncio.run(main())


@pytest.mark.parametrize(("of_one", "of_two"), [("plain", "encrypted"), ("encrypted", "plain"), ("tls", "encrypted")])
def test_hosts_of_different_settings_exchange_pieces(
    tmp_path: Path, registry: ImageRegistry, of_one: str, of_two: str
) -> None:
    async def main() -> None:
        peer = free_address()
        async with cluster(tmp_path, registry) as secure, sniffing(peer) as wire:
            one = {"peer": peer, "advertise": wire.address, "pieces": of_one}
            await secure.pull(BLOB, *await secure.pair(one, {"pieces": of_two}))
            assert BLOB[:16] not in wire.seen, "one of them wants it encrypted"

    asyncio.run(main())


@dataclass
class Wire:
    """What goes to and from a host that others reach at this address."""

    address: str = ""
    seen: bytearray = field(default_factory=bytearray)


@asynccontextmanager
async def sniffing(to: str) -> AsyncIterator[Wire]:
    wire, host = Wire(), to.rpartition(":")

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                wire.seen += data
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(host[0], int(host[2]))
            await asyncio.gather(carry(reader, back), carry(there, writer))
        except (ConnectionError, asyncio.CancelledError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    wire.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield wire
    finally:
        server.close()


def test_on_a_link_a_host_is_who_its_certificate_says(tmp_path: Path, registry: ImageRegistry) -> None:
    async def first_answer(address: str, context: ssl.SSLContext, name: str) -> aiohttp.WSMsgType:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"https://{address}/v1/link", ssl=context) as link,
        ):
            await link.send_bytes(LINK.encode(LinkHello(name, 1, 1)))
            return (await link.receive()).type

    async def main() -> None:
        async with cluster(tmp_path, registry) as secure:
            one, two = await secure.pair()
            context = await asyncio.to_thread(two.tls)
            assert await first_answer(one.at["peer"], context, two.host) is aiohttp.WSMsgType.BINARY
            for name in (one.host, "nobody"):
                assert await first_answer(one.at["peer"], context, name) is aiohttp.WSMsgType.CLOSE

    asyncio.run(main())


def test_certificates_are_renewed_while_pieces_are_exchanged(tmp_path: Path, registry: ImageRegistry) -> None:
    async def lost(lifetime_s: int) -> list[dict[str, Any]]:
        (directory := tmp_path / f"{lifetime_s}").mkdir()
        async with cluster(directory, registry, **{"certificate-ttl-s": lifetime_s}) as secure:
            slow = {"upload-rate": 6 * len(BLOB) // (14 * lifetime_s)}
            nodes = await secure.pair(slow, slow)
            digest = registry.put_blob(REPOSITORY, BLOB)
            for node in nodes:
                assert (await node.blob(digest)).body == BLOB
            assert (await nodes[0].swarm())["sent_bytes"], "pieces went on"
            for node in nodes:
                assert len(node.logged("has a certificate")) >= 3
                assert len(node.logged("connected to a scheduler")) >= 3, "opened anew with each certificate"
            events = ("lost the scheduler", "a link broke", "no scheduler")
            return [each for node in nodes for event in events for each in node.logged(event)]

    # A busy machine takes seconds to renew one. What is lost at each renewal is lost with long lifetimes too.
    assert not all(asyncio.run(lost(lifetime_s)) for lifetime_s in (6, 12, 24))


def test_certificates_of_the_operators_own(tmp_path: Path, registry: ImageRegistry) -> None:
    async def main() -> None:
        fill(tmp_path / "tls-scheduler", credentials(scheduler_identity()))
        for name in ("one", "two"):
            fill(tmp_path / f"tls-{name}", credentials(host(name)))
        async with cluster(tmp_path, registry, **{"tls-dir": tmp_path / "tls-scheduler"}) as secure:
            one, two = [await secure.add(name, **{"tls-dir": tmp_path / f"tls-{name}"}) for name in ("one", "two")]
            for node, name in ((one, "one"), (two, "two")):
                await node.until_connected()
                assert (await node.swarm())["host"] == name
            await secure.pull(BLOB, one, two)
            fill(tmp_path / "tls-one", credentials(host("one")))
            await one.until_logged("has a certificate")
            secure.p2pd("host", "revoke", "two", "--unknown")
            await two.until_connected(False)
            await one.until_logged("a host was revoked")

    asyncio.run(main())


def test_without_certificates_a_node_refuses_to_listen_for_others(tmp_path: Path) -> None:
    def refused(**flags: object) -> str:
        argv = command("run", {"data": tmp_path / "data", "peer": "0.0.0.0:0", **flags})
        done = subprocess.run(
            argv, env=neutral_environ(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 2
        return done.stderr

    assert "join a cluster (join), or set allow_open = true" in refused()
    assert "this host has no certificate: give join" in refused(
        scheduler="https://127.0.0.1:1", advertise="127.0.0.1:1"
    )
    assert "give scheduler too" in refused(join="p2pd1_x", advertise="127.0.0.1:1")


@pytest.mark.parametrize("content", [b"", b"p2pd1_x", b"\xff", None])
def test_a_token_file_that_has_none_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    flags = {"data": tmp_path / "data", "scheduler": "https://127.0.0.1:1", "join-file": file}
    done = subprocess.run(command("run", flags), env=neutral_environ(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert str(file) in done.stderr
