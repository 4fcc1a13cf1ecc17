"""Certificates: the CA's own, those that it issues, and what is taken from a request.

Rules:
1. Of a certificate signing request only the public key is taken, once the request's signature shows that the sender has
   the private key. Names, extensions and attributes in it are not read.
2. Keys are EC P-256, 30 µs a signature. A request with another kind of key is refused.
3. Certificates begin 2 hours in the past, because the clocks of two machines differ. They end with the CA at the
   latest.
4. The cluster's name is made from the CA's public key. So it stays when the operator's CA is renewed with the same key,
   and no two authorities have the same name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scheduler.trust.errors import CertificateError, JoinRefusedError
from scheduler.trust.identity import UNREADABLE, PeerIdentity, identity_in

CLOCK_SKEW: Final = timedelta(hours=2)
"""Machines may be an hour apart, and so may those that issue from those that verify."""
CA_LIFETIME: Final = timedelta(days=3650)
MAX_REQUEST_BYTES: Final = 8 * 1024

CaKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A CA's certificate and key."""

    certificate: x509.Certificate
    key: CaKey = field(repr=False)

    @property
    def cluster(self) -> str:
        """The cluster's name: the trust domain of all identities. 32 hexadecimal digits."""
        return cluster_of(self.certificate)

    @property
    def fingerprint(self) -> bytes:
        return fingerprint_of(self.certificate)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a member of the cluster shows in TLS, and the CA that it believes. Times are Unix seconds.

    `chain_pem` begins with the member's own certificate.
    """

    identity: PeerIdentity
    key_pem: bytes = field(repr=False)
    chain_pem: bytes = field(repr=False)
    ca_pem: bytes = field(repr=False)
    not_before: float
    not_after: float


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: CaKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint_of(certificate: x509.Certificate) -> bytes:
    """The SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` shows it."""
    return certificate.fingerprint(hashes.SHA256())


def key_sha256(certificate_or_request: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """The SHA-256 of a public key (DER, SubjectPublicKeyInfo)."""
    return _key_sha256(certificate_or_request.public_key())


def _key_sha256(key: object) -> bytes:
    assert hasattr(key, "public_bytes")
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(encoding, form)).digest()


def authorities_in(ca_pem: bytes) -> frozenset[bytes]:
    """The fingerprints of the CAs in a bundle, which `read_credentials` has read."""
    return frozenset(map(fingerprint_of, x509.load_pem_x509_certificates(ca_pem)))


def cluster_of(ca: x509.Certificate) -> str:
    """The name of the cluster that a CA makes (rule 4)."""
    return key_sha256(ca)[:16].hex()


def make_ca(now: datetime) -> CertificateAuthority:
    """A new CA, for ten years. It may issue no other CA."""
    key = new_key()
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"p2pd cluster {_key_sha256(key.public_key())[:4].hex()}")]
    )
    builder = (
        certificate_builder(name, name, key.public_key(), now, now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return CertificateAuthority(builder.sign(key, hashes.SHA256()), key)


def load_ca(certificate_pem: bytes, key_pem: bytes, now: datetime) -> CertificateAuthority:
    """A CA from its files. Raises CertificateError if they are not those of a CA that can issue now."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, None)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (*UNREADABLE, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise CertificateError(
            f"the CA cannot be read: {error}; PEM is expected, and a key without a password"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CertificateError("the CA's key is neither EC nor RSA")
    if _key_sha256(key.public_key()) != key_sha256(certificate):
        raise CertificateError("the CA's key is not that of its certificate")
    if not constraints.ca:
        raise CertificateError("the certificate is not that of a CA (basicConstraints has no CA:TRUE)")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise CertificateError(
            f"the CA's certificate is good from {certificate.not_valid_before_utc:%Y-%m-%d} to"
            f" {certificate.not_valid_after_utc:%Y-%m-%d}, and now it is {now:%Y-%m-%d}"
        )
    return CertificateAuthority(certificate, key)


def request_certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request (PEM) that shows the public key and that its sender has the private one."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def public_key_in(request_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a request (rule 1). Raises JoinRefusedError."""
    try:
        if len(request_pem) > MAX_REQUEST_BYTES:
            raise ValueError("it is too long")
        request = x509.load_pem_x509_csr(request_pem)
        key = request.public_key()
        signed = request.is_signature_valid
    except (*UNREADABLE, InvalidSignature):
        raise JoinRefusedError("request", "the certificate signing request cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise JoinRefusedError("request", "the certificate signing request has another kind of key than EC P-256")
    if not signed:
        raise JoinRefusedError("request", "the certificate signing request is not signed with its key")
    return key


def issue(
    ca: CertificateAuthority, identity: PeerIdentity, key: ec.EllipticCurvePublicKey, now: datetime, lifetime_s: float
) -> x509.Certificate:
    """A certificate for a member of the cluster, good for both ends of a connection."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.host or "scheduler")])
    ends = min(now + timedelta(seconds=lifetime_s), ca.certificate.not_valid_after_utc)
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    builder = (
        certificate_builder(name, ca.certificate.subject, key, now, ends)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_issuer_key(ca.certificate), critical=False)
    )
    return builder.sign(ca.key, hashes.SHA256())


def read_credentials(key_pem: bytes, chain_pem: bytes, ca_pem: bytes) -> Credentials:
    """Credentials from PEM: key, own certificate and those between it and the CA, CAs. Raises CertificateError."""
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
        key = serialization.load_pem_private_key(key_pem, None)
        authorities = x509.load_pem_x509_certificates(ca_pem)
        is_the_key = _key_sha256(key.public_key()) == key_sha256(leaf)
        begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc  # read when they are asked for
    except UNREADABLE as error:
        raise CertificateError(f"key, certificate or CA cannot be read as PEM: {error}") from None
    if not is_the_key:
        raise CertificateError("the key is not that of the certificate")
    assert authorities
    return Credentials(identity_in(leaf), key_pem, chain_pem, ca_pem, begins.timestamp(), ends.timestamp())


def moment(unix_s: float) -> datetime:
    """A point in time as X.509 writes it: whole seconds, UTC."""
    return datetime.fromtimestamp(int(unix_s), UTC)


def certificate_builder(
    name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    """What every certificate has, from `CLOCK_SKEW` before `now`."""
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(ends)
    )


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """The usage of a CA's key, or of a member's."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer_key(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        known = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        known = x509.SubjectKeyIdentifier.from_public_key(ca.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)
