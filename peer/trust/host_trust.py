"""This host's credentials while it runs: got, renewed and handed to whoever opens or takes connections.

Rules:
1. The daemon starts without credentials, and without a scheduler. Until it has them it takes part in no swarm.
2. New credentials make new contexts (`scheduler.trust.tls`). Connections that are there go on until a certificate of
   either end is over, or a CA is not trusted any more. Each end watches the other's certificate (`watch`).
3. Who was revoked is known from the scheduler, and remembered (`peer.trust.revocations`): a host that has lost the
   scheduler still refuses them.
4. A failure is told when it is another than the one before it, and tried again for ever.
"""

from __future__ import annotations

import asyncio
import math
import random
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

import structlog

from peer.trust.identity_files import IdentityFiles
from peer.trust.joining import fetch_ca, join, renew
from peer.trust.revocations import Revocations
from peer.trust.schedule import REFUSED_S, renew_at, retry_after_s
from scheduler.trust.certificates import Credentials, authorities_in, request_certificate
from scheduler.trust.directory import CertificateDirectory
from scheduler.trust.errors import CertificateError, JoinRefusedError, TrustError
from scheduler.trust.identity import PeerIdentity, Role, expect_host, expect_scheduler
from scheduler.trust.tls import (
    TlsConnection,
    TrustedContexts,
    client_context,
    identity_of,
    keep_session,
    reopen_at,
    server_context,
    use_kernel_tls,
)
from scheduler.trust.token import JoinToken

log = structlog.get_logger("peer.trust")

LOOK_EVERY_S: Final = 5.0
"""How often a directory with certificates is looked at, and the certificate of the other end of a connection."""

LOOK_AT_LEAST_S: Final = 0.25


class Source(Protocol):
    """Where the credentials come from. Methods block."""

    host: str

    def first(self) -> Credentials | None:
        """Those that are there when the host starts. Raises TrustError."""
        ...

    def next(self, held: Credentials | None) -> Credentials:
        """Others than the ones that are held. Raises TrustError."""
        ...

    def due(self, held: Credentials | None) -> float:
        """When to call `next`, in Unix seconds; what is past is now."""
        ...


class Joining:
    """Credentials from the scheduler's authority, with a join token at first."""

    def __init__(self, files: IdentityFiles, token: JoinToken | None, schedulers: Sequence[str]) -> None:
        self.host = files.host
        self._files = files
        self._token = token
        self._schedulers = schedulers

    def first(self) -> Credentials | None:
        """Those on the disk, unless the token is for another CA than they are: the operator has replaced the CA."""
        held = self._files.credentials()
        if held is None or self._token is None or self._token.ca_fingerprint in authorities_in(held.ca_pem):
            return held
        log.warning("the join token is for another CA than the certificate of this host, which joins anew")
        return None

    def due(self, held: Credentials | None) -> float:
        return 0.0 if held is None else renew_at(held, random.random())  # noqa: S311 # to spread load, and no secret

    def next(self, held: Credentials | None) -> Credentials:
        errors: list[TrustError] = []
        for url in self._schedulers:
            try:
                return self._ask(url, held)
            except TrustError as error:
                errors.append(error)
        refused = [error for error in errors if isinstance(error, JoinRefusedError)]
        raise (refused or errors)[0]

    def _ask(self, url: str, held: Credentials | None) -> Credentials:
        request = request_certificate(self._files.key)
        if held is not None and time.time() < held.not_after:
            return self._files.save(renew(url, held, request), held.ca_pem)
        if self._token is None:
            raise TrustError("this host has no certificate that is good, and no join token: start it with --join TOKEN")
        ca = fetch_ca(url, self._token)
        return self._files.save(join(url, self._token, ca, self.host, request), ca)


class Provided:
    """Credentials that another system writes into a directory."""

    def __init__(self, directory: CertificateDirectory) -> None:
        """Raises TrustError if there are none: the host id is in the certificate."""
        self._directory = directory
        self._first = directory.read()
        if self._first.identity.role is not Role.HOST:
            raise CertificateError("the certificate in the directory is the scheduler's, and this is a host")
        self.host = self._first.identity.host

    def first(self) -> Credentials | None:
        return self._first

    def due(self, held: Credentials | None) -> float:  # noqa: ARG002 # it is looked at every few seconds
        return time.time() + LOOK_EVERY_S

    def next(self, held: Credentials | None) -> Credentials:
        if held is not None and not self._directory.changed():
            return held
        found = self._directory.read()
        if found.identity != self._first.identity:
            raise CertificateError(f"the new certificate is that of {found.identity}: restart p2pd to be that one")
        return found


