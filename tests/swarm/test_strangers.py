"""What a stranger gets of a cluster with certificates, at every port and of real processes; and a host once revoked."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from peer.trust.joining import fetch_ca, join, renew
from peer.trust.piece_keys import HeldKey, PieceRequest
from scheduler.protocol.codec import FROM_HOST, LINK, TO_HOST
from scheduler.protocol.connection import PATH, Closing
from scheduler.protocol.from_host import Hello
from scheduler.protocol.joining import CA_PATH, JOIN_PATH, RENEW_PATH
from scheduler.protocol.link import LinkHello, PieceKey
from scheduler.protocol.to_host import Welcome
from scheduler.trust import certificates
from scheduler.trust.certificates import CertificateAuthority, Credentials, moment, read_credentials
from scheduler.trust.errors import JoinRefusedError
from scheduler.trust.identity import PeerIdentity, Role
from scheduler.trust.tls import client_context, joining_context
from scheduler.trust.token import parse_token
from tests.support.client import ask
from tests.support.images import content_of, digest_of, make_image
from tests.support.registry import ImageRegistry
from tests.swarm.cluster import MIB
from tests.swarm.secure_cluster import Process, SecureCluster, cluster, free_address, raw
from tests.trust.fixtures import HOUR, OTHER_CA, certificate, credentials

IMAGE = make_image(content_of("strangers", 2 * MIB))
LAYER = IMAGE.layers[0]
DIGEST = digest_of(LAYER)
PRIVATE = "team/private"
PIECE = f"/v2/swarm/blobs/{DIGEST}"
ALICE = "Bearer alice"
TOKEN = "p2pd1_stranger"

ELSEWHERE = "127.0.0.2"
"""The address of another machine: only what listens beyond 127.0.0.1 is there."""

REFUSAL = re.compile(rb"\Z|HTTP/1\.[01] 4\d\d |\x15\x03")
"""The end of the connection, an HTTP answer, or an alert of TLS."""


def port_of(address: str) -> str:
    return address.rpartition(":")[2]


# -- strangers ---------------------------------------------------------------------------------------------------------


def request(method: str, path: str, body: str = "", **headers: str) -> bytes:
    fields = {"Host": "x", "Connection": "close", "Content-Length": str(len(body)), **headers}
    lines = (f"{name.replace('_', '-')}: {value}" for name, value in fields.items())
    return "\r\n".join((f"{method} {path} HTTP/1.1", *lines, "", body)).encode()


def upgrade(path: str) -> bytes:
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    return request(
        "GET", path, Connection="Upgrade", Upgrade="websocket", Sec_WebSocket_Key=key, Sec_WebSocket_Version="13"
    )


REQUESTS = [
    request("GET", PIECE, Range="bytes=0-99"),
    request("GET", PIECE, Range="bytes=0-99", P2PD_Host="one"),
    request("GET", PIECE, Range="bytes=0-99", Authorization=f"P2PD-Piece {'0' * 32}.1.{'0' * 64}"),
    request("GET", f"/v2/swarm/0-99/blobs/{DIGEST}"),
    request("GET", f"/v2/swarm/background/blobs/{DIGEST}"),
    request("GET", f"/v2/{PRIVATE}/blobs/{DIGEST}", Authorization=ALICE),
    upgrade("/v1/link"),
    upgrade(PATH),
    request("GET", PATH),
    *(request("GET", path) for path in ("/", "/v2/", "/v2/_catalog", "/status", "/metrics", "/cache", CA_PATH)),
    *(request("POST", path) for path in ("/cache/gc", CA_PATH)),
    request("DELETE", f"/cache/{DIGEST}"),
    request("POST", JOIN_PATH, f'{{"token": "{TOKEN}", "host": "one", "request": ""}}'),
    request("POST", RENEW_PATH, '{"request": ""}'),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(60),
    FROM_HOST.encode(Hello("one", 1, 1, "127.0.0.1:1")) + b"\n" * 100,
    b"\x16\x03\x01\x00\x05hello" + bytes(200),
    content_of("noise", 300) + b"\r\n\r\n",
]


def ca_of(secure: SecureCluster) -> CertificateAuthority:
    directory = secure.scheduler.data / "scheduler/authority"
    certificate, key = ((directory / name).read_bytes() for name in ("ca.crt", "ca.key"))
    return certificates.load_ca(certificate, key, moment(time.time()))


def shows(shown: Credentials) -> ssl.SSLContext:
    """A stranger believes everybody."""
    context = client_context(shown)
    context.verify_mode = ssl.CERT_NONE
    return context


def shows_other(file: Path, ca: CertificateAuthority, uris: list[str]) -> ssl.SSLContext:
    """A certificate of the CA for something else: credentials are not made of it."""
    key = certificates.new_key()
    file.write_bytes(certificates.key_to_pem(key) + certificates.to_pem(certificate(uris, issuer=ca, key=key)))
    context = joining_context(None)
    context.load_cert_chain(file)
    return context


def strangers(secure: SecureCluster, host: str) -> Iterator[tuple[str, ssl.SSLContext | None]]:
    """All but the first two show a certificate that is not a host's of this cluster, or not now."""
    ca, now = ca_of(secure), time.time()
    one = PeerIdentity(ca.cluster, Role.HOST, host)
    yield "no TLS", None
    yield "no certificate", joining_context(None)
    yield "another CA", shows(credentials(one, OTHER_CA))
    yield "a certificate that is over", shows(credentials(one, ca, at=now - 2 * HOUR))
    yield "a certificate that is not good yet", shows(credentials(one, ca, at=now + 3 * HOUR))
    yield "another cluster", shows(credentials(replace(one, cluster="elsewhere"), ca))
    for uris in ([], ["https://web.example"], [f"spiffe://{ca.cluster}/web"]):
        yield f"the cluster's CA, for {uris}", shows_other(secure.directory / "stranger.pem", ca, uris)


