"""The HTTPS proxy of a node: what it answers itself, what it passes on, what it carries, and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from peer.tasks import BackgroundTasks
from proxy.core.connect import MAX_HEAD_BYTES, ConnectError, ConnectTarget
from proxy.https_proxy import HttpsProxy
from proxy.local_authority import authority_file
from proxy.tunnels import Tunnels
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import Node, asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S, Answering, RegistryServer, Seen, demand_basic

HOST, PORT = "registry.test", 5000
NAME = f"{HOST}:{PORT}"
APP = "team/app"
IMAGE = make_image(content_of("layer", 300_000))
LAYER = digest_of(IMAGE.layers[0])
BLOB = f"/v2/{APP}/blobs/{LAYER}"
OF_ONE_CONNECTION = (("X-A", "1"), ("X-B", "2"), ("X-C", "3"))
TAG = f"/v2/{APP}/manifests/1"


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Proxy:
    """The proxy of a node, at `address`."""

    node: Node
    address: tuple[str, int]

    def context(self, host: str = HOST) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(authority_file(self.node.data, host)))

    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask the upstream for a path through the proxy, as a client that trusts the node for it."""
        return await asyncio.to_thread(self._ask, method, path, body, dict(headers or {}))

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        wire = http.client.HTTPSConnection(*self.address, context=self.context(), timeout=PATIENCE_S)
        wire.set_tunnel(HOST, PORT)
        try:
            wire.request(method, path, body, headers)
            reply = wire.getresponse()
            return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
        finally:
            wire.close()

    async def say(self, *sent: bytes) -> bytes:
        """All that the proxy answers to these bytes."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(b"".join(sent))
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def proxy_at(data: Path, registry: ImageRegistry, **options: object) -> AsyncIterator[Proxy]:
    more = str(options.pop("upstream_options", ""))
    upstreams = (f"docker.io={registry.url}", f"{NAME}={registry.url}{more}")
    async with node_at(data, *upstreams, https_proxy="127.0.0.1:0", **options) as node:  # type: ignore[arg-type]
        status = (await node.ask_admin("GET", "/status")).json
        host, _, port = status["https_proxy"].rpartition(":")
        yield Proxy(node, (host, int(port)))


@asynchronous
async def test_a_pull_is_the_mirrors_and_comes_from_the_store_at_the_second_time(
    registry: ImageRegistry, tmp_path: Path
) -> None:
    registry.push(APP, "1", IMAGE)
    async with proxy_at(tmp_path / "store", registry) as proxy:
        for _ in range(2):
            assert (await proxy.ask("GET", "/v2/")).status == 200
            manifest = await proxy.ask("GET", TAG, headers={"Accept": IMAGE.media_type})
            assert (manifest.status, manifest.body) == (200, IMAGE.manifest)
            assert (await proxy.ask("GET", BLOB)).body == IMAGE.layers[0]
            part = await proxy.ask("GET", BLOB, headers={"Range": "bytes=1000-"})
            assert (part.status, part.body) == (206, IMAGE.layers[0][1000:])
        assert registry.asked("GET", LAYER) == 1
        cached = await proxy.node.cached()
        assert LAYER in cached


@asynchronous
async def test_a_push_is_the_registrys(registry: ImageRegistry, tmp_path: Path) -> None:
    """Streamed, with the client's credential, and led back through the proxy."""
    upload = f"/v2/{APP}/blobs/uploads"
    bodies: list[bytes] = []

    def took(seen: Seen) -> Answering:
        bodies.append(seen.body)
        return Answering(201, headers={"Location": f"{registry.url}/v2/{APP}/blobs/{LAYER}", "X-Mine": "kept"})

    registry.rules[f"{upload}/"] = Answering(202, headers={"Location": f"{registry.url}{upload}/u1?state=a%2Fb"})
    registry.rules[f"{upload}/u1"] = took
    registry.rules[TAG] = took
    async with proxy_at(tmp_path / "store", registry) as proxy:
        mine = {"Authorization": "Bearer mine", "Content-Type": "application/x-mine"}
        begun = await proxy.ask("POST", f"{upload}/", b"", mine)
        assert (begun.status, begun.headers["location"]) == (202, f"https://{NAME}{upload}/u1?state=a%2Fb")
        put = await proxy.ask("PUT", f"{upload}/u1?state=a%2Fb&digest={LAYER}", IMAGE.layers[0], mine)
        assert (put.status, put.headers["x-mine"]) == (201, "kept")
        assert put.headers["location"] == f"https://{NAME}/v2/{APP}/blobs/{LAYER}"
        assert (await proxy.ask("PUT", TAG, IMAGE.manifest, mine)).status == 201
    assert bodies == [IMAGE.layers[0], IMAGE.manifest]
    seen = [each for each in registry.seen if each.method != "GET"]
    assert {each.headers["authorization"] for each in seen} == {"Bearer mine"}
    assert {each.headers["content-type"] for each in seen} == {"application/x-mine"}
    assert seen[1].target == f"{upload}/u1?state=a%2Fb&digest={LAYER}"


