"""The scheduler's port with certificates: who joins, who takes part, and what a stranger gets."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from peer.trust.joining import SchedulerUnreachableError, fetch_ca, join, renew
from scheduler.protocol.codec import FROM_HOST, TO_HOST
from scheduler.protocol.connection import PATH, Closing
from scheduler.protocol.from_host import Hello, Join, Leave
from scheduler.protocol.joining import CA_PATH, JOIN_PATH, MAX_BODY_BYTES, RENEW_PATH
from scheduler.protocol.to_host import Joined, Revoked, Welcome
from scheduler.shell.admission import Admission
from scheduler.shell.bounds import Bounds
from scheduler.shell.doorway import RECORD_BYTES, encrypted
from scheduler.trust import certificates
from scheduler.trust.certificates import read_credentials, request_certificate
from scheduler.trust.directory import CertificateDirectory
from scheduler.trust.errors import CertificateError, JoinRefusedError
from scheduler.trust.identity import PeerIdentity, Role
from scheduler.trust.sqlite_ledger import SqliteLedger
from scheduler.trust.tls import client_context, joining_context, server_context
from tests.support.registry_server import PATIENCE_S
from tests.trust.fixtures import NOW, OTHER_CA, credentials, host, scheduler
from tests.trust.fixtures import connected as joined_in_memory
from tests.trust.ports import Port, ask, scheduler_at
from tests.trust.test_directory import fill

KEY = certificates.new_key()
REQUEST = request_certificate(KEY)

Test = Callable[[Port], Awaitable[None]]


def run(data: Path, test: Test, *, plain: bool = False, bounds: Bounds | None = None) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), scheduler_at(data / "authority", plain=plain, bounds=bounds) as port:
            await test(port)

    asyncio.run(main())


@asynccontextmanager
async def connected(port: Port, tls: ssl.SSLContext | None) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    scheme = "https" if tls else "http"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{scheme}://127.0.0.1:{port.number}{PATH}", ssl=tls or False) as socket,
    ):
        yield socket


async def greeted(socket: aiohttp.ClientWebSocketResponse, name: str) -> object:
    """The first answer to Hello, or why the connection was closed."""
    await socket.send_bytes(FROM_HOST.encode(Hello(name, 1, 1, f"{name}:1")))
    return await hears(socket)


async def hears(socket: aiohttp.ClientWebSocketResponse) -> object:
    received = await socket.receive()
    if received.type is aiohttp.WSMsgType.BINARY:
        return TO_HOST.decode(received.data)
    return Closing(socket.close_code or 0)


async def raw(port: Port, request: bytes, tls: ssl.SSLContext | None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port.number, ssl=tls)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


def test_a_host_joins_renews_and_takes_part(tmp_path: Path) -> None:
    async def test(port: Port) -> None:
        token = port.token()
        ca = await ask(fetch_ca, port.url, token)
        first = read_credentials(certificates.key_to_pem(KEY), await ask(join, port.url, token, ca, "a", REQUEST), ca)
        assert first.identity == PeerIdentity(port.authority.cluster, Role.HOST, "a")
        second = read_credentials(first.key_pem, await ask(renew, port.url, first, REQUEST), ca)
        for each in (first, second):
            async with connected(port, client_context(each)) as socket:
                assert isinstance(await greeted(socket, "a"), Welcome)

    run(tmp_path, test)


def test_the_token_is_sent_to_nobody_else(tmp_path: Path) -> None:
    """Another cluster's scheduler is at the URL, and then one that shows the right CA and has not its key."""

    async def test(port: Port) -> None:
        async with scheduler_at(tmp_path / "other") as other:
            with pytest.raises(CertificateError, match="another cluster"):
                await ask(fetch_ca, other.url, port.token())
            ca = await ask(fetch_ca, port.url, port.token())
            with pytest.raises(CertificateError, match="does not verify"):
                await ask(join, other.url, port.token(), ca, "a", REQUEST)
            assert other.authority.ledger.hosts() == []

    run(tmp_path, test)


def test_no_other_ca_comes_with_the_one_that_the_token_pins(tmp_path: Path) -> None:
    async def test(port: Port) -> None:
        own = port.authority.ca_pem
        port.authority.ca_pem = own + certificates.to_pem(OTHER_CA.certificate)  # type: ignore[misc] # for the test
        assert await ask(fetch_ca, port.url, port.token()) == own

    run(tmp_path, test)


def test_clocks_that_differ_are_told_of(tmp_path: Path) -> None:
    async def test(port: Port) -> None:
        future = port.authority.scheduler_credentials(time.time() + 3 * 3600)
        port.admission._context = server_context(future, strangers=True)
        with pytest.raises(CertificateError, match=r"not yet valid; compare the clocks"):
            await ask(join, port.url, port.token(), port.authority.ca_pem, "a", REQUEST)

    run(tmp_path, test)


