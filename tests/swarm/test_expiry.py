"""What was opened with a certificate ends with it: real processes, with certificates that another system fills in."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from scheduler.protocol.codec import FROM_HOST, LINK
from scheduler.protocol.connection import PATH, Closing
from scheduler.protocol.from_host import Hello
from scheduler.protocol.link import LinkHello
from scheduler.trust.certificates import CertificateAuthority, Credentials, to_pem
from scheduler.trust.identity import PeerIdentity, Role
from scheduler.trust.tls import client_context
from tests.support.images import content_of
from tests.support.registry import ImageRegistry
from tests.swarm.cluster import MIB, REPOSITORY
from tests.swarm.secure_cluster import Process, SecureCluster, cluster
from tests.trust.fixtures import CA, OTHER_CA, credentials
from tests.trust.test_directory import fill

SHORT_S, DAY_S = 6, 86_400.0
WITHIN_S = 60.0
"""Idle connections are closed after 75 s, and the promise is a minute."""

BOTH = (CA, OTHER_CA)


def issued(
    name: str,
    ca: CertificateAuthority = CA,
    trusted: tuple[CertificateAuthority, ...] = (CA,),
    lifetime_s: float = DAY_S,
) -> Credentials:
    """A certificate of a trust domain that may have several CAs, as cert-manager and SPIRE issue them."""
    role = Role.SCHEDULER if name == "scheduler" else Role.HOST
    identity = PeerIdentity("cluster.example", role, "" if name == "scheduler" else name)
    made = credentials(identity, ca, at=time.time(), lifetime_s=lifetime_s)
    return dataclasses.replace(made, ca_pem=b"".join(to_pem(each.certificate) for each in trusted))


@asynccontextmanager
async def provided(
    directory: Path, registry: ImageRegistry, *names: str, trusted: tuple[CertificateAuthority, ...] = (CA,)
) -> AsyncIterator[tuple[SecureCluster, list[Process]]]:
    """A scheduler and nodes with certificates in directories of theirs, `tls-NAME`."""
    for name in ("scheduler", *names):
        fill(directory / f"tls-{name}", issued(name, trusted=trusted))
    async with cluster(directory, registry, **{"tls-dir": directory / "tls-scheduler"}) as secure:
        nodes = [await secure.add(name, **{"tls-dir": directory / f"tls-{name}"}) for name in names]
        for node in nodes:
            await node.until_connected()
        yield secure, nodes


@asynccontextmanager
async def renewed(directory: Path, name: str, lifetime_s: float) -> AsyncIterator[None]:
    """A certificate that has half of its life before it within the block, however slowly a process starts."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(lifetime_s / 2)
            fill(directory, issued(name, lifetime_s=lifetime_s))

    fill(directory, issued(name, lifetime_s=lifetime_s))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(renew())
        yield
        task.cancel()


async def until_exchanged(registry: ImageRegistry, name: str, *nodes: Process) -> None:
    """A blob that all have has left the registry once.

    A host of a busy machine takes a while until it has its session and its links again, and what it holds is fetched a
    second time after seconds. So there are some blobs until one is had from a neighbour.
    """
    for number in range(6):
        digest = registry.put_blob(REPOSITORY, content_of(f"{name} {number}", MIB))
        for node in nodes:
            await node.until_connected()
            assert (await node.blob(digest)).status == 200
        if registry.sent[f"/v2/{REPOSITORY}/blobs/{digest}"] == MIB:
            return
    raise AssertionError("they do not exchange pieces")


@dataclass
class Opened:
    """A session, a link, and a connection to the peer port, that somebody opened and only keeps."""

    session: asyncio.Task[int | None]
    """Its result is the scheduler's close code."""
    link: asyncio.Task[int | None]
    connection: asyncio.Task[bytes]

    async def until_ended(self) -> int | None:
        """Wait until all three have ended. Returns the scheduler's close code."""
        async with asyncio.timeout(WITHIN_S):
            await self.link
            assert await self.connection == b""
            return await self.session

    @property
    def goes_on(self) -> bool:
        return not any(task.done() for task in (self.session, self.link, self.connection))


async def kept(socket: aiohttp.ClientWebSocketResponse) -> int | None:
    """Answer its pings until it ends. Returns the close code."""
    with suppress(aiohttp.ClientError):  # a ping that came last, to which no answer can be sent
        async for _ in socket:
            pass
    return socket.close_code


