"""What the authority issues, and what it takes from a request: the public key, and nothing else."""

from __future__ import annotations

import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from scheduler.trust import certificates
from scheduler.trust.certificates import load_ca, make_ca, moment, public_key_in, read_credentials
from scheduler.trust.errors import CertificateError, JoinRefusedError
from scheduler.trust.identity import identity_in
from tests.trust.fixtures import CA, HOUR, NOW, OTHER_CA, credentials, host, scheduler

PEM = serialization.Encoding.PEM
CA_PEM = certificates.to_pem(CA.certificate)


def test_a_request_that_asks_for_more_gets_no_more() -> None:
    key = certificates.new_key()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "scheduler")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(scheduler().uri)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    issued = certificates.issue(CA, host("a"), public_key_in(request.public_bytes(PEM)), moment(NOW), HOUR)
    assert identity_in(issued) == host("a")
    assert issued.public_key() == key.public_key()
    extensions = issued.extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(False, None)
    assert issued.subject.rfc4514_string() == "CN=a"
    usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    issued.verify_directly_issued_by(CA.certificate)


@given(st.binary())
def test_any_bytes_are_a_request_or_our_error(raw: bytes) -> None:
    with pytest.raises(JoinRefusedError):
        public_key_in(raw)


def test_another_kind_of_key_is_refused() -> None:
    keys = (
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    )
    for key in keys:
        algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, algorithm)
        with pytest.raises(JoinRefusedError, match="P-256"):
            public_key_in(request.public_bytes(PEM))


def test_a_request_of_anothers_key_is_refused() -> None:
    der = bytearray(
        x509.load_pem_x509_csr(certificates.request_certificate(certificates.new_key())).public_bytes(
            serialization.Encoding.DER
        )
    )
    der[-1] ^= 1
    with pytest.raises(JoinRefusedError, match=r"signed|read"):
        public_key_in(x509.load_der_x509_csr(bytes(der)).public_bytes(PEM))


def test_a_certificate_does_not_outlive_its_ca() -> None:
    ends = CA.certificate.not_valid_after_utc.timestamp()
    assert credentials(host("a"), lifetime_s=ends).not_after == ends


def test_the_ca_issues_no_other_ca() -> None:
    constraints = CA.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


def test_the_cluster_is_named_after_the_cas_key() -> None:
    assert CA.cluster != OTHER_CA.cluster
    renewed = x509.CertificateBuilder(
        CA.certificate.issuer, CA.certificate.subject, CA.certificate.public_key(), 7, moment(NOW), moment(NOW + HOUR)
    ).sign(CA.key, hashes.SHA256())
    assert certificates.cluster_of(renewed) == CA.cluster
    assert certificates.fingerprint_of(renewed) != CA.fingerprint


def test_an_operators_ca_that_cannot_issue_is_refused() -> None:
    key = certificates.key_to_pem(CA.key)
    leaf = credentials(host("a"))
    with pytest.raises(CertificateError, match="not that of its certificate"):
        load_ca(CA_PEM, certificates.key_to_pem(OTHER_CA.key), moment(NOW))
    with pytest.raises(CertificateError, match="CA:TRUE"):
        load_ca(leaf.chain_pem, leaf.key_pem, moment(NOW))
    with pytest.raises(CertificateError, match="is good from"):
        load_ca(CA_PEM, key, moment(NOW + 11 * 365 * 24 * HOUR))
    with pytest.raises(CertificateError, match="PEM"):
        load_ca(b"", key, moment(NOW))
    assert load_ca(CA_PEM, key, moment(NOW)).cluster == CA.cluster


def test_credentials_that_do_not_fit_together_are_refused() -> None:
    one, other = credentials(host("a")), credentials(host("a"))
    with pytest.raises(CertificateError, match="not that of the certificate"):
        read_credentials(other.key_pem, one.chain_pem, one.ca_pem)
    for parts in [(b"", one.chain_pem, CA_PEM), (one.key_pem, b"", CA_PEM), (one.key_pem, one.chain_pem, b"x")]:
        with pytest.raises(CertificateError, match="PEM"):
            read_credentials(*parts)
    assert one.key_pem.decode() not in repr(one)


def test_a_certificate_with_a_key_of_an_unknown_kind_is_refused() -> None:
    one = credentials(host("a"))
    der = x509.load_pem_x509_certificate(one.chain_pem).public_bytes(serialization.Encoding.DER)
    unknown = der.replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("008648ce3d030107"))
    pem = ssl.DER_cert_to_PEM_cert(unknown).encode()
    with pytest.raises(CertificateError, match="PEM"):
        read_credentials(one.key_pem, pem, one.ca_pem)


def test_two_authorities_are_two() -> None:
    assert make_ca(moment(NOW)).fingerprint != make_ca(moment(NOW)).fingerprint
