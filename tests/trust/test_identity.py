"""Who a peer is: only what a certificate of this cluster says, now."""

from __future__ import annotations

from contextlib import suppress

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.trust.errors import CertificateError, CertificateExpiredError
from scheduler.trust.identity import (
    MAX_CERTIFICATE_BYTES,
    PeerIdentity,
    Role,
    expect_host,
    expect_scheduler,
    identity_from_der,
    identity_in,
    parse_uri,
)
from tests.trust.fixtures import CA, HOUR, NOW, OTHER_CA, certificate, credentials, host, scheduler

HOST_IDS = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True).filter(lambda name: name not in (".", ".."))


def der(uris: list[str], *, ca: bool = False) -> bytes:
    return certificate(uris, ca=ca).public_bytes(serialization.Encoding.DER)


GOOD = der([host("a").uri])


@given(HOST_IDS)
def test_a_uri_is_read_again(name: str) -> None:
    assert parse_uri(host(name).uri) == host(name)
    assert parse_uri(scheduler().uri) == scheduler()


@given(st.text() | st.from_regex(r"spiffe://[a-z.]*/(host/)?.*"))
def test_any_uri_is_an_identity_or_our_error(uri: str) -> None:
    with suppress(CertificateError):
        assert parse_uri(uri).uri == uri


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # not positive: `cryptography` is to refuse it later
@given(st.binary() | st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)))
@example(change=(15, 128))  # a serial number below 0
def test_any_bytes_are_an_identity_or_our_error(change: bytes | tuple[int, int]) -> None:
    raw = change if isinstance(change, bytes) else GOOD[: change[0]] + bytes([change[1]]) + GOOD[change[0] + 1 :]
    with suppress(CertificateError):
        assert isinstance(identity_from_der(raw, CA.cluster, NOW), PeerIdentity)


@pytest.mark.parametrize(
    "uri",
    [
        "SPIFFE://c/host/a",
        "spiffe://C/host/a",
        "spiffe://c/host/%61",
        "spiffe://c/host/a#",
        "spiffe://c//host/a",
        "spiffe://u@c/scheduler",
        "spiffe://c/Scheduler",
        "spiffe://c/host/",
        "spiffe://c/host/.",
        "spiffe://c/host/..",
        "spiffe://c/host/a/b",
        "spiffe://c/host/a%2e",
        "spiffe://c/scheduler/",
        "spiffe://c/scheduler/host/a",
        "spiffe://c/ns/x/sa/scheduler",
        "spiffe://C/scheduler",
        "spiffe:///scheduler",
        "https://c/scheduler",
        "spiffe://c:1/scheduler",
        "spiffe://c/host/a?b",
        "spiffe://c/host/a\n",
        f"spiffe://c/host/{'a' * 65}",
    ],
)
def test_a_uri_that_is_no_identity(uri: str) -> None:
    with pytest.raises(CertificateError):
        parse_uri(uri)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (None, "no certificate"),
        (b"", "cannot be read"),
        (b"0" * (MAX_CERTIFICATE_BYTES + 1), "not read"),
        (der([]), "no identity"),
        (der([host("a").uri, host("b").uri]), "2 URIs"),
        (der([host("a").uri, scheduler().uri]), "2 URIs"),
        (der(["https://a.example/"]), "not of the form"),
        (der([host("a").uri], ca=True), "authority"),
        (der([host("a", OTHER_CA).uri]), "of the cluster"),
    ],
)
def test_a_certificate_that_is_nobodys(raw: bytes | None, reason: str) -> None:
    with pytest.raises(CertificateError, match=reason):
        identity_from_der(raw, CA.cluster, NOW)


def test_names_beside_the_uri_are_not_looked_at() -> None:
    assert identity_in(certificate([host("a").uri])) == host("a")


@pytest.mark.parametrize(("hours", "reason"), [(4, "expired 3 h ago; .*join token"), (-2, "begins in 1 h.*clocks")])
def test_its_time_is_checked_and_said(hours: int, reason: str) -> None:
    with pytest.raises(CertificateExpiredError, match=reason):
        identity_from_der(GOOD, CA.cluster, NOW + hours * HOUR)


def test_a_certificate_that_was_read_before_is_checked_again() -> None:
    assert identity_from_der(GOOD, CA.cluster, NOW) == identity_from_der(GOOD, CA.cluster, NOW)
    with pytest.raises(CertificateExpiredError):
        identity_from_der(GOOD, CA.cluster, NOW + 4 * HOUR)
    with pytest.raises(CertificateError, match="of the cluster"):
        identity_from_der(GOOD, OTHER_CA.cluster, NOW)


def test_a_clock_that_is_an_hour_slow_does_no_harm() -> None:
    issued = credentials(host("a"))
    assert issued.not_before < NOW - HOUR
    assert issued.not_after == NOW + HOUR


def test_a_host_is_no_scheduler_and_no_other_host() -> None:
    expect_scheduler(scheduler())
    expect_host(host("a"), "a")
    with pytest.raises(CertificateError, match="host a answers"):
        expect_scheduler(host("a"))
    for other in (host("b"), scheduler(), PeerIdentity(CA.cluster, Role.SCHEDULER, "a")):
        with pytest.raises(CertificateError, match="host a was expected"):
            expect_host(other, "a")
