"""How a host gets its certificate from the scheduler (`scheduler.protocol.joining`): blocking, for a worker thread.

Rules:
1. The CA that the scheduler gives is believed only if the join token has its fingerprint. The token is sent over
   another connection, which that CA verifies. So whoever sits between learns no token.
2. Every answer is bounded, and what is not understood is an error that names the scheduler.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from scheduler.protocol.joining import CA_PATH, JOIN_PATH, MAX_BODY_BYTES, RENEW_PATH
from scheduler.trust.certificates import Credentials, cluster_of, fingerprint_of, to_pem
from scheduler.trust.errors import CertificateError, JoinRefusedError, TrustError
from scheduler.trust.identity import UNREADABLE, expect_scheduler
from scheduler.trust.tls import client_context, identity_of, joining_context
from scheduler.trust.token import JoinToken

ANSWER_WITHIN_S: Final = 10.0
DEFAULT_PORT: Final = 443
_TIME: Final = (9, 10)
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL."""


class SchedulerUnreachableError(TrustError):
    """The scheduler did not answer, or not as a scheduler does. Another try may do better."""


def fetch_ca(url: str, token: JoinToken) -> bytes:
    """The CA's certificate (PEM) that the token pins. Raises SchedulerUnreachableError, CertificateError."""
    answer = _ask(url, joining_context(None), None, "GET", CA_PATH)
    try:
        ca = x509.load_pem_x509_certificate(answer)
    except UNREADABLE:
        raise SchedulerUnreachableError(f"{url} gives no certificate of a CA") from None
    if fingerprint_of(ca) != token.ca_fingerprint:
        raise CertificateError(
            f"{url} is the scheduler of another cluster than the join token is for: its CA has another fingerprint"
        )
    return to_pem(ca)


def join(url: str, token: JoinToken, ca_pem: bytes, host: str, request_pem: bytes) -> bytes:
    """A first certificate (PEM). Raises JoinRefusedError, SchedulerUnreachableError, CertificateError."""
    cluster = cluster_of(x509.load_pem_x509_certificate(ca_pem))
    body = {"token": token.text, "host": host, "request": request_pem.decode()}
    return _ask(url, joining_context(ca_pem), cluster, "POST", JOIN_PATH, body)


def renew(url: str, credentials: Credentials, request_pem: bytes) -> bytes:
    """A new certificate (PEM) for the holder of one. Raises as `join`."""
    body = {"request": request_pem.decode()}
    return _ask(url, client_context(credentials), credentials.identity.cluster, "POST", RENEW_PATH, body)


def _ask(
    url: str, context: ssl.SSLContext, cluster: str | None, method: str, path: str, body: dict[str, str] | None = None
) -> bytes:
    """One request. With a cluster, the scheduler's certificate must be of it."""
    where = urlsplit(url)
    connection = http.client.HTTPSConnection(
        where.hostname or "", where.port or DEFAULT_PORT, timeout=ANSWER_WITHIN_S, context=context
    )
    try:
        connection.connect()
        if cluster is not None:
            assert isinstance(connection.sock, ssl.SSLSocket)
            expect_scheduler(identity_of(connection.sock, cluster, time.time()))
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json", "Connection": "close"})
        with connection.getresponse() as response:
            status, answer = response.status, response.read(MAX_BODY_BYTES)
    except ssl.SSLCertVerificationError as error:
        clocks = "; compare the clocks of both machines" if error.verify_code in _TIME else ""
        raise CertificateError(f"the certificate of {url} does not verify: {error.verify_message}{clocks}") from None
    except ssl.SSLError as error:
        raise SchedulerUnreachableError(f"{url} does not speak TLS 1.3 with this host: {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SchedulerUnreachableError(f"{url} does not answer: {str(error) or type(error).__name__}") from None
    finally:
        connection.close()
    if status == 200:
        return answer
    raise _refusal(url, status, answer)


def _refusal(url: str, status: int, answer: bytes) -> TrustError:
    if status == 403:
        try:
            told = json.loads(answer)
            return JoinRefusedError(str(told["reason"])[:40], f"{url}: {str(told['error'])[:300]}")
        except (ValueError, KeyError, TypeError):
            pass
    return SchedulerUnreachableError(f"{url} answers {status}: is it a scheduler, and of this version or a newer one?")