def told(answer: bytes, *secrets: str) -> list[str]:
    """What an answer gives away."""
    found = [secret for secret in secrets if secret.encode() in answer]
    pieces = [at for at in range(0, len(LAYER), 64 * 1024) if LAYER[at : at + 16] in answer]
    return found + ["content"] * bool(pieces or IMAGE.manifest[:40] in answer)


async def private_image_on(node: Process) -> None:
    for path in ("manifests/1.0", *(f"blobs/{digest_of(blob)}" for blob in IMAGE.blobs)):
        reply = await ask(node.at["mirror"], "GET", f"/v2/{PRIVATE}/{path}", authorization=ALICE)
        assert reply.status == 200


async def from_elsewhere(secure: SecureCluster, node: Process) -> None:
    """As another machine would come: to the ports that listen for others."""
    for at, name in ((node.at, "mirror"), (node.at, "admin"), (node.at, "metrics"), (secure.scheduler.at, "admin")):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(ELSEWHERE, int(port_of(at[name])))
    ports = {"peer": node.at["peer"], "scheduler": secure.scheduler.at["listen"]}
    for who, tls in strangers(secure, node.host):
        for name, address in ports.items():
            for asked in REQUESTS:
                answer = await raw(f"{ELSEWHERE}:{port_of(address)}", asked, tls)
                what = f"{who} at {name}: {asked[:60]!r}: {answer[:200]!r}"
                if asked == request("GET", CA_PATH) and (name, who) == ("scheduler", "no certificate"):
                    assert b"BEGIN CERTIFICATE" in answer, "that is for all who join to see"
                    continue
                assert REFUSAL.match(answer), what
                if name == "peer" and answer.startswith(b"HTTP/1.1"):
                    assert b"\r\nconnection: close\r\n" in answer.lower(), f"a stranger keeps a connection: {what}"
                assert told(answer, DIGEST, PRIVATE, node.host, ALICE) == [], what


