"""A running host's credentials: got with a token, renewed by themselves, and tried for again when that fails."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from peer.net.scheduler_clients import SchedulerClients
from peer.tasks import BackgroundTasks
from peer.trust.host_trust import HostTrust, Joining, Provided
from peer.trust.identity_files import IdentityFiles
from scheduler.protocol.codec import FROM_HOST
from scheduler.protocol.connection import PATH, Closing
from scheduler.protocol.from_host import Hello
from scheduler.trust.certificates import Credentials, to_pem
from scheduler.trust.directory import CertificateDirectory
from scheduler.trust.errors import CertificateError, TrustError
from scheduler.trust.identity import PeerIdentity, Role
from scheduler.trust.tls import server_context
from scheduler.trust.token import JoinToken
from tests.support.node import asynchronous
from tests.support.registry_server import PATIENCE_S
from tests.trust.fixtures import CA, HOUR, OTHER_CA, connected, credentials, host, scheduler
from tests.trust.ports import Port, scheduler_at
from tests.trust.test_directory import fill

MARKS = {"machine-id": frozenset({"1"})}


@asynccontextmanager
async def running(source: Joining | Provided) -> AsyncIterator[HostTrust]:
    async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background:
        trust = HostTrust(source)
        background.start(trust.run())
        yield trust


def joining(data: Path, port: Port, token: JoinToken | None) -> Joining:
    return Joining(IdentityFiles(data, name="node", marks=MARKS), token, ["https://127.0.0.1:1", port.url])


def test_a_host_joins_and_after_a_restart_needs_no_token(tmp_path: Path) -> None:
    async def main() -> None:
        async with scheduler_at(tmp_path / "authority") as port:
            async with running(joining(tmp_path / "host", port, port.token())) as trust:
                first = await trust.credentials()
                assert first.identity.host == trust.host
            async with running(joining(tmp_path / "host", port, None)) as trust:
                assert await trust.credentials() == first

    asyncio.run(main())


def test_a_token_of_another_ca_has_the_host_join_anew(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            scheduler_at(tmp_path / "before") as port,
            running(joining(tmp_path / "host", port, port.token())) as trust,
        ):
            before = await trust.credentials()
        async with scheduler_at(tmp_path / "after") as port:
            token = port.token()
            async with running(joining(tmp_path / "host", port, token)) as trust:
                after = await trust.credentials()
            assert after.identity.cluster == port.authority.cluster != before.identity.cluster
            assert after.identity.host == before.identity.host
            async with running(joining(tmp_path / "host", port, token)) as trust:
                assert await trust.credentials() == after, "and then it has its certificate"

    asyncio.run(main())


def test_a_host_renews_by_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            scheduler_at(tmp_path / "authority", lifetime_s=4) as port,
            running(joining(tmp_path / "host", port, port.token(uses=1))) as trust,
        ):
            first = await trust.credentials()
            second = await trust.credentials(first)
            assert second.not_after > first.not_after
            assert second.key_pem == first.key_pem
            assert (await trust.credentials(second)).not_after > second.not_after
            (known,) = port.authority.ledger.tokens()
            assert known.uses_left == 0, "only joining took a use"

    asyncio.run(main())


def test_an_expired_certificate_needs_a_token(tmp_path: Path) -> None:
    async def main() -> None:
        async with scheduler_at(tmp_path / "authority", lifetime_s=HOUR) as port:
            source = joining(tmp_path / "host", port, None)
            async with running(joining(tmp_path / "host", port, port.token())) as trust:
                held = await trust.credentials()
            over = replace(held, not_after=time.time() - 1)
            with pytest.raises(TrustError, match="--join TOKEN"):
                source.next(over)
            anew = joining(tmp_path / "host", port, port.token())
            assert (await asyncio.to_thread(anew.next, over)).identity == held.identity

    asyncio.run(main())


def test_a_refusal_is_what_is_told_of_many_failures(tmp_path: Path) -> None:
    async def main() -> None:
        async with scheduler_at(tmp_path / "authority") as port:
            token = port.token()
            port.authority.ledger.revoke_token(token.id, time.time())
            with pytest.raises(TrustError, match="was revoked"):
                await asyncio.to_thread(joining(tmp_path / "host", port, token).next, None)

    asyncio.run(main())


def test_certificates_of_the_operators_own_are_read_again(tmp_path: Path) -> None:
    async def main() -> None:
        fill(tmp_path, credentials(host("a")))
        source = Provided(CertificateDirectory(tmp_path))
        held = source.first()
        assert source.next(held) is held
        fill(tmp_path, second := credentials(host("a")))
        assert source.next(held) == second
        fill(tmp_path, credentials(host("b")))
        with pytest.raises(CertificateError, match="restart p2pd to be that one"):
            source.next(second)
        fill(tmp_path, credentials(scheduler()))
        with pytest.raises(CertificateError, match="this is a host"):
            Provided(CertificateDirectory(tmp_path))

    asyncio.run(main())


class Held(Provided):
    """A source that has these credentials, or none."""

    def __init__(self, held: Credentials | None) -> None:
        self.host = "a"
        self._held = held

    def first(self) -> Credentials | None:
        return self._held


class Watched(HostTrust):
    """Notes whether each session that is kept had been resumed."""

    def __init__(self, held: Credentials) -> None:
        super().__init__(Held(held))
        self.resumed: list[bool | None] = []

    def keep_session(self, connection: object) -> None:
        assert isinstance(connection, ssl.SSLObject)
        self.resumed.append(connection.session_reused)
        super().keep_session(connection)


async def once_welcomed(port: Port, trust: HostTrust) -> None:
    """Connect to the scheduler, and leave."""
    async with BackgroundTasks() as background:
        clients = SchedulerClients(
            lambda: Hello("a", 1, 1, "127.0.0.1:1"),
            lambda _: None,
            background,
            on_welcome=lambda *_: welcomed.set(),
            on_lost=lambda _: None,
            on_cloned=lambda: None,
            trust=trust,
        )
        welcomed = asyncio.Event()
        clients.keep([port.url])
        await welcomed.wait()


@asynchronous
async def test_a_host_resumes_its_session_with_the_scheduler(tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S), scheduler_at(tmp_path) as port:
        trust = Watched(port.credentials("a"))
        for _ in range(3):
            await once_welcomed(port, trust)
        assert trust.resumed == [False, True, True]


@asynchronous
async def test_a_session_dies_with_the_credentials_of_either_end(tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S), scheduler_at(tmp_path) as port:
        held = port.credentials("a")
        trust = Watched(held)
        await once_welcomed(port, trust)
        trust._take(held)
        await once_welcomed(port, trust)
        port.admission._set_credentials(port.admission._own_credentials())
        await once_welcomed(port, trust)
        assert trust.resumed == [False, False, False]


@asynchronous
async def test_a_resumed_session_does_not_let_a_revoked_host_in(tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S), scheduler_at(tmp_path) as port:
        trust = Watched(port.credentials("a"))
        await once_welcomed(port, trust)
        port.authority.ledger.revoke_host("a", time.time())
        port.admission._read_ledger()
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{port.url}{PATH}", ssl=trust.to_scheduler) as socket,
        ):
            assert socket.get_extra_info("ssl_object").session_reused
            await socket.send_bytes(FROM_HOST.encode(Hello("a", 1, 1, "127.0.0.1:1")))
            await socket.receive()
            assert socket.close_code == Closing.REVOKED


def test_who_is_at_the_other_end() -> None:
    async def main() -> None:
        trust = HostTrust(Held(credentials(host("a"))))
        pair = connected(server_context(credentials(host("b"))), trust.client)
        assert trust.check(pair.client) == trust.check(pair.client, "b") == "b"
        for wrong in ("a", "c", "scheduler"):
            with pytest.raises(CertificateError, match=f"host {wrong} was expected"):
                trust.check(pair.client, wrong)
        with pytest.raises(CertificateError, match="a scheduler was expected"):
            trust.check_scheduler(pair.client)
        with pytest.raises(CertificateError, match="no certificate"):
            trust.check(None)
        pair = connected(server_context(credentials(scheduler())), trust.client)
        trust.check_scheduler(pair.client)
        with pytest.raises(CertificateError):
            trust.check(pair.client)
        with pytest.raises(ssl.SSLError):
            connected(server_context(credentials(host("b", OTHER_CA), OTHER_CA)), trust.client)

    asyncio.run(main())


@pytest.mark.parametrize("of_scheduler", [False, True])
def test_a_connection_is_watched_until_a_certificate_is_over(of_scheduler: bool) -> None:
    """At both ends of a link, and at this end of the session."""

    async def main() -> None:
        trust = HostTrust(Held(credentials(host("a"))))
        short = credentials(scheduler() if of_scheduler else host("b"), at=time.time(), lifetime_s=4)
        pair, name = connected(server_context(short), trust.client), None if of_scheduler else "b"
        async with asyncio.timeout(PATIENCE_S):
            await trust.watch(pair.client, name, reopens=True)
            assert time.time() < short.not_after, "in time to open it anew"
            with pytest.raises(CertificateError, match="expired"):
                await trust.watch(pair.client, name, reopens=False)
            assert time.time() >= short.not_after

    asyncio.run(main())


def test_a_connection_is_opened_anew_before_this_hosts_own_certificate_is_over() -> None:
    async def main() -> None:
        own = credentials(host("a"), at=time.time(), lifetime_s=4)
        trust = HostTrust(Held(own))
        pair = connected(server_context(credentials(host("b"))), trust.client)
        async with asyncio.timeout(PATIENCE_S):
            await trust.watch(pair.client, "b", reopens=True)
        assert time.time() < own.not_after

    asyncio.run(main())


def test_what_was_made_with_a_ca_that_is_not_trusted_any_more_is_not_trusted() -> None:
    async def main() -> None:
        identity = PeerIdentity("cluster.example", Role.HOST, "a")
        both = b"".join(to_pem(ca.certificate) for ca in (CA, OTHER_CA))
        trust = HostTrust(Held(replace(credentials(identity), ca_pem=both)))
        pair = connected(trust.server, trust.client)
        for held, good in (
            (replace(credentials(identity, OTHER_CA), ca_pem=both), True),
            (credentials(identity, OTHER_CA), False),
        ):
            trust._take(held)
            with nullcontext() if good else pytest.raises(CertificateError, match="another CA was trusted"):
                trust.check(pair.server)
        assert trust.check(connected(trust.server, trust.client).server) == "a"

    asyncio.run(main())


def test_a_revoked_host_is_refused() -> None:
    async def main() -> None:
        trust = HostTrust(Held(credentials(host("a"))))
        told: list[str] = []
        trust.on_revoked = told.append
        pair = connected(trust.server, trust.client)
        assert trust.check(pair.server) == "a"
        trust.revoke(("b", "a"))
        trust.revoke(("a",))
        assert told == ["b", "a"]
        with pytest.raises(CertificateError, match="was revoked"):
            trust.check(pair.server)

    asyncio.run(main())


def test_without_credentials_there_is_nobody() -> None:
    async def main() -> None:
        trust = HostTrust(Held(None))
        with pytest.raises(CertificateError, match="no certificate yet"):
            _ = trust.client
        pair = connected(server_context(credentials(host("b"))), HostTrust(Held(credentials(host("a")))).client)
        with pytest.raises(CertificateError, match="no certificate yet"):
            trust.check(pair.client)
        assert CA.cluster

    asyncio.run(main())