@asynchronous
async def test_what_is_of_one_connection_goes_no_further(registry: ImageRegistry, tmp_path: Path) -> None:
    """However many Connection headers name it."""
    heads = b"HTTP/1.1 204 No Content\r\nConnection: x-a\r\nConnection: close, x-b\r\n"
    registry.rules["/v2/own"] = Answering(wire=heads + b"X-A: 1\r\nX-B: 2\r\nX-C: 3\r\n\r\n", then="close")
    async with proxy_at(tmp_path / "store", registry) as proxy:

        def ask() -> http.client.HTTPMessage:
            wire = http.client.HTTPSConnection(*proxy.address, context=proxy.context(), timeout=PATIENCE_S)
            wire.set_tunnel(HOST, PORT)
            with contextlib.closing(wire):
                wire.putrequest("DELETE", "/v2/own")
                for name, value in (("Connection", "x-a"), ("Connection", "x-b"), *OF_ONE_CONNECTION):
                    wire.putheader(name, value)
                wire.endheaders()
                return wire.getresponse().headers

        answered = await asyncio.to_thread(ask)
    (seen,) = registry.seen
    for headers in (seen.headers, {name.lower(): value for name, value in answered.items()}):
        assert [headers.get(name) for name in ("x-a", "x-b", "x-c")] == [None, None, "3"]


@asynchronous
async def test_a_push_that_is_under_way_when_the_node_stops_is_finished(
    registry: ImageRegistry, tmp_path: Path
) -> None:
    began, go = threading.Event(), threading.Event()

    def slowly(_seen: Seen) -> Answering:
        began.set()
        go.wait(PATIENCE_S)
        return Answering(201)

    registry.rules[TAG] = slowly
    async with proxy_at(tmp_path / "store", registry) as proxy:
        push = asyncio.get_running_loop().create_task(proxy.ask("PUT", TAG, IMAGE.manifest))
        await asyncio.to_thread(began.wait, 20)
        asyncio.get_running_loop().call_later(0.1, go.set)
    assert (await push).status == 201


@asynchronous
async def test_what_a_push_may_leave_out_is_asked_of_the_registry(registry: ImageRegistry, tmp_path: Path) -> None:
    """The node may hold what somebody has deleted there since."""
    registry.push(APP, "1", IMAGE)
    async with proxy_at(tmp_path / "store", registry) as proxy:
        assert (await proxy.ask("GET", BLOB)).status == 200
        assert (await proxy.ask("HEAD", BLOB)).status == 200
        registry.rules[BLOB] = Answering(404)
        assert (await proxy.ask("HEAD", BLOB)).status == 404


@asynchronous
async def test_a_tag_that_was_pushed_through_the_proxy_is_the_new_one_at_once(
    registry: ImageRegistry, tmp_path: Path
) -> None:
    other = make_image(content_of("other", 100))
    registry.push(APP, "1", IMAGE)

    def pushed(seen: Seen) -> Answering | None:
        if seen.method != "PUT":
            return None
        registry.push(APP, "1", other)
        return Answering(201)

    registry.rules[TAG] = pushed
    async with proxy_at(tmp_path / "store", registry, tag_ttl_s="1h") as proxy:
        assert (await proxy.ask("GET", TAG)).body == IMAGE.manifest
        assert (await proxy.ask("PUT", TAG, other.manifest)).status == 201
        assert (await proxy.ask("GET", TAG)).body == other.manifest


