"""Tickets: what a host needs to get one blob from one seeding process.

Each process has a certificate authority of its own, made when it starts. A torrent names that authority as its root: a
peer without a certificate of it is refused in the TLS handshake, in which libtorrent also compares the certificate's
name with the torrent's. So a ticket opens one blob, at one process, as long as the process runs.

The daemon hands tickets out, and to whom is its decision (`peer.net.peer_server`).
"""

from __future__ import annotations

import datetime
from typing import Annotated, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import Meta, Struct

from peer.background.messages import MessageError

CLOCKS_DIFFER: Final = datetime.timedelta(days=1)
VALID: Final = CLOCKS_DIFFER + datetime.timedelta(days=1)
"""Longer than a process lives: a ticket for another process is worth nothing."""


class Ticket(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The UDP port, and in PEM the root of the torrent, and a certificate of it with its key."""

    port: Annotated[int, Meta(ge=1, le=65_535)]
    root: bytes
    certificate: bytes
    key: bytes

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)


def parse_ticket(data: bytes) -> Ticket:
    """What another host has sent. Raises MessageError."""
    try:
        return msgspec.msgpack.decode(data, type=Ticket)
    except (ValueError, RecursionError):
        raise MessageError("not a ticket") from None


class Authority:
    """The certificate authority of one process."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("p2pd background transport")
        self._certificate = self._signed(self._name, self._key.public_key(), ca=True)
        self.root = _pem(self._certificate)

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """A certificate for the torrent of this name, and its key, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return _pem(self._signed(_name(name), key.public_key(), ca=False)), secret

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCKS_DIFFER)
            .not_valid_after(now + VALID)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
            .sign(self._key, hashes.SHA256())
        )


def _name(text: str) -> x509.Name:
    """The common name of an X.509 certificate has up to 64 characters: as many as a SHA-256 in hexadecimal."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
