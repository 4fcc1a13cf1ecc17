"""Certificates that the authority would never issue, and handshakes without sockets."""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from scheduler.trust import certificates
from scheduler.trust.certificates import CertificateAuthority, Credentials, moment
from scheduler.trust.identity import PeerIdentity, Role

NOW = float(int(time.time()))
HOUR = 3600.0
CA = certificates.make_ca(moment(NOW))
OTHER_CA = certificates.make_ca(moment(NOW))


def host(name: str, ca: CertificateAuthority = CA) -> PeerIdentity:
    return PeerIdentity(ca.cluster, Role.HOST, name)


def scheduler(ca: CertificateAuthority = CA) -> PeerIdentity:
    return PeerIdentity(ca.cluster, Role.SCHEDULER)


def credentials(
    identity: PeerIdentity, ca: CertificateAuthority = CA, *, at: float = NOW, lifetime_s: float = HOUR
) -> Credentials:
    """What the authority issues."""
    key = certificates.new_key()
    issued = certificates.issue(ca, identity, key.public_key(), moment(at), lifetime_s)
    return certificates.read_credentials(
        certificates.key_to_pem(key), certificates.to_pem(issued), certificates.to_pem(ca.certificate)
    )


def certificate(
    uris: Sequence[str],
    *,
    ca: bool = False,
    issuer: CertificateAuthority = CA,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> x509.Certificate:
    """A certificate with any names, of the issuer's."""
    key = key or certificates.new_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(NOW - HOUR))
        .not_valid_after(moment(NOW + HOUR))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(
            x509.SubjectAlternativeName([*names, x509.DNSName("a.example")]), critical=False
        )
    return builder.sign(issuer.key, hashes.SHA256())


class Pair:
    """Two ends of a TLS connection, joined in memory."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self._up, self.down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(self._up, self.down, server_side=True)
        self.client = client.wrap_bio(self.down, self._up, session=session)

    def shake_hands(self) -> None:
        """Raises the ssl.SSLError of the end that refuses."""
        ends = [self.client, self.server]
        while ends:
            for end in tuple(ends):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                ends.remove(end)
        # In TLS 1.3 the client is done before the server has seen its certificate: what comes next tells.
        self.server.write(b"x")
        assert self.client.read(1) == b"x"


def connected(server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Pair:
    pair = Pair(server, client, session)
    pair.shake_hands()
    return pair