@asynccontextmanager
async def opened(secure: SecureCluster, node: Process, held: Credentials) -> AsyncIterator[Opened]:
    name, context = held.identity.host, client_context(held)
    host, _, port = node.at["peer"].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    writer.write(b"GET /v2/swarm/blobs/x HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 400")
    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(f"{secure.url}{PATH}", ssl=context) as session,
        client.ws_connect(f"https://{node.at['peer']}/v1/link", ssl=context) as link,
    ):
        await session.send_bytes(FROM_HOST.encode(Hello(name, 1, 1, "127.0.0.1:1")))
        await link.send_bytes(LINK.encode(LinkHello(name, 1, 1)))
        for socket in (session, link):
            assert (await socket.receive()).type is aiohttp.WSMsgType.BINARY
        async with asyncio.TaskGroup() as group:
            tasks = (group.create_task(kept(session)), group.create_task(kept(link)), group.create_task(reader.read()))
            yield Opened(*tasks)
            for task in tasks:
                task.cancel()
    writer.close()


def test_all_that_was_opened_with_a_certificate_ends_when_it_expires(tmp_path: Path, registry: ImageRegistry) -> None:
    async def main() -> None:
        async with (
            provided(tmp_path, registry, "one") as (secure, (one,)),
            opened(secure, one, issued("long")) as other,
        ):
            short = issued("short", lifetime_s=SHORT_S)
            async with opened(secure, one, short) as thief:
                assert await thief.until_ended() == Closing.CERTIFICATE_OVER
                assert time.time() >= short.not_after
                assert other.goes_on

    asyncio.run(main())


def test_a_host_that_renews_late_is_cut_off_and_comes_back_by_itself(tmp_path: Path, registry: ImageRegistry) -> None:
    async def main() -> None:
        async with provided(tmp_path, registry, "one") as (secure, (one,)):
            async with renewed(tmp_path / "tls-two", "two", 2 * SHORT_S):
                two = await secure.add("two", **{"tls-dir": tmp_path / "tls-two"})
                await until_exchanged(registry, "first", one, two)
            await two.until_connected(False)
            await asyncio.to_thread(two.daemon.wait_for_event, "no scheduler")
            fill(tmp_path / "tls-two", issued("two"))
            await until_exchanged(registry, "again", one, two)
            assert not one.logged("lost the scheduler")

    asyncio.run(main())


def test_another_ca_takes_the_place_of_the_one_before_it(tmp_path: Path, registry: ImageRegistry) -> None:
    async def main() -> None:
        names = ("scheduler", "one", "two")
        async with provided(tmp_path, registry, *names[1:], trusted=BOTH) as (secure, nodes):

            async def change(trusted: tuple[CertificateAuthority, ...]) -> None:
                counts = [len(node.logged("has a certificate")) for node in nodes]
                for name in names:
                    fill(tmp_path / f"tls-{name}", issued(name, OTHER_CA, trusted))
                for node, count in zip(nodes, counts, strict=True):
                    while len(node.logged("has a certificate")) == count:  # noqa: ASYNC110 # another process
                        await asyncio.sleep(0.05)

            await until_exchanged(registry, "before", *nodes)
            old, new = (issued("old", CA, BOTH), issued("new", OTHER_CA, BOTH))
            async with opened(secure, nodes[0], old) as with_old, opened(secure, nodes[0], new) as with_new:
                await change(BOTH)
                await until_exchanged(registry, "meanwhile", *nodes)
                assert with_old.goes_on
                await change((OTHER_CA,))
                for each in (with_old, with_new):
                    assert await each.until_ended() == Closing.CERTIFICATE_OVER
            await until_exchanged(registry, "after", *nodes)
            async with opened(secure, nodes[0], new):
                pass
            context = client_context(old)
            async with aiohttp.ClientSession() as client:
                for url in (f"{secure.url}{PATH}", f"https://{nodes[0].at['peer']}/v1/link"):
                    try:
                        async with client.ws_connect(url, ssl=context):
                            raise AssertionError("the old CA is not trusted any more")
                    except (aiohttp.ClientError, OSError):
                        pass

    asyncio.run(main())