def test_a_host_that_poses_as_the_scheduler_gets_no_token(tmp_path: Path) -> None:
    async def test(port: Port) -> None:
        seen: list[bytes] = []

        async def pose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await reader.read())
            writer.close()

        context = server_context(port.credentials("b"), strangers=True)
        async with await asyncio.start_server(pose, "127.0.0.1", 0, ssl=context) as server:
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            with pytest.raises(CertificateError, match="host b answers"):
                await ask(join, url, port.token(), port.authority.ca_pem, "a", REQUEST)
        assert seen in ([], [b""])

    run(tmp_path, test)


def test_what_is_refused_says_why(tmp_path: Path) -> None:
    async def refused(port: Port, token: object, name: str = "a", request: bytes = REQUEST) -> str:
        with pytest.raises(JoinRefusedError, match=port.url) as caught:
            await ask(join, port.url, token, port.authority.ca_pem, name, request)
        return caught.value.reason

    async def test(port: Port) -> None:
        token, once = port.token(), port.token(uses=1)
        await ask(join, port.url, once, port.authority.ca_pem, "a", REQUEST)
        assert await refused(port, once, "b", request_certificate(certificates.new_key())) == "token-used"
        assert await refused(port, token, "a", request_certificate(certificates.new_key())) == "id-taken"
        assert await refused(port, token, "..") == "request"
        assert await refused(port, token, request=b"no request") == "request"
        port.authority.ledger.revoke_token(token.id, NOW)
        assert await refused(port, token) == "token-revoked"
        held = port.credentials("c")
        port.authority.ledger.revoke_host("c", NOW)
        with pytest.raises(JoinRefusedError, match="was revoked"):
            await ask(renew, port.url, held, REQUEST)

    run(tmp_path, test)


@pytest.mark.parametrize("name", ["b", "scheduler"])
def test_a_host_speaks_for_itself_alone(tmp_path: Path, name: str) -> None:
    async def test(port: Port) -> None:
        async with connected(port, client_context(port.credentials("a"))) as socket:
            assert await greeted(socket, name) is Closing.NOT_THIS_HOST

    run(tmp_path, test)


def test_a_stranger_gets_nothing(tmp_path: Path) -> None:
    async def test(port: Port) -> None:
        newcomer = joining_context(port.authority.ca_pem)
        upgrade = (
            f"GET {PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        assert (await raw(port, upgrade, None)).startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert b"--join TOKEN" in await raw(port, upgrade, None)
        assert (await raw(port, upgrade, newcomer)).startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert (await raw(port, b"GET / HTTP/1.1\r\n\r\n", newcomer)).startswith(b"HTTP/1.1 403")
        assert await raw(port, b"\x16\x03\x01\x00\x05hello", None) != b"hello"
        request = f"POST {RENEW_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        assert b'"certificate"' in await raw(port, request, newcomer)
        for stranger in (credentials(host("a", OTHER_CA), OTHER_CA), credentials(host("a"), OTHER_CA)):
            context = client_context(stranger)
            context.verify_mode = ssl.CERT_NONE
            with pytest.raises((ssl.SSLError, ConnectionError, aiohttp.ClientError)):
                async with connected(port, context) as socket:
                    await greeted(socket, "a")

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (f"POST {JOIN_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n[1]", 403),
        (f"POST {JOIN_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n{'[' * 20_000}", 413),
        (f"POST {JOIN_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n{'[' * 9000}", 403),
        (f"GET {JOIN_PATH} HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (f"POST {CA_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
        (f"GET {CA_PATH} HTTP/1.1\r\nX: {'x' * MAX_BODY_BYTES}", 431),
        (f"GET {CA_PATH} HTTP/1.1\r\n: x\r\n\r\n", 400),
        (f"GET {CA_PATH}\r\n\r\n", 403),
    ],
)
def test_what_is_no_request_of_a_host_is_refused(tmp_path: Path, request_text: str, status: int) -> None:
    async def test(port: Port) -> None:
        answer = await raw(port, request_text.encode(), joining_context(port.authority.ca_pem))
        assert int(answer.split()[1]) == status

    run(tmp_path, test)


def test_a_request_in_small_pieces_is_one_request(tmp_path: Path) -> None:
    async def test(port: Port) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port.number, ssl=joining_context(None))
        for byte in f"GET {CA_PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode():
            writer.write(bytes([byte]))
            await writer.drain()
        assert port.authority.ca_pem in await reader.read()
        writer.close()

    run(tmp_path, test)


def test_who_is_silent_after_the_handshake_is_cut_off(tmp_path: Path) -> None:
    async def test(port: Port) -> None:
        for tls in (None, joining_context(None)):
            assert await raw(port, b"", tls) == b""

    run(tmp_path, test, bounds=Bounds(hello_s=1.0))