async def on_the_node(secure: SecureCluster, node: Process) -> None:
    """As another user's process on the node, or beside the scheduler: to all ports."""
    mirror = node.at["mirror"]
    for path in ("manifests/1.0", f"manifests/{IMAGE.digest}", f"blobs/{DIGEST}"):
        for headers in ({}, {"Authorization": "Bearer mallory"}, {"Range": "bytes=0-99"}):
            for repository in (PRIVATE, "library/other"):
                reply = await ask(mirror, "GET", f"/v2/{repository}/{path}", headers)
                assert reply.status in (401, 404)
                assert told(reply.body) == []
    for at in (node.at, secure.scheduler.at):
        for name in ("admin", "metrics"):
            for path in ("/status", "/metrics", "/healthz", "/readyz", "/cache", "/", "/v2/_catalog"):
                if name in at:
                    reply = await ask(at[name], "GET", path)
                    assert told(reply.body, DIGEST, IMAGE.digest, PRIVATE, ALICE) == [], (name, path)
    for method, path in (("POST", "/cache/gc"), ("POST", "/cache/verify"), ("DELETE", f"/cache/{DIGEST}")):
        assert (await ask(node.at["admin"], method, path)).status == 403


def test_a_stranger_gets_nothing_from_any_port(tmp_path: Path, registry: ImageRegistry) -> None:
    registry.push(PRIVATE, "1.0", IMAGE)
    registry.members[PRIVATE] = {ALICE}

    async def main() -> None:
        async with cluster(tmp_path, registry) as secure:
            peer = free_address()
            open_to_all: dict[str, object] = {"background-transport": "bittorrent"}
            open_to_all |= {"peer": f"0.0.0.0:{port_of(peer)}", "advertise": peer, "metrics": "127.0.0.1:0"}
            node = await secure.add("one", join=secure.token(), **open_to_all)
            await node.until_connected()
            await private_image_on(node)
            assert (await raw(peer, request("GET", PIECE, Range="bytes=0-99"), node.tls())).endswith(LAYER[:100])
            await from_elsewhere(secure, node)
            await on_the_node(secure, node)
            old = await secure.add("old", scheduler=secure.url.replace("https", "http"))
            await old.until_logged("no scheduler")
            assert (await node.swarm())["sent_bytes"] == 100
            assert [each["id"] for each in secure.hosts()] == [node.host], "nobody has joined"

    asyncio.run(main())


# -- a host that is revoked --------------------------------------------------------------------------------------------


