"""This host's identity on the disk.

    DIR/identity/host-id       the host id, made with the key
    DIR/identity/host.key      the private key, which never leaves this directory
    DIR/identity/host.crt      the certificate
    DIR/identity/ca.crt        the CA that issued it, which the join token pinned
    DIR/identity/machine.json  the machine that all this belongs to (`machine`)

Rules:
1. A host id and a key belong together and are made together: no other host can take the id without the key.
2. On another machine everything is discarded, and the host is a new one. Else two machines would have one identity.
3. The certificate is written last: with it, all is there.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Final

import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from peer.trust.machine import Marks, is_same_machine, read_marks
from scheduler.trust import certificates
from scheduler.trust.certificates import Credentials
from scheduler.trust.errors import CertificateError, UnsafeFileError
from scheduler.trust.files import make_private_directory, read_private, read_public, write_private
from scheduler.trust.identity import Role

log = structlog.get_logger("peer.trust")

_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_FILES: Final = ("host.crt", "ca.crt", "host.key", "host-id", "machine.json")


class IdentityFiles:
    """The identity of this host in the data directory `data`. Methods block."""

    def __init__(self, data: Path, *, name: str, marks: Marks | None = None) -> None:
        """`name` is the beginning of a new host id. `marks` are those of this machine. Raises UnsafeFileError."""
        self._directory: Final = data / "identity"
        self._marks = read_marks() if marks is None else marks
        make_private_directory(self._directory)
        if self._is_of_another_machine():
            log.warning("this disk was cloned: the identity on it is another machine's, and this host asks anew")
            self.discard()
        if not self._exists():
            self._make(name)
        self.host: Final = self._host_id()
        self.key_pem: Final = read_private(self._directory / "host.key")
        self.key: Final = self._key()

    def credentials(self) -> Credentials | None:
        """Key and certificate, if the host has one. Raises UnsafeFileError; what cannot be used counts as none."""
        try:
            chain, ca = read_public(self._directory / "host.crt"), read_public(self._directory / "ca.crt")
        except FileNotFoundError:
            return None
        try:
            credentials = certificates.read_credentials(self.key_pem, chain, ca)
            self._check(credentials)
        except CertificateError as error:
            log.warning("the certificate on the disk cannot be used: this host asks anew", reason=str(error))
            return None
        return credentials

    def save(self, chain_pem: bytes, ca_pem: bytes) -> Credentials:
        """Keep a certificate that the authority gave. Raises CertificateError, UnsafeFileError."""
        credentials = certificates.read_credentials(self.key_pem, chain_pem, ca_pem)
        self._check(credentials)
        write_private(self._directory / "ca.crt", ca_pem)
        write_private(self._directory / "host.crt", chain_pem)
        return credentials

    def discard(self) -> None:
        """Remove key, certificate and host id. Raises UnsafeFileError."""
        try:
            for name in _FILES:
                (self._directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise UnsafeFileError(f"{self._directory} cannot be emptied: {error.strerror}") from None

    def _check(self, credentials: Credentials) -> None:
        identity = credentials.identity
        if identity.role is not Role.HOST or identity.host != self.host:
            raise CertificateError(f"the certificate is that of {identity}, and this is host {self.host}")

    def _is_of_another_machine(self) -> bool:
        try:
            told = json.loads(read_private(self._directory / "machine.json"))
            then = {str(kind): frozenset(map(str, marks)) for kind, marks in told.items()}
        except FileNotFoundError:
            return False
        except (ValueError, AttributeError, TypeError):
            raise UnsafeFileError(f"{self._directory / 'machine.json'} is damaged: remove {self._directory}") from None
        return not is_same_machine(then, self._marks)

    def _exists(self) -> bool:
        return all((self._directory / name).exists() for name in ("machine.json", "host-id", "host.key"))

    def _make(self, name: str) -> None:
        self.discard()
        marks = {kind: sorted(hashes) for kind, hashes in self._marks.items()}
        write_private(self._directory / "machine.json", json.dumps(marks).encode())
        write_private(self._directory / "host-id", f"{name[:40]}-{secrets.token_hex(8)}\n".encode())
        write_private(self._directory / "host.key", certificates.key_to_pem(certificates.new_key()))

    def _host_id(self) -> str:
        raw = read_private(self._directory / "host-id").strip()
        if _ID.fullmatch(raw) is None:
            raise UnsafeFileError(f"{self._directory / 'host-id'} is damaged: remove {self._directory}")
        return raw.decode()

    def _key(self) -> ec.EllipticCurvePrivateKey:
        try:
            key = serialization.load_pem_private_key(self.key_pem, None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UnsafeFileError(f"{self._directory / 'host.key'} is damaged: remove {self._directory}")
        return key
