"""Handshakes: who is let in, and who is not."""

from __future__ import annotations

import ssl

import pytest

from scheduler.trust.certificates import (
    CertificateAuthority,
    Credentials,
    issue,
    key_to_pem,
    moment,
    new_key,
    read_credentials,
    to_pem,
)
from scheduler.trust.errors import CertificateError, CertificateExpiredError
from scheduler.trust.identity import expect_scheduler
from scheduler.trust.tls import client_context, identity_of, joining_context, keep_session, server_context
from tests.trust.fixtures import CA, HOUR, NOW, OTHER_CA, connected, credentials, host, scheduler

SCHEDULER = credentials(scheduler())
HOST = credentials(host("a"))


def test_both_ends_know_each_other() -> None:
    pair = connected(server_context(SCHEDULER), client_context(HOST))
    assert identity_of(pair.server, CA.cluster, NOW) == host("a")
    assert identity_of(pair.client, CA.cluster, NOW) == scheduler()
    assert pair.client.version() == "TLSv1.3"


@pytest.mark.parametrize(
    "client",
    [
        credentials(host("a", OTHER_CA), OTHER_CA),
        credentials(host("a"), OTHER_CA),  # it claims to be of this cluster
        credentials(host("a"), at=NOW - 3 * HOUR),
        credentials(host("a"), at=NOW + 3 * HOUR),
    ],
)
def test_a_stranger_does_not_get_through_the_handshake(client: Credentials) -> None:
    context = client_context(client)
    context.verify_mode = ssl.CERT_NONE  # the stranger does not mind whom it talks to
    with pytest.raises(ssl.SSLError):
        connected(server_context(SCHEDULER), context)
    with pytest.raises(ssl.SSLError):
        connected(server_context(SCHEDULER, strangers=True), context)


def test_a_scheduler_of_another_cluster_is_not_believed() -> None:
    impostor = server_context(credentials(scheduler(), OTHER_CA), strangers=True)
    impostor.verify_mode = ssl.CERT_NONE  # it does not mind whom it talks to
    for context in (client_context(HOST), joining_context(to_pem(CA.certificate))):
        with pytest.raises(ssl.SSLCertVerificationError):
            connected(impostor, context)


def test_a_hosts_certificate_makes_no_scheduler() -> None:
    pair = connected(server_context(credentials(host("b"))), client_context(HOST))
    with pytest.raises(CertificateError, match="a scheduler was expected, and host b answers"):
        expect_scheduler(identity_of(pair.client, CA.cluster, NOW))


def test_without_a_certificate_only_where_hosts_join() -> None:
    newcomer = joining_context(to_pem(CA.certificate))
    with pytest.raises(ssl.SSLError):
        connected(server_context(SCHEDULER), newcomer)
    pair = connected(server_context(SCHEDULER, strangers=True), newcomer)
    with pytest.raises(CertificateError, match="no certificate"):
        identity_of(pair.server, CA.cluster, NOW)
    assert identity_of(pair.client, CA.cluster, NOW) == scheduler()


def test_older_tls_is_not_spoken() -> None:
    context = client_context(HOST)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        connected(server_context(SCHEDULER), context)


def test_a_session_is_resumed_and_its_certificate_looked_at_again() -> None:
    server, client = server_context(SCHEDULER, resuming=True), client_context(HOST)
    first = connected(server, client)
    again = connected(server, client, first.client.session)
    assert again.client.session_reused
    assert identity_of(again.server, CA.cluster, NOW) == host("a")
    with pytest.raises(CertificateExpiredError):
        identity_of(again.server, CA.cluster, NOW + 2 * HOUR)


def test_a_kept_session_is_offered_once() -> None:
    server, client = server_context(SCHEDULER, resuming=True), client_context(HOST, resuming=True)
    first = connected(server, client)
    assert not connected(server, client).client.session_reused
    keep_session(first.client)
    assert connected(server, client).client.session_reused
    assert not connected(server, client).client.session_reused


def test_new_credentials_resume_no_session_of_the_old_ones() -> None:
    server, client = server_context(SCHEDULER, resuming=True), client_context(HOST, resuming=True)
    keep_session(connected(server, client).client)
    assert not connected(server, client_context(HOST, resuming=True)).client.session_reused
    assert not connected(server_context(SCHEDULER, resuming=True), client).client.session_reused, (
        "nor at another server"
    )


def test_links_are_not_resumed() -> None:
    assert server_context(HOST).num_tickets == 0


def test_a_key_that_is_not_the_certificates_makes_no_context() -> None:
    other = credentials(host("b"))
    forged = Credentials(HOST.identity, other.key_pem, HOST.chain_pem, HOST.ca_pem, HOST.not_before, HOST.not_after)
    with pytest.raises(CertificateError, match="host a"):
        client_context(forged)
    with pytest.raises(CertificateError, match="CA"):
        joining_context(b"")


def test_a_host_issues_no_certificates() -> None:
    key, forged_key = new_key(), new_key()
    own = issue(CA, host("a"), key.public_key(), moment(NOW), HOUR)
    forged = issue(CertificateAuthority(own, key), scheduler(), forged_key.public_key(), moment(NOW), HOUR)
    chain = to_pem(forged) + to_pem(own)
    shown = read_credentials(key_to_pem(forged_key), chain, to_pem(CA.certificate))
    with pytest.raises(ssl.SSLCertVerificationError, match="invalid CA certificate"):
        connected(server_context(credentials(host("b"))), client_context(shown))
