"""Makes trust of the settings: a scheduler's authority and admission, a host's credentials."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from p2pd.config.settings import Settings, open_listeners
from p2pd.daemon import logs
from scheduler.shell.admission import Admission
from scheduler.trust.authority import Authority, OperatorCa
from scheduler.trust.directory import CertificateDirectory, CertificateFiles
from scheduler.trust.errors import TrustError, UnsafeFileError
from scheduler.trust.files import make_private_directory
from scheduler.trust.ledger import Ledger

log = logs.get("p2pd.trust")


@contextmanager
def opened_authority(settings: Settings) -> Iterator[Authority]:
    """The authority of a scheduler that has run, for a command beside it. Raises TrustError."""
    authority = _authority(settings, make=False)
    try:
        yield authority
    finally:
        authority.close()


@contextmanager
def opened_ledger(settings: Settings) -> Iterator[Ledger]:
    """The ledger of a scheduler that has run, for a command beside it. Raises TrustError."""
    path = _directory(settings) / "ledger.db"
    if not path.exists():
        raise TrustError(f"there is no ledger in {path.parent}: start `p2pd scheduler` with this --data first")
    ledger = Ledger.open(path)
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def admission(settings: Settings) -> Iterator[Admission]:
    """The admission of a scheduler that starts. Raises TrustError."""
    if settings.tls_dir is None:
        authority = _authority(settings, make=True)
        try:
            yield Admission(authority, None, authority.ledger)
        finally:
            authority.close()
        return
    make_private_directory(_directory(settings))
    ledger = Ledger.open(_directory(settings) / "ledger.db")
    try:
        yield Admission(None, certificate_directory(settings, settings.tls_dir), ledger)
    finally:
        ledger.close()


@contextmanager
def admission_or_none(settings: Settings, *, may_lack: bool) -> Iterator[Admission | None]:
    """The admission; None if the data directory cannot be used and `may_lack` it: on loopback, or with `allow_open`.

    So a scheduler that served open clusters before there were certificates starts as it did. Raises TrustError.
    """
    with ExitStack() as stack:
        try:
            admitting = stack.enter_context(admission(settings))
        except UnsafeFileError as error:
            if not may_lack or settings.tls_dir is not None or settings.ca_cert is not None:
                raise
            log.warning("no CA can be kept: hosts are served without certificates", reason=str(error))
            admitting = None
        yield admitting


def tell_open(settings: Settings, names: Collection[str]) -> None:
    """Log what it means that these listeners are open to other machines, as `allow_open` lets them be."""
    for name, stake in open_listeners(settings, names, () if settings.allow_open else ["listen"]).items():
        log.warning("open to anyone who reaches it", key=name, address=str(getattr(settings, name)), stake=stake)


def certificate_directory(settings: Settings, directory: Path) -> CertificateDirectory:
    """A directory with certificates that another system writes."""
    chain, key, ca = settings.tls_files
    return CertificateDirectory(directory, CertificateFiles(chain=chain, key=key, ca=ca))


def _directory(settings: Settings) -> Path:
    return settings.data / "scheduler"


def _authority(settings: Settings, *, make: bool) -> Authority:
    operator_ca = None
    if settings.ca_cert is not None and settings.ca_key is not None:
        operator_ca = OperatorCa(settings.ca_cert, settings.ca_key)
    return Authority.open(
        _directory(settings), time.time(), operator_ca=operator_ca, lifetime_s=settings.certificate_ttl_s, make=make
    )