class Thief:
    """Somebody with all that a host of the cluster has, who keeps every connection that a host may have."""

    def __init__(self, secure: SecureCluster, node: Process, name: str) -> None:
        self._url = secure.url
        self._peer = node.at["peer"]
        self.name = name
        self.token = parse_token(secure.token())
        self.key = certificates.new_key()
        self.request = certificates.request_certificate(self.key)
        self.ca = fetch_ca(self._url, self.token)
        self.held = self._credentials(self.join(name, self.request))
        self.tls = client_context(self.held)

    def join(self, name: str, request: bytes) -> bytes:
        return join(self._url, self.token, self.ca, name, request)

    def renew(self) -> None:
        renew(self._url, self.held, self.request)

    def _credentials(self, chain: bytes) -> Credentials:
        return read_credentials(certificates.key_to_pem(self.key), chain, self.ca)

    async def session(self, client: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        """A connection to the scheduler."""
        socket = await client.ws_connect(f"{self._url}{PATH}", ssl=self.tls)
        await socket.send_bytes(FROM_HOST.encode(Hello(self.name, 1, 1, "127.0.0.1:1")))
        return socket

    async def link(self, client: aiohttp.ClientSession) -> tuple[aiohttp.ClientWebSocketResponse, HeldKey]:
        """A link to the node, and the key that the node tells."""
        socket = await client.ws_connect(f"https://{self._peer}/v1/link", ssl=self.tls)
        await socket.send_bytes(LINK.encode(LinkHello(self.name, 1, 1)))
        hello, key = [LINK.decode(await socket.receive_bytes()) for _ in range(2)]
        assert isinstance(hello, LinkHello)
        assert isinstance(key, PieceKey)
        return socket, HeldKey(key)

    async def piece_over_tls(self) -> bytes:
        return await raw(self._peer, request("GET", PIECE, Range="bytes=0-99"), self.tls)

    async def piece_beside_tls(self, key: HeldKey) -> bytes:
        target = f"/v2/swarm/0-99/blobs/{DIGEST}"
        authorization, _ = key.authorize(PieceRequest("GET", target, ""))
        return await raw(self._peer, request("GET", target, Authorization=authorization), None)

    async def kept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection over which it has had a piece, and may ask for another."""
        address, _, port = self._peer.rpartition(":")
        reader, writer = await asyncio.open_connection(address, int(port), ssl=self.tls)
        writer.write(self._on_kept())
        assert (await reader.readuntil(LAYER[:100])).startswith(b"HTTP/1.1 206 ")
        return reader, writer

    @staticmethod
    def _on_kept() -> bytes:
        return f"GET {PIECE} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-99\r\n\r\n".encode()

    async def again(self, kept: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
        reader, writer = kept
        writer.write(self._on_kept())
        return await reader.read()


async def end_of(socket: aiohttp.ClientWebSocketResponse) -> int | None:
    """The code with which the other side ends it; it is waited for."""
    while (received := await socket.receive()).type is aiohttp.WSMsgType.BINARY:
        pass
    assert received.type is aiohttp.WSMsgType.CLOSE
    return socket.close_code


def test_a_host_that_is_revoked_is_out_within_a_minute(tmp_path: Path, registry: ImageRegistry) -> None:
    """Its session, its links, its connections and keys for pieces, its certificate, its id and its key."""

    async def main() -> None:
        async with cluster(tmp_path, registry) as secure, aiohttp.ClientSession() as client:
            node = await secure.add("one", join=secure.token())
            await node.until_connected()
            await secure.pull(LAYER, node)
            thief = await asyncio.to_thread(Thief, secure, node, "thief")
            await asyncio.to_thread(thief.renew)
            session = await thief.session(client)
            assert isinstance(TO_HOST.decode(await session.receive_bytes()), Welcome)
            link, key = await thief.link(client)
            ends = asyncio.gather(end_of(session), end_of(link))  # they read, so that pings are answered
            kept = await thief.kept()
            assert (await thief.piece_over_tls()).endswith(LAYER[:100])
            assert (await thief.piece_beside_tls(key)).startswith(b"HTTP/1.1 200 ")

            revoked = time.monotonic()
            await asyncio.to_thread(secure.p2pd, "host", "revoke", "thief")
            assert (await ends)[0] == Closing.REVOKED
            assert time.monotonic() - revoked < 60

            assert (await thief.again(kept)).startswith(b"HTTP/1.1 403 ")
            assert b"was revoked" in await thief.piece_over_tls()
            assert (await thief.piece_beside_tls(key)).startswith(b"HTTP/1.1 401 ")
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await thief.link(client)
            assert await end_of(await thief.session(client)) == Closing.REVOKED
            other = certificates.request_certificate(certificates.new_key())
            for again in (
                thief.renew,
                lambda: thief.join("thief", thief.request),
                lambda: thief.join("thief", other),
                lambda: thief.join("another", thief.request),
            ):
                with pytest.raises(JoinRefusedError) as refused:
                    await asyncio.to_thread(again)
                assert refused.value.reason == "revoked"
            assert await asyncio.to_thread(thief.join, "another", other), "so its token is to be revoked, too"
            await asyncio.to_thread(secure.p2pd, "token", "revoke", thief.token.id)
            with pytest.raises(JoinRefusedError, match="revoked"):
                await asyncio.to_thread(thief.join, "a-third", other)
            assert (await node.swarm())["scheduler_connected"]

    asyncio.run(main())
