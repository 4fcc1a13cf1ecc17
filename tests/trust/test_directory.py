"""Certificates of the operator's own, also as Kubernetes mounts a Secret: all files change at once, behind a link."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scheduler.trust.certificates import Credentials
from scheduler.trust.directory import CertificateDirectory, CertificateFiles
from scheduler.trust.errors import CertificateError, UnsafeFileError
from scheduler.trust.files import read_private
from tests.trust.fixtures import credentials, host

ONE, OTHER = credentials(host("a")), credentials(host("a"))


def fill(directory: Path, content: Credentials, names: tuple[str, str, str] = ("tls.crt", "tls.key", "ca.crt")) -> None:
    directory.mkdir(exist_ok=True)
    for name, part in zip(names, (content.chain_pem, content.key_pem, content.ca_pem), strict=True):
        (directory / name).write_bytes(part)


def mount(secret: Path, version: str, content: Credentials) -> None:
    """As kubelet does: a directory of each version, and a link that is replaced at once."""
    secret.mkdir(exist_ok=True)
    fill(secret / version, content)
    (link := secret / "..new").symlink_to(version)
    link.rename(secret / "..data")
    for name in ("tls.crt", "tls.key", "ca.crt"):
        if not (secret / name).is_symlink():
            (secret / name).symlink_to(f"..data/{name}")


def test_a_secrets_mount_is_read_again_when_it_changes(tmp_path: Path) -> None:
    mount(tmp_path / "secret", "v1", ONE)
    directory = CertificateDirectory(tmp_path / "secret")
    assert directory.read() == ONE
    assert not directory.changed()
    mount(tmp_path / "secret", "v2", OTHER)
    assert directory.changed()
    assert directory.read() == OTHER
    assert not directory.changed()


def test_the_names_of_spiffe_helper(tmp_path: Path) -> None:
    fill(tmp_path, ONE, ("svid.pem", "svid_key.pem", "svid_bundle.pem"))
    names = CertificateFiles("svid.pem", "svid_key.pem", "svid_bundle.pem")
    assert CertificateDirectory(tmp_path, names).read() == ONE


def test_what_does_not_fit_together_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFileError, match=r"tls\.key cannot be read: No such file"):
        CertificateDirectory(tmp_path).read()
    fill(tmp_path, ONE)
    (tmp_path / "tls.key").write_bytes(OTHER.key_pem)
    directory = CertificateDirectory(tmp_path)
    with pytest.raises(CertificateError, match="the key is not that of the certificate"):
        directory.read()
    (tmp_path / "tls.crt").write_bytes(OTHER.chain_pem)
    assert directory.changed()
    assert directory.read() == OTHER


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["a directory", "a pipe"])
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A mount of a file that is not there makes a directory; to open a pipe waits for who writes to it."""
    fill(tmp_path, ONE)
    (tmp_path / "tls.key").unlink()
    make(tmp_path / "tls.key")
    with pytest.raises(UnsafeFileError, match="not a file"):
        CertificateDirectory(tmp_path).read()
    with pytest.raises(UnsafeFileError, match="not a file"):
        read_private(tmp_path / "tls.key")
