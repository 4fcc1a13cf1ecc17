"""A host's identity on the disk: it belongs to one machine, and to one key."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.trust.identity_files import IdentityFiles
from peer.trust.machine import Marks, is_same_machine, read_marks
from peer.trust.schedule import RETRY_MOST_S, renew_at, retry_after_s
from scheduler.trust import certificates
from scheduler.trust.certificates import moment
from scheduler.trust.errors import CertificateError, UnsafeFileError
from tests.trust.fixtures import CA, HOUR, NOW, credentials, host

HERE: Marks = {"machine-id": frozenset({"1"}), "network-cards": frozenset({"a", "b"}), "product-uuid": frozenset()}
CLONE: Marks = {"machine-id": frozenset({"1"}), "network-cards": frozenset({"c"}), "product-uuid": frozenset()}
CA_PEM = certificates.to_pem(CA.certificate)


def files_in(data: Path, marks: Marks = HERE) -> IdentityFiles:
    return IdentityFiles(data, name="node", marks=marks)


def certificate_for(files: IdentityFiles) -> bytes:
    issued = certificates.issue(CA, host(files.host), files.key.public_key(), moment(NOW), HOUR)
    return certificates.to_pem(issued)


def test_the_identity_outlives_a_restart(tmp_path: Path) -> None:
    first = files_in(tmp_path)
    assert first.credentials() is None
    assert first.host.startswith("node-")
    saved = first.save(certificate_for(first), CA_PEM)
    again = files_in(tmp_path)
    assert again.credentials() == saved
    assert (again.host, again.key_pem) == (first.host, first.key_pem)


def test_a_clone_is_a_new_host(tmp_path: Path) -> None:
    first = files_in(tmp_path / "a")
    first.save(certificate_for(first), CA_PEM)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    clone = files_in(tmp_path / "b", CLONE)
    assert clone.credentials() is None
    assert clone.host != first.host
    assert clone.key_pem != first.key_pem
    assert files_in(tmp_path / "b", CLONE).host == clone.host, "and from then on it is itself"
    assert files_in(tmp_path / "a").credentials() is not None


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (HERE, True),
        (CLONE, False),
        ({**HERE, "machine-id": frozenset({"2"})}, False),
        ({**HERE, "network-cards": frozenset({"b", "c"})}, True),  # one card was changed
        ({**HERE, "network-cards": frozenset()}, True),
        ({**HERE, "product-uuid": frozenset({"u"})}, True),  # it runs as root now
        ({}, True),
    ],
)
def test_which_machine_it_is(now: Marks, same: bool) -> None:
    assert is_same_machine(HERE, now) == same


def test_what_marks_a_machine(tmp_path: Path) -> None:
    assert read_marks(tmp_path) == {kind: frozenset() for kind in ("machine-id", "product-uuid", "network-cards")}
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("uninitialized\n")
    assert not read_marks(tmp_path)["machine-id"]
    (tmp_path / "etc/machine-id").write_text("3d1219c7c4c5404aaa1f6d2a48adfda4\n")
    for name, address in (("eth0", "52:54:00:12:34:56"), ("lo", "00:00:00:00:00:00"), ("veth1", "aa:bb:cc:dd:ee:ff")):
        (card := tmp_path / "sys/class/net" / name).mkdir(parents=True)
        (card / "address").write_text(address)
        if name != "veth1":
            (card / "device").mkdir()
    marks = read_marks(tmp_path)
    assert [len(marks[kind]) for kind in ("machine-id", "product-uuid", "network-cards")] == [1, 0, 1]
    assert "3d1219c7c4c5404aaa1f6d2a48adfda4" not in str(marks), "machine-id(5) asks to keep it to oneself"


def test_its_files_are_for_nobody_else(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    files.save(certificate_for(files), CA_PEM)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes.pop("identity") == 0o700
    assert set(modes.values()) == {0o600}
    (tmp_path / "identity/host.key").chmod(0o644)
    with pytest.raises(UnsafeFileError, match="chmod 600"):
        files_in(tmp_path)


def test_the_certificate_of_another_is_not_kept(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    other = credentials(host("other"))
    with pytest.raises(CertificateError, match="the key is not that"):
        files.save(other.chain_pem, CA_PEM)
    issued = certificates.issue(CA, host("other"), files.key.public_key(), moment(NOW), HOUR)
    with pytest.raises(CertificateError, match="is that of host other, and this is host node-"):
        files.save(certificates.to_pem(issued), CA_PEM)
    assert files.credentials() is None


@pytest.mark.parametrize("name", ["host.key", "host-id", "machine.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    files_in(tmp_path)
    (tmp_path / "identity" / name).write_bytes(b"\xff damaged")
    with pytest.raises(UnsafeFileError, match=f"{name} is damaged: remove"):
        files_in(tmp_path)


@pytest.mark.parametrize("name", ["host.key", "host-id", "machine.json"])
def test_what_is_not_whole_is_made_anew(tmp_path: Path, name: str) -> None:
    """As after a power cut in the middle of the making, or a key that somebody removed."""
    before = files_in(tmp_path)
    before.save(certificate_for(before), CA_PEM)
    (tmp_path / "identity" / name).unlink()
    after = files_in(tmp_path)
    assert after.host != before.host
    assert after.credentials() is None


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_a_certificate_that_cannot_be_used_counts_as_none(tmp_path: Path, content: bytes) -> None:
    files = files_in(tmp_path)
    files.save(certificate_for(files), CA_PEM)
    (tmp_path / "identity/host.crt").write_bytes(content)
    assert files.credentials() is None


@given(st.floats(0, 1), st.floats(10, 1e7))
def test_a_certificate_is_renewed_in_time_and_not_by_all_at_once(chance: float, lifetime_s: float) -> None:
    held = credentials(host("a"), lifetime_s=lifetime_s)
    at = renew_at(held, chance)
    assert NOW + 0.55 * (held.not_after - NOW) <= at <= NOW + 0.67 * (held.not_after - NOW)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_failures_are_tried_again_ever_more_slowly(failures: int, chance: float) -> None:
    assert 0.5 <= retry_after_s(failures, chance) <= RETRY_MOST_S
    assert retry_after_s(failures + 1, 0.0) >= retry_after_s(failures, 0.0)