def test_who_connects_again_has_no_new_burst_of_messages(tmp_path: Path) -> None:
    async def test(port: Port) -> None:
        tls = client_context(port.credentials("a"))
        bursts = []
        for _ in range(2):
            async with connected(port, tls) as socket:
                welcome = await greeted(socket, "a")
                assert isinstance(welcome, Welcome)
                bursts.append(welcome.burst)
                for number in range(5):
                    await socket.send_bytes(FROM_HOST.encode(Leave(bytes([number]) * 32)))
                await socket.send_bytes(FROM_HOST.encode(Join(b"d" * 32, "docker.io", "library/app", 0)))
                while not isinstance(heard := await hears(socket), Joined):
                    assert not isinstance(heard, Closing)
        async with connected(port, tls) as socket:
            assert isinstance(await greeted(socket, "a"), Welcome)
            for _ in range(10):
                await socket.send_bytes(FROM_HOST.encode(Leave(b"d" * 32)))
            assert await hears(socket) is Closing.FLOODING
        assert bursts == [19, 12]

    run(tmp_path, test, bounds=Bounds(burst=20, messages_per_s=0.001))


def test_a_revoked_host_is_cut_off_and_the_others_are_told(tmp_path: Path) -> None:
    async def test(port: Port) -> None:
        held = {name: port.credentials(name) for name in ("a", "b", "c")}
        async with connected(port, client_context(held["a"])) as a, connected(port, client_context(held["b"])) as b:
            assert isinstance(await greeted(a, "a"), Welcome)
            assert isinstance(await greeted(b, "b"), Welcome)
            other = SqliteLedger.open(tmp_path / "authority/ledger.db")  # as `p2pd host revoke` does
            other.revoke_host("b", time.time())
            other.close()
            assert await hears(a) == Revoked(("b",))
            assert await hears(b) is Closing.REVOKED
        async with connected(port, client_context(held["b"])) as b:
            assert await greeted(b, "b") is Closing.REVOKED
        async with connected(port, client_context(held["c"])) as c:
            assert isinstance(await greeted(c, "c"), Welcome)
            assert await hears(c) == Revoked(("b",))

    run(tmp_path, test)


def test_where_it_is_open_old_hosts_are_served_beside_those_with_certificates(tmp_path: Path) -> None:
    async def test(port: Port) -> None:
        held = port.credentials("a")
        async with connected(port, None) as old, connected(port, client_context(held)) as new:
            assert isinstance(await greeted(old, "old"), Welcome)
            assert isinstance(await greeted(new, "a"), Welcome)
        async with connected(port, None) as thief:
            assert await greeted(thief, "a") is Closing.NOT_THIS_HOST, "an id with a certificate needs it"

    run(tmp_path, test, plain=True)


def test_a_session_is_resumed(tmp_path: Path) -> None:
    async def test(port: Port) -> None:
        context = client_context(port.credentials("a"))
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

        def once(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
            with (
                socket.create_connection(("127.0.0.1", port.number)) as tcp,
                context.wrap_socket(tcp, session=session) as tls,
            ):
                tls.sendall(request)
                assert tls.recv(12) == b"HTTP/1.1 426"
                return tls.session, tls.session_reused

        session, reused = await ask(once, None)
        assert not reused
        assert (await ask(once, session))[1]

    run(tmp_path, test)


def test_a_long_message_goes_in_short_records() -> None:
    pair = joined_in_memory(server_context(credentials(scheduler())), client_context(credentials(host("a"))))
    records = encrypted(pair.server, pair.down, bytes(10_000))
    lengths = []
    while records:
        length = 5 + int.from_bytes(records[3:5], "big")
        lengths.append(length)
        pair.down.write(records[:length])
        records = records[length:]
    assert len(lengths) == 3
    assert max(lengths) <= RECORD_BYTES + 22
    assert b"".join(pair.client.read(16_384) for _ in lengths) == bytes(10_000)


def test_the_scheduler_renews_its_own_certificate(tmp_path: Path) -> None:
    async def test(port: Port) -> None:
        before = port.admission.context
        port.admission.refresh()
        assert port.admission.context is before
        port.admission._renew_at = 0.0
        port.admission.refresh()
        assert port.admission.context is not before

    run(tmp_path, test)


def test_certificates_of_the_operators_own(tmp_path: Path) -> None:
    async def main() -> None:
        fill(tmp_path / "tls", credentials(scheduler()))
        ledger = SqliteLedger.open(tmp_path / "ledger.db")
        admission = Admission(None, CertificateDirectory(tmp_path / "tls"), ledger)
        before = admission.context
        answer = admission.answer(None, "GET", CA_PATH, b"")
        assert (answer.status, json.loads(answer.body)["reason"]) == (403, "provided")
        fill(tmp_path / "tls", credentials(scheduler()))
        admission.refresh()
        assert admission.context is not before
        good = admission.context
        (tmp_path / "tls/tls.key").write_bytes(b"damaged")
        admission.refresh()
        assert admission.context is good, "what was good stays"
        fill(tmp_path / "tls", credentials(host("a")))
        with pytest.raises(CertificateError, match="must be spiffe://CLUSTER/scheduler"):
            Admission(None, CertificateDirectory(tmp_path / "tls"), ledger)
        ledger.close()

    asyncio.run(main())


def test_nobody_answers() -> None:
    with pytest.raises(SchedulerUnreachableError, match="does not answer"):
        renew("https://127.0.0.1:1", credentials(host("a")), REQUEST)
