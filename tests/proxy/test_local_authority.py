"""The node's own authority: who believes it, for which hosts, and what of it is on the disk."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from proxy.core.host_certificates import (
    AUTHORITY_LIFETIME,
    LEAF_RENEWED_AFTER,
    constrained_to,
    issue_leaf,
    make_authority,
)
from proxy.local_authority import FOLDER, LocalAuthority, authority_file
from scheduler.trust.certificates import new_key, to_pem
from scheduler.trust.errors import UnsafeFileError
from scheduler.trust.tls import show

NOW = datetime.now(UTC)


def shakes_hands(server: ssl.SSLContext, authority_pem: bytes, host: str) -> None:
    """A client that trusts `authority_pem` alone talks to `host`. Raises ssl.SSLError."""
    client = ssl.create_default_context(cadata=authority_pem.decode())
    (to_server, from_server), (to_client, from_client) = ((ssl.MemoryBIO(), ssl.MemoryBIO()) for _ in range(2))
    one = client.wrap_bio(from_server, to_server, server_hostname=host)
    other = server.wrap_bio(to_server, from_server, server_side=True)
    del to_client, from_client
    done: set[object] = set()
    for _ in range(10):
        for end in (one, other):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                continue
        if len(done) == 2:
            return
    raise AssertionError("the handshake does not end")


def test_it_stands_for_the_host_and_for_no_other(tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    context = authority.context("quay.io")
    pem = authority_file(tmp_path, "quay.io").read_bytes()
    shakes_hands(context, pem, "quay.io")
    for host in ("ghcr.io", "evil.example", "io"):
        with pytest.raises(ssl.SSLCertVerificationError):
            shakes_hands(context, pem, host)
        with pytest.raises(ssl.SSLCertVerificationError):
            shakes_hands(authority.context("ghcr.io"), pem, host)


def test_a_certificate_for_another_host_is_not_believed_even_if_its_key_issued_it() -> None:
    """Who steals the key of the authority that dockerd trusts for one host."""
    key = new_key()
    pem = to_pem(make_authority(key, "quay.io", NOW))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf = issue_leaf(pem, key, "ghcr.io", NOW)
    show(context, leaf.key_pem, leaf.chain_pem)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shakes_hands(context, pem, "ghcr.io")


def test_an_address_is_a_host_too(tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    pem = authority_file(tmp_path, "10.0.0.7")
    context = authority.context("10.0.0.7")
    shakes_hands(context, pem.read_bytes(), "10.0.0.7")
    with pytest.raises(ssl.SSLCertVerificationError):
        shakes_hands(context, pem.read_bytes(), "10.0.0.8")


def test_it_stays_over_a_restart_and_is_closed_to_others(tmp_path: Path) -> None:
    LocalAuthority(tmp_path).prepare(["quay.io", "ghcr.io"])
    files = {file.name: file.read_bytes() for file in (tmp_path / FOLDER).iterdir()}
    assert set(files) == {"authority.key", "quay.io.crt", "ghcr.io.crt"}
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in (tmp_path / FOLDER).iterdir())
    assert stat.S_IMODE((tmp_path / FOLDER).stat().st_mode) == 0o700
    again = LocalAuthority(tmp_path)
    again.prepare(["quay.io", "ghcr.io", "registry.test"])
    assert {name: (tmp_path / FOLDER / name).read_bytes() for name in files} == files
    shakes_hands(again.context("quay.io"), files["quay.io.crt"], "quay.io")


def test_certificates_are_renewed_and_the_authority_in_time(tmp_path: Path) -> None:
    now = NOW
    authority = LocalAuthority(tmp_path, clock=lambda: now)
    first, pem = authority.context("quay.io"), authority_file(tmp_path, "quay.io").read_bytes()
    assert authority.context("quay.io") is first
    now += LEAF_RENEWED_AFTER
    assert authority.context("quay.io") is not first
    assert authority_file(tmp_path, "quay.io").read_bytes() == pem
    now = NOW + AUTHORITY_LIFETIME - timedelta(days=29)
    authority.context("quay.io")
    assert authority_file(tmp_path, "quay.io").read_bytes() != pem


@pytest.mark.parametrize("key", [b"", b"rubbish", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_key_is_told(tmp_path: Path, key: bytes) -> None:
    LocalAuthority(tmp_path)
    (tmp_path / FOLDER / "authority.key").write_bytes(key)
    with pytest.raises(UnsafeFileError, match=r"authority\.key is not the key"):
        LocalAuthority(tmp_path)


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    LocalAuthority(tmp_path)
    (tmp_path / FOLDER / "authority.key").chmod(0o644)
    with pytest.raises(UnsafeFileError, match="other users can reach"):
        LocalAuthority(tmp_path)


def test_only_an_authority_for_that_host_is_told_to_dockerd() -> None:
    """The daemon's user owns the file, and root writes what it has to where dockerd believes it."""
    key = new_key()
    pem = to_pem(make_authority(key, "quay.io", NOW))
    assert constrained_to(b"anything before\n" + pem + pem, "quay.io") == pem
    assert constrained_to(pem, "ghcr.io") is None
    assert constrained_to(b"root:x:0:0:", "quay.io") is None
    unbounded = x509.load_pem_x509_certificate(issue_leaf(pem, key, "quay.io", NOW).chain_pem)
    assert constrained_to(to_pem(unbounded), "quay.io") is None