@asynchronous
async def test_what_the_mirror_does_not_know_is_the_registrys(registry: ImageRegistry, tmp_path: Path) -> None:
    """A login at the registry's own token server, a catalog, an error page."""
    registry.rules["/jwt/auth"] = Answering(200, b'{"token":"x"}')
    registry.rules["/v2/_catalog"] = Answering(200, b'{"repositories":["a"]}')
    registry.rules["/v2/broken/manifests/1"] = Answering(503, b"come back", {"Retry-After": "7"})
    async with proxy_at(tmp_path / "store", registry) as proxy:
        assert (await proxy.ask("GET", "/jwt/auth?account=me")).body == b'{"token":"x"}'
        assert registry.seen[-1].target == "/jwt/auth?account=me"
        assert (await proxy.ask("GET", "/v2/_catalog")).body == b'{"repositories":["a"]}'
        broken = await proxy.ask("GET", "/v2/broken/manifests/1")
        assert (broken.status, broken.body, broken.headers["retry-after"]) == (503, b"come back", "7")


@asynchronous
async def test_the_ping_has_the_registrys_own_challenge_also_beside_the_operators_credentials(
    registry: ImageRegistry, tmp_path: Path
) -> None:
    """`docker login` is to ask the registry, and the operator's credentials are to open what they do all the same."""
    registry.push(APP, "1", IMAGE)
    basic = demand_basic("operator", "secret")
    registry.rules = dict.fromkeys(("/v2/", TAG, BLOB), basic)
    password = tmp_path / "password"
    password.write_text("secret")
    password.chmod(0o600)
    options = f";username=operator;password_file={password}"
    async with proxy_at(tmp_path / "store", registry, upstream_options=options) as proxy:
        ping = await proxy.ask("GET", "/v2/")
        assert ping.status == 401
        assert ping.headers["www-authenticate"].startswith("Basic")
        assert (await proxy.ask("GET", "/v2/", headers={"Authorization": "Basic d3Jvbmc6"})).status == 401
        assert (await proxy.ask("GET", TAG)).status == 200
        assert (await proxy.ask("GET", TAG, headers={"Authorization": "Basic d3Jvbmc6"})).status == 200
        assert (await proxy.ask("PUT", TAG, b"{}")).status == 401  # nobody pushes as the operator


@asynchronous
async def test_a_registry_that_is_gone(registry: ImageRegistry, tmp_path: Path) -> None:
    registry.push(APP, "1", IMAGE)
    async with proxy_at(tmp_path / "store", registry) as proxy:
        assert (await proxy.ask("GET", BLOB)).status == 200
        registry.stop()
        assert (await proxy.ask("GET", "/v2/")).status == 200
        assert (await proxy.ask("GET", BLOB)).body == IMAGE.layers[0]
        push = await proxy.ask("POST", f"/v2/{APP}/blobs/uploads/", b"")
        assert push.status == 502
        assert json.loads(push.body)["errors"][0]["code"] == "UNAVAILABLE"


@asynchronous
async def test_another_host_than_that_of_connect_is_refused(registry: ImageRegistry, tmp_path: Path) -> None:
    registry.push(APP, "1", IMAGE)
    async with proxy_at(tmp_path / "store", registry) as proxy:
        for host in ("quay.io", "127.0.0.1", HOST):
            assert (await proxy.ask("GET", TAG, headers={"Host": host})).status == 421
        assert (await proxy.ask("GET", f"{TAG}?ns=docker.io", headers={"Host": NAME.upper()})).status == 200
        assert LAYER not in await proxy.node.cached()


