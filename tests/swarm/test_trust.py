"""A cluster with certificates, of real processes: one command and one flag more than without."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from p2pd.demo.process import DaemonProcess, command, neutral_environ
from scheduler.protocol.codec import LINK
from scheduler.protocol.connection import PATH
from scheduler.protocol.joining import CA_PATH
from scheduler.protocol.link import LinkHello
from scheduler.trust.tls import joining_context
from tests.support.client import Reply, ask
from tests.support.images import content_of
from tests.support.registry import ImageRegistry
from tests.swarm.cluster import MIB, REPOSITORY, UPSTREAM
from tests.trust.fixtures import credentials, host
from tests.trust.fixtures import scheduler as scheduler_identity
from tests.trust.test_directory import fill

BLOB = content_of("trust", 6 * MIB)
PATIENCE_S = 45.0


@dataclass
class Process:
    """A daemon: `at` has the addresses that it listens on."""

    daemon: DaemonProcess
    at: dict[str, str]

    async def blob(self, digest: str) -> Reply:
        return await ask(self.at["mirror"], "GET", f"/v2/{REPOSITORY}/blobs/{digest}")

    async def swarm(self) -> dict[str, Any]:
        told: dict[str, Any] = (await ask(self.at["admin"], "GET", "/status")).json["swarm"]
        return told

    async def until_connected(self, connected: bool = True) -> None:
        while (await self.swarm())["scheduler_connected"] != connected:  # noqa: ASYNC110 # another process
            await asyncio.sleep(0.05)

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.daemon.events if each["event"] == event]


@dataclass
class SecureCluster:
    """A scheduler that serves nobody without a certificate, and nodes that join it."""

    directory: Path
    registry: ImageRegistry
    scheduler: Process
    stack: AsyncExitStack
    nodes: list[Process] = field(default_factory=list)

    def p2pd(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "p2pd", *words, "--data", str(self.directory / "scheduler"), "--config", os.devnull],
            env=neutral_environ(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        return done.stdout.strip()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.scheduler.at['listen'].rpartition(':')[2]}"

    async def add(self, name: str, **flags: object) -> Process:
        settings = {
            "data": self.directory / name,
            "mirror": "127.0.0.1:0",
            "admin": "127.0.0.1:0",
            "scheduler": self.url,
            "upstream": f"{UPSTREAM}={self.registry.url}",
            "min-free-bytes": 0,
            "scheduler-wait-s": 20,
            **flags,
        }
        return await started(self.stack, command("run", settings))


async def started(stack: AsyncExitStack, argv: list[str]) -> Process:
    daemon = await asyncio.to_thread(DaemonProcess, argv)

    async def end() -> None:
        daemon.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(daemon.wait)
        assert not daemon.other_lines, list(daemon.other_lines)

    stack.push_async_callback(end)
    return Process(daemon, await asyncio.to_thread(daemon.wait_for_event, "ready"))


@asynccontextmanager
async def cluster(directory: Path, registry: ImageRegistry, **flags: object) -> AsyncIterator[SecureCluster]:
    """It listens on all addresses, and needs no permission for that: nobody without a certificate is served."""
    async with asyncio.timeout(2 * PATIENCE_S), AsyncExitStack() as stack:
        settings = {"data": directory / "scheduler", "listen": "0.0.0.0:0", "admin": "127.0.0.1:0", **flags}
        scheduler = await started(stack, command("scheduler", settings))
        yield SecureCluster(directory, registry, scheduler, stack)


async def raw(address: str, request: bytes, tls: ssl.SSLContext | None) -> bytes:
    """What a stranger is answered; nothing if the connection is ended."""
    host, _, port = address.rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
        writer.write(request)
        answer = await reader.read()
        writer.close()
    except (ssl.SSLError, ConnectionError):
        return b""
    return answer


def test_hosts_that_joined_exchange_pieces(tmp_path: Path, registry: ImageRegistry) -> None:
    digest = registry.put_blob(REPOSITORY, BLOB)

    async def main() -> None:
        async with cluster(tmp_path, registry) as secure:
            token = secure.p2pd("token", "create")
            (file := tmp_path / "token").write_text(f"{token}\n")
            one = await secure.add("one", join=token)
            two = await secure.add("two", **{"join-file": file})
            for node in (one, two):
                await node.until_connected()
                assert (await node.blob(digest)).body == BLOB
            assert registry.sent[f"/v2/{REPOSITORY}/blobs/{digest}"] == len(BLOB), "all else came from the other host"
            assert (await one.swarm())["sent_bytes"] >= len(BLOB)
            assert 86_000 < (await one.swarm())["certificate_expires_s"] <= 86_400
            hosts = json.loads(secure.p2pd("host", "ls", "--json"))
            assert len(hosts) == 2

    asyncio.run(main())


@pytest.mark.parametrize("pieces", ["encrypted", "plain", "tls"])
def test_what_can_be_seen_on_the_wire(tmp_path: Path, registry: ImageRegistry, pieces: str) -> None:
    digest = registry.put_blob(REPOSITORY, BLOB)

    async def main() -> None:
        peer = free_address()
        async with cluster(tmp_path, registry) as secure, sniffing(peer) as wire:
            token = secure.p2pd("token", "create")
            one = await secure.add("one", join=token, peer=peer, advertise=wire.address, pieces=pieces)
            two = await secure.add("two", join=token, pieces=pieces)
            for node in (one, two):
                await node.until_connected()
                assert (await node.blob(digest)).body == BLOB
            assert registry.sent[f"/v2/{REPOSITORY}/blobs/{digest}"] == len(BLOB), "all else came from the other host"
            seen = bytes(wire.seen)
            assert len(seen) >= len(BLOB)
            plain = [BLOB[at : at + 16] in seen for at in range(0, len(BLOB), len(BLOB) // 12)]
            assert all(plain) if pieces == "plain" else not any(plain)
            assert (b"Content-Encoding: aes128gcm" in seen) == (pieces == "encrypted")
            assert (b"authorization: P2PD-Piece" in seen) == (pieces != "tls")

    asyncio.run(main())


@pytest.mark.parametrize(("of_one", "of_two"), [("plain", "encrypted"), ("encrypted", "plain"), ("tls", "encrypted")])
def test_hosts_of_different_settings_exchange_pieces(
    tmp_path: Path, registry: ImageRegistry, of_one: str, of_two: str
) -> None:
    digest = registry.put_blob(REPOSITORY, BLOB)

    async def main() -> None:
        peer = free_address()
        async with cluster(tmp_path, registry) as secure, sniffing(peer) as wire:
            token = secure.p2pd("token", "create")
            one = await secure.add("one", join=token, peer=peer, advertise=wire.address, pieces=of_one)
            two = await secure.add("two", join=token, pieces=of_two)
            for node in (one, two):
                await node.until_connected()
                assert (await node.blob(digest)).body == BLOB
            assert registry.sent[f"/v2/{REPOSITORY}/blobs/{digest}"] == len(BLOB)
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


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_a_stranger_gets_nothing(tmp_path: Path, registry: ImageRegistry) -> None:
    digest = registry.put_blob(REPOSITORY, BLOB)
    piece = (
        f"GET /v2/swarm/blobs/{digest} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-99\r\nConnection: close\r\n\r\n".encode()
    )
    upgrade = (
        "GET {} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )

    async def main() -> None:
        async with cluster(tmp_path, registry) as secure:
            node = await secure.add("one", join=secure.p2pd("token", "create"))
            await node.until_connected()
            assert (await node.blob(digest)).body == BLOB
            for tls in (None, joining_context(None)):
                assert b"206" not in (await raw(node.at["peer"], piece, tls))[:20]
                assert b"101" not in (await raw(node.at["peer"], upgrade.format("/v1/link").encode(), tls))[:20]
                listen = secure.url.removeprefix("https://")
                assert (await raw(listen, upgrade.format(PATH).encode(), tls)).startswith(b"HTTP/1.1 403")
            ca = await raw(listen, f"GET {CA_PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), joining_context(None))
            assert b"BEGIN CERTIFICATE" in ca, "that is for all to see"
            old = await secure.add("old", scheduler=secure.url.replace("https", "http"))
            other = await secure.add("other", join=secure.p2pd("token", "create", "--ttl", "1s", "--uses", "1"))
            await asyncio.to_thread(old.daemon.wait_for_event, "no scheduler")
            assert not (await old.swarm())["scheduler_connected"]
            assert other.at

    asyncio.run(main())


def test_a_revoked_host_is_cut_off_everywhere(tmp_path: Path, registry: ImageRegistry) -> None:
    digest = registry.put_blob(REPOSITORY, BLOB)

    async def main() -> None:
        async with cluster(tmp_path, registry) as secure:
            token = secure.p2pd("token", "create")
            one, two = [await secure.add(name, join=token) for name in ("one", "two")]
            for node in (one, two):
                await node.until_connected()
                assert (await node.blob(digest)).body == BLOB
            identity = json.loads(secure.p2pd("host", "ls", "--json"))
            (name,) = [
                each["id"] for each in identity if each["id"] == (tmp_path / "two/identity/host-id").read_text().strip()
            ]
            began = time.monotonic()
            secure.p2pd("host", "revoke", name)
            await two.until_connected(False)
            await asyncio.to_thread(one.daemon.wait_for_event, "a host was revoked")
            assert time.monotonic() - began < 60
            context = await asyncio.to_thread(context_of, tmp_path / "two/identity")
            request = (
                f"GET /v2/swarm/blobs/{digest} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-99\r\nConnection: close\r\n\r\n"
            )
            answer = await raw(one.at["peer"], request.encode(), context)
            assert answer.startswith(b"HTTP/1.1 403")
            assert b"was revoked" in answer

    asyncio.run(main())


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
            token = secure.p2pd("token", "create")
            one, two = [await secure.add(name, join=token) for name in ("one", "two")]
            for node in (one, two):
                await node.until_connected()
            context = await asyncio.to_thread(context_of, tmp_path / "two/identity")
            own, other = [(await node.swarm())["host"] for node in (two, one)]
            assert await first_answer(one.at["peer"], context, own) is aiohttp.WSMsgType.BINARY
            for name in (other, "nobody"):
                assert await first_answer(one.at["peer"], context, name) is aiohttp.WSMsgType.CLOSE

    asyncio.run(main())


def context_of(identity: Path) -> ssl.SSLContext:
    """What somebody has who took the files of a host."""
    context = joining_context((identity / "ca.crt").read_bytes())
    context.load_cert_chain(identity / "host.crt", identity / "host.key")
    return context


def test_certificates_are_renewed_while_pieces_are_exchanged(tmp_path: Path, registry: ImageRegistry) -> None:
    digest = registry.put_blob(REPOSITORY, BLOB)

    async def main() -> None:
        async with cluster(tmp_path, registry, **{"certificate-ttl-s": 6}) as secure:
            token = secure.p2pd("token", "create")
            slow = {"upload-rate": len(BLOB) // 14}
            one, two = [await secure.add(name, join=token, **slow) for name in ("one", "two")]
            for node in (one, two):
                await node.until_connected()
                assert (await node.blob(digest)).body == BLOB
            assert (await one.swarm())["sent_bytes"], "pieces went on"
            for node in (one, two):
                assert len(node.logged("has a certificate")) >= 3
                assert len(node.logged("connected to a scheduler")) >= 3, "opened anew with each certificate"
                for event in ("lost the scheduler", "a link broke", "no scheduler"):
                    assert not node.logged(event)

    asyncio.run(main())


def test_certificates_of_the_operators_own(tmp_path: Path, registry: ImageRegistry) -> None:
    digest = registry.put_blob(REPOSITORY, BLOB)

    async def main() -> None:
        fill(tmp_path / "tls-scheduler", credentials(scheduler_identity()))
        async with cluster(tmp_path, registry, **{"tls-dir": tmp_path / "tls-scheduler"}) as secure:
            nodes = []
            for name in ("one", "two"):
                fill(tmp_path / f"tls-{name}", credentials(host(name)))
                nodes.append(await secure.add(name, **{"tls-dir": tmp_path / f"tls-{name}"}))
            for node, name in zip(nodes, ("one", "two"), strict=True):
                await node.until_connected()
                assert (await node.swarm())["host"] == name
                assert (await node.blob(digest)).body == BLOB
            assert registry.sent[f"/v2/{REPOSITORY}/blobs/{digest}"] == len(BLOB)
            fill(tmp_path / "tls-one", credentials(host("one")))
            while len(nodes[0].logged("has a certificate")) < 1:  # noqa: ASYNC110 # as above
                await asyncio.sleep(0.1)
            secure.p2pd("host", "revoke", "two", "--unknown")
            await nodes[1].until_connected(False)
            await asyncio.to_thread(nodes[0].daemon.wait_for_event, "a host was revoked")

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
