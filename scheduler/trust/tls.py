"""TLS contexts for members of a cluster: TLS 1.3 alone, verified at both ends.

Rules:
1. A context is made from credentials and never changed. New credentials make a new context, which new connections use.
   Connections that are there go on with theirs until a certificate of either end is over, or a CA is not trusted any
   more (`TrustedContexts`). Whoever opened a connection opens another in time (`reopen_at`).
2. TLS verifies the chain, and that the peer has the key. `identity_of` is called on every connection after the
   handshake: cluster, role, host id and time are checked there, resumed sessions included.
3. Keys do not pass through files: OpenSSL reads them from memory that has no name.
4. A host resumes its session with the scheduler: for the scheduler that is a quarter of the work of a handshake. The
   session stays in the memory of both, belongs to one context of each, and is offered once. The scheduler gives the
   host the session's number alone: to encrypt a session into a ticket, and to read it again, costs more than the rest
   of the handshake. Links are not resumed, so hosts issue no tickets.
"""

from __future__ import annotations

import os
import random
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, Protocol
from weakref import WeakSet

from scheduler.trust.certificates import Credentials, authorities_in
from scheduler.trust.errors import CertificateError
from scheduler.trust.identity import PeerIdentity, identity_from_der

REOPEN_AFTER: Final = (0.75, 0.9)
"""The parts of what is left of a certificate between which a connection is opened anew, at a random time: a scheduler's
certificate is over for all hosts at once. Certificates are renewed after two thirds of their time."""

_KERNEL_PROTOCOLS: Final = Path("/proc/sys/net/ipv4/tcp_available_ulp")
"""The protocols above TCP that the kernel has loaded."""


class TlsConnection(Protocol):
    """An `ssl.SSLObject`, an `ssl.SSLSocket`, or what aiofastnet has in its place."""

    def getpeercert(self, binary_form: Literal[True], /) -> bytes | None: ...

    @property
    def context(self) -> ssl.SSLContext | None: ...


class TrustedContexts:
    """The contexts whose CAs are all trusted still.

    Once a CA is not trusted any more, a connection that was made with an earlier context may have been verified by it.
    """

    def __init__(self) -> None:
        self._cas: frozenset[bytes] = frozenset()
        self._contexts: WeakSet[ssl.SSLContext] = WeakSet()

    def __contains__(self, context: ssl.SSLContext | None) -> bool:
        return context in self._contexts

    def add(self, credentials: Credentials, *contexts: ssl.SSLContext) -> None:
        """Trust the CAs that come with these credentials, and no others. The contexts were made of them."""
        before, self._cas = self._cas, authorities_in(credentials.ca_pem)
        still = self._contexts if before <= self._cas else ()
        self._contexts = WeakSet((*still, *contexts))  # threads look


def reopen_at(now: float, *ends: float) -> float:
    """When to open a connection anew that was opened `now` with certificates that are over then, in Unix seconds."""
    return now + max(0.0, min(ends) - now) * random.uniform(*REOPEN_AFTER)  # noqa: S311 # to spread load, and no secret


class ResumingContext(ssl.SSLContext):
    """A client's context whose next connection resumes the session that was kept last.

    The event loops take a context and no session, but they call its `wrap_bio`. aiofastnet calls it only if it is told
    to, by an attribute that its own tests use; without that, nothing is resumed.
    """

    _aiofastnet_force_fallback_ssl = True
    session: ssl.SSLSession | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # as in `ssl`
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        session, self.session = session or self.session, None
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def keep_session(connection: object) -> None:
    """Have the next connection with the same context resume the session of this one, which has been read from."""
    if isinstance(connection, ssl.SSLObject) and isinstance(connection.context, ResumingContext):
        connection.context.session = connection.session


def end_session(connection: ssl.SSLObject) -> None:
    """End a server's connection so that its session may be resumed.

    OpenSSL forgets the session of a connection that ends without a close_notify, which is how hosts are lost.
    """
    with suppress(ssl.SSLError):
        connection.unwrap()


def server_context(credentials: Credentials, *, strangers: bool = False, resuming: bool = False) -> ssl.SSLContext:
    """For a port. With `strangers` a peer without a certificate is let through the handshake: it may join.

    With `resuming` the session of a connection is kept that `end_session` was called for. OpenSSL keeps 20,480 for two
    hours, of 17 KiB each at most. Raises CertificateError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL if strangers else ssl.CERT_REQUIRED
    context.num_tickets = int(resuming)
    context.options |= ssl.OP_NO_TICKET  # no session in it, but its number
    return _with(context, credentials)


def client_context(credentials: Credentials, *, resuming: bool = False) -> ssl.SSLContext:
    """For connections to members of the cluster. Raises CertificateError."""
    context = (ResumingContext if resuming else ssl.SSLContext)(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # rule 3 of the package
    context.verify_mode = ssl.CERT_REQUIRED
    return _with(context, credentials)


def use_kernel_tls(context: ssl.SSLContext) -> None:
    """Have the kernel encrypt, and sendfile with it, where Python (3.12) and Linux (its module tls) have that."""
    try:
        offered = _KERNEL_PROTOCOLS.read_text().split()
    except OSError:
        return
    if "tls" in offered:
        context.options |= getattr(ssl, "OP_ENABLE_KTLS", 0)


def joining_context(ca_pem: bytes | None) -> ssl.SSLContext:
    """For a host without a certificate. With None nothing is verified: to fetch the CA that the token pins."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_NONE if ca_pem is None else ssl.CERT_REQUIRED
    if ca_pem is not None:
        _trust(context, ca_pem)
    return context


def identity_of(connection: TlsConnection | None, cluster: str, now: float) -> PeerIdentity:
    """The peer at the other end (rule 2). Raises CertificateError."""
    return identity_from_der(None if connection is None else connection.getpeercert(True), cluster, now)


def _with(context: ssl.SSLContext, credentials: Credentials) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= (
        ssl.VERIFY_X509_PARTIAL_CHAIN
    )  # the operator's CA may be an intermediate one: it is the anchor
    _trust(context, credentials.ca_pem)
    try:
        show(context, credentials.key_pem, credentials.chain_pem)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise CertificateError(f"the certificate of {credentials.identity} cannot be used: {error}") from None
    return context


def show(context: ssl.SSLContext, key_pem: bytes, chain_pem: bytes) -> None:
    """Have the context show that certificate to the other end (rule 3). Raises OSError, ValueError."""
    file = os.memfd_create("p2pd-credentials", os.MFD_CLOEXEC)
    try:
        with os.fdopen(file, "wb", closefd=False) as stream:
            stream.write(key_pem.rstrip() + b"\n" + chain_pem)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def _trust(context: ssl.SSLContext, ca_pem: bytes) -> None:
    try:
        context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError(f"the CA's certificate cannot be used: {error}") from None