@pytest.mark.parametrize("path", ["http://evil.example/v2/", "https://evil.example/v2/"])
@asynchronous
async def test_a_path_names_no_other_host(registry: ImageRegistry, tmp_path: Path, path: str) -> None:
    async with proxy_at(tmp_path / "store", registry) as proxy:
        assert (await proxy.ask("GET", path, headers={"Host": NAME})).status == 400
        assert (await proxy.ask("PUT", path, b"x", headers={"Host": NAME})).status == 400
    assert registry.seen == []


@asynchronous
async def test_the_sni_does_not_matter(registry: ImageRegistry, tmp_path: Path) -> None:
    """The certificate is that of the host in CONNECT, so whoever wants another is not deceived."""
    async with proxy_at(tmp_path / "store", registry) as proxy:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(shake_hands, proxy.address, proxy.context(), "docker.io")


@asynchronous
async def test_a_client_that_was_not_told_is_passed_by_for_a_while(registry: ImageRegistry, tmp_path: Path) -> None:
    """One failed pull, and no more: a node may get an upstream of which its dockerd knows nothing."""
    registry.push(APP, "1", IMAGE)
    async with proxy_at(tmp_path / "store", registry, allow_private=["127.0.0.1"]) as proxy:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(shake_hands, proxy.address, ssl.create_default_context(), HOST)
        async with asyncio.timeout(PATIENCE_S):
            while (await status(proxy.address, NAME)) == 200:  # until the alert has come
                pass
        assert await status(proxy.address, NAME) == 502  # DNS has no such name


@asynchronous
async def test_all_else_is_carried_untouched_both_ways(registry: ImageRegistry, tmp_path: Path) -> None:
    payload = content_of("payload", 3_000_000)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write(b"the end")  # after the client's FIN: each direction ends by itself
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, proxy_at(tmp_path / "store", registry, allow_private=["127.0.0.1"]) as proxy:
        early = b"\x16\x03\x01 sent before the answer"
        reader, writer = await asyncio.open_connection(*proxy.address)
        writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + early)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"

        async def send() -> None:
            writer.write(payload)
            await writer.drain()
            writer.write_eof()

        async with asyncio.timeout(PATIENCE_S):
            _, received = await asyncio.gather(send(), reader.read())
        assert received == early + payload + b"the end"
        writer.close()


HOSTILE = [
    (b"GET http://example.test/ HTTP/1.1\r\nHost: example.test\r\n\r\n", 405),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),
    (b"\x00" * 100, 400),
    (b"CONNECT \xff\xfe HTTP/1.1\r\n\r\n", 400),
    (b"CONNECT x:1 HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n", 431),
    (b"CONNECT " + b"x" * (2 * MAX_HEAD_BYTES), 431),
    (b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n\r\n", 403),
    (b"CONNECT [::1]:22 HTTP/1.1\r\n\r\n", 403),
    (b"CONNECT [::ffff:127.0.0.1]:22 HTTP/1.1\r\n\r\n", 403),
    (b"CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n", 403),
    (b"CONNECT 0.0.0.0:80 HTTP/1.1\r\n\r\n", 403),
    (b"CONNECT localhost:22 HTTP/1.1\r\n\r\n", 403),
    (b"CONNECT no-such-host.invalid:443 HTTP/1.1\r\n\r\n", 502),
]


@asynchronous
async def test_hostile_clients_are_told_and_leave_nothing(registry: ImageRegistry, tmp_path: Path) -> None:
    async with proxy_at(tmp_path / "store", registry) as proxy:
        answers = await asyncio.gather(*(proxy.say(sent) for sent, _ in HOSTILE))
        assert [answer[:13] for answer in answers] == [f"HTTP/1.1 {status} ".encode() for _, status in HOSTILE]
        assert (await proxy.ask("GET", "/v2/")).status == 200


@asynchronous
async def test_a_client_that_says_nothing_is_let_go() -> None:
    """Byte by byte is nothing, too."""
    async with BackgroundTasks() as background:
        proxy = HttpsProxy(_never, Tunnels(background, environ={}), None, frozenset, stall_s=1, head_s=0.2)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.sendall(b"CONN")
        answered = asyncio.get_running_loop().create_task(proxy.accept(None, ours))
        assert (await asyncio.to_thread(theirs.recv, 100)).startswith(b"HTTP/1.1 408 ")
        theirs.close()
        await answered
        assert proxy.open_count == 0


