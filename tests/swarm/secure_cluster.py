"""A cluster with certificates: a scheduler, and nodes that join it, all of them processes."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2pd.demo.process import command, output_of
from scheduler.trust.tls import joining_context
from tests.support.ports import free_port
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm import process
from tests.swarm.cluster import REPOSITORY, UPSTREAM


@dataclass
class Process(process.Process):
    """A daemon with its directory."""

    data: Path

    async def until_logged(self, event: str) -> None:
        while not self.logged(event):  # noqa: ASYNC110 # as above
            await asyncio.sleep(0.05)

    @property
    def host(self) -> str:
        """The id of a host that has joined."""
        return (self.data / "identity/host-id").read_text().strip()

    def tls(self) -> ssl.SSLContext:
        """What somebody has who took the files of a host that has joined."""
        identity = self.data / "identity"
        context = joining_context((identity / "ca.crt").read_bytes())
        context.load_cert_chain(identity / "host.crt", identity / "host.key")
        return context


@dataclass
class SecureCluster:
    """A scheduler that serves nobody without a certificate, and nodes that join it."""

    directory: Path
    registry: ImageRegistry
    scheduler: Process
    stack: AsyncExitStack
    nodes: list[Process] = field(default_factory=list)

    def p2pd(self, *words: str) -> str:
        """What a command beside the scheduler says."""
        return output_of(*words, f"--data={self.scheduler.data}")

    def token(self, *words: str) -> str:
        return self.p2pd("token", "create", *words)

    def hosts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.p2pd("host", "ls", "--json"))
        return found

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.scheduler.at['listen'].rpartition(':')[2]}"

    async def add(self, name: str, **flags: object) -> Process:
        """A node; `flags` are those of `p2pd run`."""
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
        node = await started(self.stack, "run", settings)
        self.nodes.append(node)
        return node

    async def pair(self, *flags: Mapping[str, object]) -> tuple[Process, Process]:
        """Two nodes that have joined with a token, `flags` for each, and have found the scheduler."""
        token = self.token()
        first, second = flags or ({}, {})
        one, two = [
            await self.add(name, **({} if "join-file" in each else {"join": token}), **each)
            for name, each in (("one", first), ("two", second))
        ]
        for node in (one, two):
            await node.until_connected()
        return one, two

    async def pull(self, content: bytes, *nodes: Process) -> None:
        """Each node gets the blob, one after the other, and the registry sends it once."""
        digest = self.registry.put_blob(REPOSITORY, content)
        for node in nodes:
            assert (await node.blob(digest)).body == content
        assert self.registry.sent[f"/v2/{REPOSITORY}/blobs/{digest}"] == len(content), "the rest is from other hosts"


async def started(stack: AsyncExitStack, name: str, settings: dict[str, Any]) -> Process:
    """A daemon that ends with the stack, and has written no traceback then."""
    ready = await process.started(stack, command(name, settings))
    return Process(ready.daemon, ready.at, settings["data"])


@asynccontextmanager
async def cluster(directory: Path, registry: ImageRegistry, **flags: object) -> AsyncIterator[SecureCluster]:
    """It listens on all addresses, and needs no permission for that: nobody without a certificate is served."""
    async with asyncio.timeout(2 * PATIENCE_S), AsyncExitStack() as stack:
        settings = {"data": directory / "scheduler", "listen": "0.0.0.0:0", "admin": "127.0.0.1:0", **flags}
        scheduler = await started(stack, "scheduler", settings)
        yield SecureCluster(directory, registry, scheduler, stack)


async def raw(address: str, request: bytes, tls: ssl.SSLContext | None) -> bytes:
    """What is answered to these bytes until the connection ends; nothing if the handshake fails."""
    host, _, port = address.rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
        writer.write(request)
        answer = await reader.read()
        writer.close()
    except (ssl.SSLError, ConnectionError):
        return b""
    return answer


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"
