"""The authority's directory, and what it grants."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from scheduler.trust import certificates
from scheduler.trust.authority import Authority, OperatorCa
from scheduler.trust.errors import CertificateError, JoinRefusedError, TrustError, UnsafeFileError
from scheduler.trust.identity import PeerIdentity, Role, identity_in
from scheduler.trust.token import JoinToken
from tests.trust.fixtures import CA, HOUR, NOW, OTHER_CA

KEY = certificates.new_key()
REQUEST = certificates.request_certificate(KEY)


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    opened = Authority.open(tmp_path / "data", NOW, lifetime_s=HOUR)
    yield opened
    opened.close()


def token_of(authority: Authority) -> JoinToken:
    return authority.create_token(note="", ttl_s=None, uses=None, now=NOW)


def test_a_host_joins_and_renews(authority: Authority) -> None:
    token = token_of(authority)
    first = x509.load_pem_x509_certificate(authority.enroll(token.text, "a", REQUEST, NOW))
    assert identity_in(first) == PeerIdentity(authority.cluster, Role.HOST, "a")
    second = x509.load_pem_x509_certificate(authority.renew(identity_in(first), REQUEST, NOW + 1000))
    assert identity_in(second) == identity_in(first)
    assert second.serial_number != first.serial_number
    (host,) = authority.ledger.hosts()
    assert (host.token, host.serial, host.expires) == (token.id, f"{second.serial_number:x}", NOW + 1000 + HOUR)


def test_the_token_pins_the_ca(authority: Authority) -> None:
    ca = x509.load_pem_x509_certificate(authority.ca_pem)
    assert token_of(authority).ca_fingerprint == certificates.fingerprint_of(ca)


@pytest.mark.parametrize("host", ["", ".", "..", "a/b", "a b", "é", "a" * 65, "scheduler/../host/b"])
def test_a_name_that_is_no_host_id_is_refused(authority: Authority, host: str) -> None:
    with pytest.raises(JoinRefusedError) as caught:
        authority.enroll(token_of(authority).text, host, REQUEST, NOW)
    assert caught.value.reason == "request"
    assert authority.ledger.hosts() == []


def test_what_is_no_token_or_no_request_is_refused(authority: Authority) -> None:
    for text, request in [("p2pd1_", REQUEST), (token_of(authority).text, b"")]:
        with pytest.raises(JoinRefusedError):
            authority.enroll(text, "a", request, NOW)
    with pytest.raises(JoinRefusedError, match="only hosts"):
        authority.renew(PeerIdentity(authority.cluster, Role.SCHEDULER), REQUEST, NOW)


def test_the_request_of_a_stranger_is_not_even_read(authority: Authority) -> None:
    token = token_of(authority)
    stranger = JoinToken(token.id, bytes(20), token.ca_fingerprint)
    with pytest.raises(JoinRefusedError) as caught:
        authority.enroll(stranger.text, "a", b"no request", NOW)
    assert caught.value.reason == "token"


def test_a_refused_request_takes_no_use(authority: Authority) -> None:
    token = authority.create_token(note="", ttl_s=None, uses=1, now=NOW)
    with pytest.raises(JoinRefusedError):
        authority.enroll(token.text, "a", b"no request", NOW)
    assert authority.enroll(token.text, "a", REQUEST, NOW)


def test_it_is_the_same_after_a_restart(tmp_path: Path, authority: Authority) -> None:
    token = token_of(authority)
    again = Authority.open(tmp_path / "data", NOW, make=False)
    assert (again.cluster, again.ca_pem) == (authority.cluster, authority.ca_pem)
    assert again.enroll(token.text, "a", REQUEST, NOW)
    again.close()


def test_schedulers_that_start_at_once_have_one_ca(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        opened = list(threads.map(lambda _: Authority.open(tmp_path / "data", NOW), range(8)))
    assert len({each.cluster for each in opened}) == 1
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "authority",
        "ledger.db",
        "ledger.db-shm",
        "ledger.db-wal",
    ]
    for each in opened:
        each.close()


def test_its_files_are_for_nobody_else(tmp_path: Path, authority: Authority) -> None:
    assert authority.cluster
    for path in (tmp_path / "data").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_key_that_others_can_reach_is_not_used(tmp_path: Path, authority: Authority) -> None:
    authority.close()
    key = tmp_path / "data/authority/ca.key"
    key.chmod(0o640)
    with pytest.raises(UnsafeFileError, match=r"chmod 600 .*ca\.key"):
        Authority.open(tmp_path / "data", NOW)
    key.rename(tmp_path / "elsewhere")
    key.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFileError, match="links"):
        Authority.open(tmp_path / "data", NOW)
    key.unlink()
    with pytest.raises(UnsafeFileError, match="does not exist"):
        Authority.open(tmp_path / "data", NOW)
    (tmp_path / "data").chmod(0o755)
    with pytest.raises(UnsafeFileError, match="chmod 700"):
        Authority.open(tmp_path / "data", NOW)


def test_a_link_as_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "target")
    with pytest.raises(UnsafeFileError, match="links"):
        Authority.open(tmp_path / "data", NOW)
    assert list((tmp_path / "target").iterdir()) == []


def test_commands_make_no_authority(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="start `p2pd scheduler`"):
        Authority.open(tmp_path / "data", NOW, make=False)
    assert not (tmp_path / "data").exists()


def test_the_operators_ca_takes_the_place_of_ours(tmp_path: Path) -> None:
    files = OperatorCa(tmp_path / "ca.crt", tmp_path / "ca.key")
    files.certificate.write_bytes(certificates.to_pem(CA.certificate))
    files.key.write_bytes(certificates.key_to_pem(CA.key))
    files.key.chmod(0o600)
    authority = Authority.open(tmp_path / "data", NOW, operator_ca=files)
    assert authority.cluster == CA.cluster
    assert not (tmp_path / "data/authority").exists()
    authority.close()
    files.certificate.write_bytes(certificates.to_pem(OTHER_CA.certificate))
    with pytest.raises(CertificateError, match=r"ca\.crt: the CA's key is not that"):
        Authority.open(tmp_path / "data", NOW, operator_ca=files)


def test_the_schedulers_own_certificate_is_the_schedulers(authority: Authority) -> None:
    own = authority.scheduler_credentials(NOW)
    assert own.identity == PeerIdentity(authority.cluster, Role.SCHEDULER)
    assert own.not_after == NOW + HOUR