@pytest.mark.parametrize(
    ("address", "is_local", "listed", "allowed"),
    [
        ("10.1.2.3", True, (), True),
        ("10.1.2.3", False, (), False),
        ("10.1.2.3", False, ("10.0.0.0/8",), True),
        ("127.0.0.1", True, (), False),
        ("127.0.0.1", True, ("registry.test",), True),
        ("169.254.169.254", True, (), False),
        ("168.63.129.16", True, (), False),
        ("fd00:ec2::254", True, (), False),
        ("fe80::1", True, (), False),
        ("203.0.113.7", True, (), False),
    ],
)
@asynchronous
async def test_where_a_tunnel_may_lead(address: str, is_local: bool, listed: tuple[str, ...], allowed: bool) -> None:
    """By the address that the name has, and that is connected to."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def resolve(_host: str, _port: int) -> list[tuple[int, int, int, object]]:
        return [(family, 99, 0, (address, 443))]  # of no type: connecting to it fails at once

    async with BackgroundTasks() as background:
        tunnels = Tunnels(background, allow_private=listed, is_local=is_local, environ={}, resolve=resolve)
        with pytest.raises(ConnectError) as refused:
            await tunnels.open(ConnectTarget("registry.test", 443))
        assert refused.value.status == (502 if allowed else 403)
        tunnels.close()


@asynchronous
async def test_a_tunnel_leads_through_the_proxy_of_p2pds_environment() -> None:
    """A company's proxy, which resolves names by itself."""
    with RegistryServer(tunnel_tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) as company:
        async with BackgroundTasks() as background:
            tunnels = Tunnels(background, environ={"HTTPS_PROXY": company.url})
            (await tunnels.open(ConnectTarget("registry.invalid", 443))).close()
            tunnels.close()
        assert [(seen.method, seen.target) for seen in company.seen] == [("CONNECT", "registry.invalid:443")]


@asynchronous
async def test_tunnels_are_few_and_one_that_carries_nothing_ends() -> None:
    async with BackgroundTasks() as background:
        tunnels = Tunnels(background, environ={}, idle_s=0.05, most=1)
        (client, ours), (server, theirs) = socket.socketpair(), socket.socketpair()
        for each in (ours, server):
            each.setblocking(False)
        tunnels.start(ours, server)
        assert HttpsProxy(_never, tunnels, None, frozenset, stall_s=1).open_count == 2  # of the port's share of files
        with pytest.raises(ConnectError, match="no more at a time"):
            await tunnels.open(ConnectTarget("registry.test", 443))
        assert await asyncio.to_thread(client.recv, 1) == b""
        assert await asyncio.to_thread(theirs.recv, 1) == b""
        assert tunnels.count == 0
        client.close()
        theirs.close()


@asynchronous
async def test_a_node_whose_key_is_unsafe_passes_everything_by(registry: ImageRegistry, tmp_path: Path) -> None:
    async with proxy_at(tmp_path / "store", registry):
        pass
    (tmp_path / "store" / "https-proxy" / "authority.key").chmod(0o644)
    async with proxy_at(tmp_path / "store", registry) as proxy:
        assert (await proxy.say(f"CONNECT {NAME} HTTP/1.1\r\n\r\n".encode())).startswith(b"HTTP/1.1 502 ")


async def status(address: tuple[str, int], name: str) -> int:
    """The status of CONNECT."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"CONNECT {name} HTTP/1.1\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return int(head.split(b" ")[1])


def shake_hands(address: tuple[str, int], context: ssl.SSLContext, sni: str) -> None:
    """TLS with the upstream through the proxy. Raises ssl.SSLError."""
    with socket.create_connection(address, timeout=PATIENCE_S) as connection:
        connection.sendall(f"CONNECT {NAME} HTTP/1.1\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        context.wrap_socket(connection, server_hostname=sni).close()


async def _never(_request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError
