"""Makes trust of the settings: a scheduler's authority and admission, a host's credentials."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from p2pd.config.settings import Settings
from p2pd.config.values import ConfigError
from p2pd.daemon import logs
from p2pd.daemon.wiring import over_tls
from peer.trust.host_trust import HostTrust, Joining, Provided
from peer.trust.identity_files import IdentityFiles
from scheduler.shell.admission import Admission
from scheduler.trust.authority import Authority, OperatorCa
from scheduler.trust.directory import CertificateDirectory, CertificateFiles
from scheduler.trust.errors import TokenTextError, TrustError, UnsafeFileError
from scheduler.trust.files import make_private_directory
from scheduler.trust.ledger import Ledger
from scheduler.trust.sqlite_ledger import SqliteLedger
from scheduler.trust.token import JoinToken, parse_token

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
    if (open_shared := shared_ledger(settings)) is not None:
        shared = open_shared()
        try:
            yield shared
        finally:
            shared.close()
        return
    path = _directory(settings) / "ledger.db"
    if not path.exists():
        raise TrustError(f"there is no ledger in {path.parent}: start `p2pd scheduler` with this --data first")
    ledger = SqliteLedger.open(path)
    try:
        yield ledger
    finally:
        ledger.close()


ENDS_SOON: Final = 1 / 4
"""The part of a certificate's time in which it has to be renewed by now: hosts renew after two thirds."""


def ending_certificates(settings: Settings) -> frozenset[str]:
    """The hosts that should have renewed their certificates and have not, by the ledger of a scheduler. Blocks."""
    try:
        with opened_ledger(settings) as ledger:
            before = time.time() + ENDS_SOON * settings.certificate_ttl_s
            return frozenset(each.id for each in ledger.hosts() if each.expires < before)
    except TrustError:
        return frozenset()


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
    open_shared = shared_ledger(settings)
    ledger: Ledger = open_shared() if open_shared else SqliteLedger.open(_directory(settings) / "ledger.db")
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


def host_trust(settings: Settings) -> HostTrust:
    """The credentials of a host, got or to be got. Blocks. Raises TrustError, ConfigError."""
    kernel_tls, revoked = settings.pieces == "tls", settings.data / "identity" / "revoked"
    if settings.tls_dir is not None:
        provided = Provided(certificate_directory(settings, settings.tls_dir))
        return HostTrust(provided, revoked, kernel_tls=kernel_tls)
    if not settings.scheduler:
        raise ConfigError("a join token is for a cluster with a scheduler of its own: give scheduler too")
    token = _join_token(settings)
    files = IdentityFiles(settings.data, name=_host_name())
    if token is None and files.credentials() is None:
        raise ConfigError(
            "this host has no certificate: give join or join_file, with a token of `p2pd token create` beside the"
            " scheduler; or an http:// scheduler, for a cluster without certificates"
        )
    return HostTrust(Joining(files, token, over_tls(settings.scheduler)), revoked, kernel_tls=kernel_tls)


def _host_name() -> str:
    """The beginning of a host id."""
    return re.sub(r"[^A-Za-z0-9._-]", "", socket.gethostname())[:40] or "host"


def _join_token(settings: Settings) -> JoinToken | None:
    if settings.join_file is None:
        return parse_token(settings.join) if settings.join else None
    try:
        return parse_token(settings.join_file.read_bytes()[:4096].decode("ascii"))
    except OSError as error:
        raise ConfigError(f"join_file: {settings.join_file}: {error.strerror}") from None
    except (UnicodeDecodeError, TokenTextError):
        raise ConfigError(f"join_file: {settings.join_file} has no join token in it, p2pd1_…") from None


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
    authority = Authority.open(
        _directory(settings),
        time.time(),
        operator_ca=operator_ca,
        lifetime_s=settings.certificate_ttl_s,
        make=make,
        open_ledger=shared_ledger(settings),
    )
    try:
        authority.ledger.belongs_to(authority.cluster)
    except BaseException:
        authority.close()
        raise
    return authority


def shared_ledger(settings: Settings) -> Callable[[], Ledger] | None:
    """Opens the ledger that several schedulers share; None for the one in the data directory."""
    if settings.redis is None:
        return None
    from p2pd.daemon.several import place_of
    from scheduler.shared.redis_ledger import RedisLedger

    return partial(RedisLedger, place_of(settings))
