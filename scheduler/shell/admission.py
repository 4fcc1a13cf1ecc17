"""Who is let in: the scheduler's certificate, its answers to hosts that join or renew, and who was revoked.

Rules:
1. The scheduler's own credentials are made, or read again, before they are over. New connections get the new ones.
   Those that are there end when the host's certificate is over, or a CA is not trusted any more.
2. The ledger may be changed by `p2pd token` and `p2pd host` beside this process. The server looks every few
   seconds (`refresh`).
3. What comes is from anybody who reaches the port. Whatever is wrong with it is a refusal with a reason.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import structlog

from scheduler.protocol.joining import CA_PATH, JOIN_PATH, RENEW_PATH
from scheduler.trust.authority import Authority
from scheduler.trust.certificates import CLOCK_SKEW, Credentials
from scheduler.trust.directory import CertificateDirectory
from scheduler.trust.errors import CertificateError, JoinRefusedError, TrustError
from scheduler.trust.identity import PeerIdentity, Role
from scheduler.trust.ledger import Ledger
from scheduler.trust.tls import TlsConnection, TrustedContexts, identity_of, server_context

log = structlog.get_logger(__name__)

RENEW_AFTER: Final = 2 / 3

SESSIONS_S: Final = 7200.0
"""How long OpenSSL keeps a session. It takes up to 17 KiB."""

SESSIONS_PER_HOST: Final = 32
"""What is kept of a host in that time. One that comes and goes more often has full handshakes."""

MAX_HOSTS: Final = 16_384


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    content_type: str
    body: bytes


class Admission:
    """The trust of one scheduler. `answer` and `refresh` block, and are called from worker threads."""

    def __init__(self, authority: Authority | None, directory: CertificateDirectory | None, ledger: Ledger) -> None:
        """Either an authority, or a directory with certificates of the operator's own. Raises TrustError."""
        assert (authority is None) != (directory is None)
        self._authority = authority
        self._directory = directory
        self._ledger = ledger
        self._lock = threading.Lock()
        self._seen = -1
        self._said = ""
        """What is wrong, once it is logged."""
        self._trusted = TrustedContexts()
        self._kept: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """Since when sessions of a host are counted, and how many were kept since."""
        self._set_credentials(self._own_credentials())
        self.revoked: frozenset[str] = frozenset()
        self.joined: set[str] = set()
        """The hosts that have, or had, a certificate: nobody without one is any of them."""
        self._read_ledger()

    @property
    def context(self) -> ssl.SSLContext:
        """For new connections."""
        return self._context

    def peer(self, connection: TlsConnection) -> PeerIdentity | None:
        """Who is at the other end; None without a certificate. Raises CertificateError."""
        if connection.getpeercert(True) is None:
            return None
        return identity_of(connection, self._cluster, time.time())

    def keeps_session(self, host: str, now: float) -> bool:
        """Whether to keep the session of a connection that ends, for the host to come back with. `now` is monotonic."""
        since, count = self._kept.pop(host, (now, 0))
        if now > since + SESSIONS_S:
            since, count = now, 0
        keeps = count < SESSIONS_PER_HOST
        self._kept[host] = since, count + keeps
        while len(self._kept) > MAX_HOSTS:
            self._kept.popitem(last=False)
        return keeps

    def is_over(self, peer: PeerIdentity, context: ssl.SSLContext | None) -> bool:
        """Whether a connection to this peer has to end, which was made with this context."""
        return peer.not_after < time.time() or context not in self._trusted

    def may_be(self, peer: PeerIdentity | None, host: str) -> bool:
        """Whether a connection may speak for a host."""
        if peer is None:
            return host not in self.joined
        return peer.role is Role.HOST and peer.host == host

    def refresh(self) -> None:
        """Look at what may have changed. Never raises: what is wrong is logged, and what was good stays."""
        try:
            if self._must_renew(time.time()):
                self._set_credentials(self._own_credentials())
            if self._ledger.version() != self._seen:
                self._read_ledger()
        except TrustError as error:
            if str(error) != self._said:
                log.warning("trust_not_refreshed", reason=str(error))
            self._said = str(error)
        else:
            self._said = ""

    def answer(self, peer: PeerIdentity | None, method: str, path: str, body: bytes) -> Answer:
        """The answer to a host that joins or renews."""
        try:
            if self._authority is None:
                raise JoinRefusedError("provided", "this cluster's certificates come from elsewhere: see --tls-dir")
            if (method, path) == ("GET", CA_PATH):
                return Answer(200, "application/x-pem-file", self._authority.ca_pem)
            if (method, path) == ("POST", JOIN_PATH):
                token, host, request = _texts(body, "token", "host", "request")
                chain = self._authority.enroll(token, host, request.encode(), time.time())
                log.info("host_joined", host=host)
                self.joined.add(host)
                return Answer(200, "application/x-pem-file", chain)
            if (method, path) == ("POST", RENEW_PATH):
                if peer is None:
                    raise JoinRefusedError("certificate", "a certificate is renewed with the certificate before it")
                (request,) = _texts(body, "request")
                return Answer(200, "application/x-pem-file", self._authority.renew(peer, request.encode(), time.time()))
        except JoinRefusedError as error:
            log.info("host_refused", reason=error.reason, text=str(error))
            return _told(403, error.reason, str(error))
        except TrustError as error:
            log.warning("authority_broken", reason=str(error))
            return _told(503, "broken", "the scheduler cannot issue certificates now: its log says why")
        return _told(405, "method", f"this is not how {path} is asked")

    def _own_credentials(self) -> Credentials:
        now = time.time()
        if self._directory is not None:
            found = self._directory.read()
            if found.identity.role is not Role.SCHEDULER:
                raise CertificateError(
                    f"the certificate in the directory is that of {found.identity}: its URI must be"
                    " spiffe://CLUSTER/scheduler"
                )
            return found
        assert self._authority is not None
        return self._authority.scheduler_credentials(now)

    def _set_credentials(self, credentials: Credentials) -> None:
        resuming = self._directory is None  # else a CA that was removed would live on in sessions
        self._context = server_context(credentials, strangers=True, resuming=resuming)
        self._trusted.add(credentials, self._context)
        self._cluster = credentials.identity.cluster
        issued = credentials.not_before + CLOCK_SKEW.total_seconds()
        self._renew_at = issued + (credentials.not_after - issued) * RENEW_AFTER

    def _must_renew(self, now: float) -> bool:
        return self._directory.changed() if self._directory is not None else now >= self._renew_at

    def _read_ledger(self) -> None:
        with self._lock:
            self._seen = self._ledger.version()
            self.revoked = self._ledger.revoked(time.time())
            self.joined.update(self._ledger.host_ids())


def _texts(body: bytes, *names: str) -> list[str]:
    """The texts with these names in a body of JSON. Raises JoinRefusedError."""
    try:
        told = json.loads(body)
        values = [told[name] for name in names]
    except (ValueError, KeyError, TypeError, RecursionError):
        values = []
    if not values or not all(isinstance(value, str) and value.isascii() for value in values):
        raise JoinRefusedError("request", f"a JSON object with the texts {', '.join(names)} is expected")
    return values


def _told(status: int, reason: str, error: str) -> Answer:
    return Answer(status, "application/json", json.dumps({"reason": reason, "error": error}).encode())
