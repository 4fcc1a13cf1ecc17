"""The certificates by which the HTTPS proxy stands for a host: an authority for that host alone, and what it issues.

Rules:
1. Each host has an authority of its own, which is constrained to the host's name (RFC 5280, section 4.2.1.10), and may
   issue no other authority. Whoever trusts it, trusts it for one host. So a list of upstreams that grows changes no
   authority that dockerd knows already.
2. All authorities have the node's one key.
3. A certificate for a host is issued when it is needed, for `LEAF_LIFETIME`, and stays in memory.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scheduler.trust.certificates import certificate_builder, key_to_pem, key_usage, new_key, to_pem

AUTHORITY_LIFETIME: Final = timedelta(days=3650)
LEAF_LIFETIME: Final = timedelta(days=30)
LEAF_RENEWED_AFTER: Final = timedelta(days=10)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate for a host, with its key, as PEM. It is to be replaced at `renew_at`."""

    key_pem: bytes = field(repr=False)
    chain_pem: bytes
    renew_at: datetime


def read_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The node's key. Raises ValueError."""
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not an EC key")  # noqa: TRY004  # the file is wrong, and no argument
    return key


def make_authority(key: ec.EllipticCurvePrivateKey, host: str, now: datetime) -> x509.Certificate:
    """The authority for `host`, a name or an address."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"p2pd HTTPS proxy for {host}"[:64])])
    constraints = x509.NameConstraints(permitted_subtrees=[_constraint(host)], excluded_subtrees=None)
    return (
        certificate_builder(name, name, key.public_key(), now, now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(constraints, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def is_authority(pem: bytes, key: ec.EllipticCurvePrivateKey, host: str, now: datetime) -> bool:
    """Whether `pem` is the authority of that key for that host, and goes on to be good for a leaf's lifetime."""
    if constrained_to(pem, host) is None:
        return False
    certificate = x509.load_pem_x509_certificate(pem)
    lasts = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - LEAF_LIFETIME
    return lasts and certificate.public_key() == key.public_key()


def constrained_to(pem: bytes, host: str) -> bytes | None:
    """The certificate in `pem` alone, if it is an authority that is constrained to `host`; else None."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return None
    is_it = names.critical and names.value.permitted_subtrees == [_constraint(host)]
    return to_pem(certificate) if is_it else None


def issue_leaf(authority_pem: bytes, key: ec.EllipticCurvePrivateKey, host: str, now: datetime) -> Leaf:
    """A new certificate for `host` with a key of its own."""
    authority = x509.load_pem_x509_certificate(authority_pem)
    own = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    certificate = (
        certificate_builder(name, authority.subject, own.public_key(), now, now + LEAF_LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_san(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Leaf(key_to_pem(own), to_pem(certificate), now + LEAF_RENEWED_AFTER)


def _san(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _constraint(host: str) -> x509.GeneralName:
    """What an authority is constrained to. A name stands for the names below it too: X.509 has no other constraint."""
    try:
        return x509.IPAddress(ipaddress.ip_network(host))
    except ValueError:
        return x509.DNSName(host)
