"""The authority: the cluster's CA on the disk, and what it decides about who gets a certificate.

    DIR/authority/ca.crt    the CA's certificate
    DIR/authority/ca.key    its key, 0600; absent with a CA of the operator's
    DIR/ledger.db           tokens and hosts (`ledger`); those of several schedulers are in Redis

The directory is made whole under another name and renamed, so two schedulers that start at once have one CA. Methods
block, for milliseconds: SQLite flushes.
"""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509

from scheduler.protocol.fields import HostId
from scheduler.trust import certificates
from scheduler.trust.certificates import CertificateAuthority, Credentials, moment
from scheduler.trust.errors import CertificateError, JoinRefusedError, TrustError, UnsafeFileError
from scheduler.trust.files import flush_directory, make_private_directory, read_private, read_public, write_private
from scheduler.trust.identity import PeerIdentity, Role
from scheduler.trust.ledger import Ledger
from scheduler.trust.sqlite_ledger import SqliteLedger
from scheduler.trust.token import ID_BYTES, SECRET_BYTES, JoinToken, new_token, parse_token

CERTIFICATE_S: Final = 86_400.0
"""The lifetime of a certificate."""


@dataclass(frozen=True, slots=True)
class OperatorCa:
    """The files of a CA that the operator brings."""

    certificate: Path
    key: Path


class Authority:
    """A CA with its ledger. Every method may be called from any thread. Times are Unix seconds."""

    def __init__(self, ca: CertificateAuthority, ledger: Ledger, *, lifetime_s: float) -> None:
        self._ca = ca
        self._lifetime_s = lifetime_s
        self.ledger = ledger
        self.ca_pem: Final = certificates.to_pem(ca.certificate)
        self.cluster: Final = ca.cluster

    @classmethod
    def open(
        cls,
        directory: Path,
        now: float,
        *,
        operator_ca: OperatorCa | None = None,
        lifetime_s: float = CERTIFICATE_S,
        make: bool = True,
        open_ledger: Callable[[], Ledger] | None = None,
    ) -> Authority:
        """The authority in a directory, made there if there is none and `make` says so. Raises TrustError.

        The ledger is in the directory too, unless `open_ledger` opens another.
        """
        has_ca = operator_ca is not None or (directory / "authority").is_dir()
        is_there = (directory / "ledger.db").exists() if open_ledger is None else has_ca
        if not make and not is_there:
            raise TrustError(f"there is no authority in {directory}: start `p2pd scheduler` with this --data first")
        make_private_directory(directory)
        ca = _ca_of(operator_ca, now) if operator_ca else _own_ca(directory / "authority", now)
        ledger = open_ledger() if open_ledger else SqliteLedger.open(directory / "ledger.db")
        return cls(ca, ledger, lifetime_s=lifetime_s)

    def close(self) -> None:
        self.ledger.close()

    def create_token(self, *, note: str, ttl_s: float | None, uses: int | None, now: float) -> JoinToken:
        """A new token. None is no bound. Its secret is in the result, and nowhere else."""
        token = new_token(secrets.token_bytes(ID_BYTES + SECRET_BYTES), self._ca.fingerprint)
        self.ledger.add_token(token, note, None if ttl_s is None else now + ttl_s, uses, now)
        return token

    def enroll(self, token_text: str, host: str, request_pem: bytes, now: float) -> bytes:
        """A first certificate (PEM) for the bearer of a token. Raises JoinRefusedError."""
        try:
            token = parse_token(token_text)
            identity = self._host_identity(host)
        except TrustError as error:
            raise JoinRefusedError("request", str(error)) from None
        self.ledger.check_token(token, now)  # a stranger's request is not even read
        certificate = self._issue(identity, request_pem, now)
        self.ledger.admit(token, host, *_facts(certificate), now)
        return certificates.to_pem(certificate)

    def renew(self, identity: PeerIdentity, request_pem: bytes, now: float) -> bytes:
        """A new certificate (PEM) for the holder of one, with the same key. Raises JoinRefusedError."""
        if identity.role is not Role.HOST:
            raise JoinRefusedError("role", "only hosts renew their certificates here")
        certificate = self._issue(identity, request_pem, now)
        self.ledger.renew(identity.host, *_facts(certificate), now)
        return certificates.to_pem(certificate)

    def scheduler_credentials(self, now: float) -> Credentials:
        """A key and a certificate for the scheduler itself, which live in memory alone."""
        key = certificates.new_key()
        identity = PeerIdentity(self.cluster, Role.SCHEDULER)
        certificate = certificates.issue(self._ca, identity, key.public_key(), moment(now), self._lifetime_s)
        return certificates.read_credentials(
            certificates.key_to_pem(key), certificates.to_pem(certificate), self.ca_pem
        )

    def _issue(self, identity: PeerIdentity, request_pem: bytes, now: float) -> x509.Certificate:
        key = certificates.public_key_in(request_pem)
        return certificates.issue(self._ca, identity, key, moment(now), self._lifetime_s)

    def _host_identity(self, host: str) -> PeerIdentity:
        try:
            msgspec.convert(host, HostId)
        except msgspec.ValidationError:
            raise TrustError("a host id has 1 to 64 letters, digits, dots, underscores and dashes") from None
        if host in (".", ".."):
            raise TrustError(f"a host id cannot be {host}")
        return PeerIdentity(self.cluster, Role.HOST, host)


def _facts(certificate: x509.Certificate) -> tuple[bytes, str, float]:
    """What the ledger keeps: the SHA-256 of the key, the serial number, the end."""
    ends = certificate.not_valid_after_utc.timestamp()
    return certificates.key_sha256(certificate), f"{certificate.serial_number:x}", ends


def _ca_of(files: OperatorCa, now: float) -> CertificateAuthority:
    try:
        return certificates.load_ca(read_public(files.certificate), read_private(files.key), moment(now))
    except FileNotFoundError as error:
        raise UnsafeFileError(f"{error.filename} does not exist") from None
    except CertificateError as error:
        raise CertificateError(f"{files.certificate}: {error}") from None


def _own_ca(directory: Path, now: float) -> CertificateAuthority:
    if not directory.is_dir():
        _make_ca(directory, now)
    make_private_directory(directory)
    return _ca_of(OperatorCa(directory / "ca.crt", directory / "ca.key"), now)


def _make_ca(directory: Path, now: float) -> None:
    partial = directory.with_name(f".{directory.name}.{secrets.token_hex(6)}")
    ca = certificates.make_ca(moment(now))
    make_private_directory(partial)
    try:
        write_private(partial / "ca.key", certificates.key_to_pem(ca.key))
        write_private(partial / "ca.crt", certificates.to_pem(ca.certificate))
        partial.rename(directory)
        flush_directory(directory.parent)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # else another scheduler was first
            raise UnsafeFileError(f"{directory} cannot be made: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
