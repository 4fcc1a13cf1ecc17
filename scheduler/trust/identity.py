"""Who a peer is: read strictly from its certificate.

The form is a SPIFFE ID, the one URI among the certificate's subject alternative names:

    spiffe://<cluster>/scheduler
    spiffe://<cluster>/host/<host id>

Rules:
1. A certificate with no such URI, or with more than one URI, is nobody's (as the SPIFFE standard says too).
2. TLS has verified the chain before. What is checked here is what TLS does not check: cluster, role, host id, and the
   time once more, because a resumed session skips the chain.
3. The same rules hold for certificates of the operator's own. Their CA may issue certificates for other purposes, and
   those do not have this form.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.utils import CryptographyDeprecationWarning

from scheduler.trust.errors import CertificateError, CertificateExpiredError

_URI: Final = re.compile(
    r"spiffe://(?P<cluster>[a-z0-9._-]{1,255})/(?:(?P<scheduler>scheduler)|host/(?P<host>[A-Za-z0-9._-]{1,64}))"
)
UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    CryptographyDeprecationWarning,  # where warnings are errors: of what a later `cryptography` will not read
)
"""What `cryptography` raises on bytes that it cannot read."""

MAX_CERTIFICATE_BYTES: Final = 16 * 1024
"""The length of a certificate that is read. Ours have 600 bytes."""


CERTIFICATES_KEPT: Final = 16_384
"""Certificates whose content is remembered, 1 KiB each: 10,000 hosts that come back are read in 2 us instead of 45."""


class Role(Enum):
    """What a member of the cluster is."""

    SCHEDULER = "scheduler"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """A member of a cluster. `host` is the host id; a scheduler has none.

    `not_after` is when the certificate that says so is over, in Unix seconds. It makes no other member.
    """

    cluster: str
    role: Role
    host: str = ""
    not_after: float = field(default=math.inf, compare=False)

    @property
    def uri(self) -> str:
        path = "scheduler" if self.role is Role.SCHEDULER else f"host/{self.host}"
        return f"spiffe://{self.cluster}/{path}"

    def __str__(self) -> str:
        return "the scheduler" if self.role is Role.SCHEDULER else f"host {self.host}"


def parse_uri(uri: str) -> PeerIdentity:
    """The identity in a URI. Raises CertificateError."""
    match = _URI.fullmatch(uri)
    if match is None or match["host"] in (".", ".."):
        raise CertificateError("the certificate's URI is not of the form spiffe://CLUSTER/host/ID or …/scheduler")
    if match["scheduler"]:
        return PeerIdentity(match["cluster"], Role.SCHEDULER)
    return PeerIdentity(match["cluster"], Role.HOST, match["host"])


def identity_in(certificate: x509.Certificate) -> PeerIdentity:
    """The identity that a certificate has. Raises CertificateError."""
    try:
        extensions = certificate.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        constraints = _constraints(extensions)
    except (*UNREADABLE, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CertificateError(f"the certificate has no identity of a p2pd cluster ({error})") from None
    if constraints is not None and constraints.ca:
        raise CertificateError("the certificate is that of an authority, not of a host or a scheduler")
    if len(uris) != 1:
        raise CertificateError(f"the certificate has {len(uris)} URIs where it must have one")
    return replace(parse_uri(uris[0]), not_after=certificate.not_valid_after_utc.timestamp())


def check_time(begins: datetime, over: datetime, now: float) -> None:
    """Raise CertificateExpiredError if `now` (Unix seconds) is outside of a certificate's time."""
    moment = datetime.fromtimestamp(now, UTC)
    if moment > over:
        raise CertificateExpiredError(
            f"the certificate expired {_ago((moment - over).total_seconds())} ago; its host asks for a new one with its"
            " join token: see the host's log, and the clocks of both machines"
        )
    if moment < begins:
        raise CertificateExpiredError(
            f"the certificate begins in {_ago((begins - moment).total_seconds())}: the clocks of the machines differ"
        )


def identity_from_der(der: bytes | None, cluster: str, now: float) -> PeerIdentity:
    """Who a peer is whose certificate TLS has verified, in the cluster `cluster`. `now` is in Unix seconds.

    Raises CertificateError; CertificateExpiredError if only the time is wrong.
    """
    if der is None:
        raise CertificateError("the peer has shown no certificate")
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise CertificateError(f"a certificate of more than {MAX_CERTIFICATE_BYTES} bytes is not read")
    identity, begins, over = _read(der)
    if identity.cluster != cluster:
        raise CertificateError(f"the certificate is of the cluster {identity.cluster}, and this one is {cluster}")
    check_time(begins, over, now)
    return identity


@lru_cache(maxsize=CERTIFICATES_KEPT)
def _read(der: bytes) -> tuple[PeerIdentity, datetime, datetime]:
    """Who a certificate is for, and when it begins and is over: what never changes. Raises CertificateError."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        begins, over = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except UNREADABLE:
        raise CertificateError("the peer's certificate cannot be read") from None
    return identity_in(certificate), begins, over


def expect_scheduler(identity: PeerIdentity) -> None:
    """Raise CertificateError if the peer is not the scheduler: a host's certificate does not make a scheduler."""
    if identity.role is not Role.SCHEDULER:
        raise CertificateError(f"a scheduler was expected, and {identity} answers")


def expect_host(identity: PeerIdentity, host: str) -> None:
    """Raise CertificateError if the peer is not the host with this id."""
    if identity.role is not Role.HOST or identity.host != host:
        raise CertificateError(f"host {host} was expected, and the certificate is that of {identity}")


def _constraints(extensions: x509.Extensions) -> x509.BasicConstraints | None:
    try:
        return extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