class HostTrust:
    """The credentials of this host. On the event loop; `check` from any thread."""

    def __init__(self, source: Source, revoked: Path | None = None, *, kernel_tls: bool = False) -> None:
        """`revoked`: the file of revoked hosts. `kernel_tls`: encrypt in the kernel where it can.

        Raises TrustError. Blocks: reads files.
        """
        self._source = source
        self._kernel_tls = kernel_tls
        self.host: Final = source.host
        self._credentials: Credentials | None = None
        self._client: ssl.SSLContext | None = None
        self._to_scheduler: ssl.SSLContext | None = None
        self._server: ssl.SSLContext | None = None
        self._revoked = Revocations(revoked)
        self._trusted = TrustedContexts()
        self._changed = asyncio.Event()
        self.on_revoked: Callable[[str], None] = lambda _host: None
        """Called with each host that is revoked, on the event loop."""
        held = source.first()
        if held is not None:
            self._take(held)

    async def run(self) -> None:
        """Get credentials and keep them good, until cancelled."""
        failures, told = 0, ""
        while True:
            await asyncio.sleep(max(0.0, self._source.due(self._credentials) - time.time()))
            held = self._credentials
            try:
                found = await asyncio.to_thread(self._source.next, held)
            except TrustError as error:
                failures += 1
                if str(error) != told:
                    told = str(error)
                    log.warning("no new certificate", reason=str(error), expires=held and int(held.not_after))
                refused = isinstance(error, JoinRefusedError)
                pause_s = REFUSED_S if refused else retry_after_s(failures, random.random())  # noqa: S311 # as above
                await asyncio.sleep(pause_s)
                continue
            failures, told = 0, ""
            if found is not held:
                self._take(found)
                log.info("has a certificate", host=self.host, expires=int(found.not_after))

    async def credentials(self, held: Credentials | None = None) -> Credentials:
        """The credentials; with `held`, others than those. Waits until there are."""
        while self._credentials is None or self._credentials is held:
            await self._changed.wait()
        return self._credentials

    @property
    def expires(self) -> float:
        """When the certificate is over, in Unix seconds; 0 without one."""
        return 0.0 if self._credentials is None else self._credentials.not_after

    @property
    def server(self) -> ssl.SSLContext:
        """For connections to the peer port. Raises CertificateError if there is no certificate yet."""
        if self._server is None:
            raise CertificateError("this host has no certificate yet")
        return self._server

    @property
    def client(self) -> ssl.SSLContext:
        """For connections to hosts. Raises CertificateError if there is no certificate yet."""
        if self._client is None:
            raise CertificateError("this host has no certificate yet")
        return self._client

    @property
    def to_scheduler(self) -> ssl.SSLContext:
        """For the connection to the scheduler. Raises CertificateError if there is no certificate yet."""
        if self._to_scheduler is None:
            raise CertificateError("this host has no certificate yet")
        return self._to_scheduler

    def check(self, connection: TlsConnection | None, host: str | None = None) -> str:
        """The host at the other end, which must be `host` if that is given. Raises CertificateError."""
        peer = self._identity(connection)
        expect_host(peer, peer.host if host is None else host)
        if peer.host in self._revoked:
            raise CertificateError(f"host {peer.host} was revoked")
        return peer.host

    def check_scheduler(self, connection: TlsConnection | None) -> None:
        """Raises CertificateError if the other end is not the cluster's scheduler."""
        expect_scheduler(self._identity(connection))

    def keep_session(self, connection: object) -> None:
        """Have the next connection to the scheduler resume the session of this one."""
        keep_session(connection)

    async def watch(self, connection: TlsConnection | None, host: str | None, *, reopens: bool) -> None:
        """Watch a connection that has just begun, to a host; None: to the scheduler.

        Returns when the connection is to be opened anew, before a certificate is over; never if not `reopens`. Raises
        CertificateError once the other end is not trusted any more.
        """
        ends = self._identity(connection).not_after
        anew = reopen_at(time.time(), ends, self.expires) if reopens else math.inf
        while (now := time.time()) < anew:
            await asyncio.sleep(min(LOOK_EVERY_S, max(LOOK_AT_LEAST_S, min(anew, ends) - now)))
            if host is None:
                self.check_scheduler(connection)
            else:
                self.check(connection, host)

    def revoke(self, hosts: Iterable[str]) -> None:
        """Refuse these hosts from now on."""
        for host in self._revoked.add(hosts):
            self.on_revoked(host)

    def _identity(self, connection: TlsConnection | None) -> PeerIdentity:
        if self._credentials is None:
            raise CertificateError("this host has no certificate yet")
        if connection is not None and connection.context not in self._trusted:
            raise CertificateError("the connection was made when another CA was trusted, which is not any more")
        return identity_of(connection, self._credentials.identity.cluster, time.time())

    def _take(self, credentials: Credentials) -> None:
        self._client = client_context(credentials)
        self._to_scheduler = client_context(credentials, resuming=True)
        self._server = server_context(credentials)
        if self._kernel_tls:
            use_kernel_tls(self._server)
        self._trusted.add(credentials, self._client, self._to_scheduler, self._server)
        self._credentials = credentials
        self._changed.set()
        self._changed = asyncio.Event()
