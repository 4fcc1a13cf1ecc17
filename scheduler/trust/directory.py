"""Certificates of the operator's own: a directory that cert-manager, SPIFFE or a person fills.

Rules:
1. The names in the certificate are the same as in ours (`identity`): the one URI is spiffe://DOMAIN/host/ID or
   spiffe://DOMAIN/scheduler, and the cluster is the trust domain. With cert-manager that is `uris` of a Certificate.
   Other names beside the URI are allowed, and not looked at.
2. Links are followed and modes are not checked: a Secret's mount is made of links, and belongs to root.
3. The directory is looked at every few seconds. What has changed is read anew; what cannot be used is logged once, and
   the credentials before it stay. A Secret's files change all at once, behind a link, and files that are read while
   that happens do not fit together: they are read again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scheduler.trust.certificates import Credentials, read_credentials
from scheduler.trust.errors import CertificateError, UnsafeFileError
from scheduler.trust.files import MAX_FILE_BYTES

ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """The names of the files: cert-manager's, or for example svid.pem, svid_key.pem and svid_bundle.pem."""

    chain: str = "tls.crt"
    key: str = "tls.key"
    ca: str = "ca.crt"


_Seen = tuple[tuple[int, int, int, int], ...]


class CertificateDirectory:
    """Credentials in a directory. Methods block."""

    def __init__(self, directory: Path, files: CertificateFiles | None = None) -> None:
        names = files or CertificateFiles()
        self._directory = directory
        self._paths = (directory / names.key, directory / names.chain, directory / names.ca)
        self._seen: _Seen = ()

    def read(self) -> Credentials:
        """The credentials that are there now. Raises UnsafeFileError, CertificateError."""
        for attempt in range(ATTEMPTS):
            self._seen = self._look()
            try:
                credentials = read_credentials(*map(self._content, self._paths))
            except CertificateError as error:
                if attempt + 1 < ATTEMPTS and self._look() != self._seen:
                    continue
                raise CertificateError(f"{self._directory}: {error}") from None
            if self._look() == self._seen:
                return credentials
        raise CertificateError(f"{self._directory} changes all the time")

    def changed(self) -> bool:
        """Whether the files are others than those that were read last."""
        return self._look() != self._seen

    def _look(self) -> _Seen:
        return tuple(_identity(path) for path in self._paths)

    def _content(self, path: Path) -> bytes:
        try:
            if path.exists() and not path.is_file():  # to open a pipe would wait for who writes to it
                raise UnsafeFileError(f"{path} is not a file of PEM")
            with path.open("rb") as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise UnsafeFileError(f"{path} cannot be read: {error.strerror}") from None
        if len(content) > MAX_FILE_BYTES:
            raise UnsafeFileError(f"{path} is not a file of PEM")
        return content


def _identity(path: Path) -> tuple[int, int, int, int]:
    """What is another number when the file is another, through links."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0, 0)
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
