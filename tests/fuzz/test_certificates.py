"""Keys, certificates, requests and tokens that anybody may have written: ours, with bytes of them changed."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.protocol.joining import CA_PATH, JOIN_PATH, RENEW_PATH
from scheduler.shell.admission import Admission
from scheduler.trust import certificates
from scheduler.trust.authority import Authority
from scheduler.trust.certificates import new_key, read_credentials, request_certificate
from scheduler.trust.errors import CertificateError
from scheduler.trust.tls import client_context, server_context
from tests.fuzz.standing import Errors, watched_log
from tests.fuzz.wire import damaged
from tests.trust.fixtures import CA, credentials, host

OURS = credentials(host("a"))
CA_PEM = certificates.to_pem(CA.certificate)
REQUEST = request_certificate(new_key())


@st.composite
def any_pem(draw: st.DrawFn, whole: bytes) -> bytes:
    """A PEM: as it is, with damage to what it encodes, or damaged as text."""
    begin, *lines, end = whole.splitlines()
    inside = bytearray(base64.b64decode(b"".join(lines)))
    match draw(st.integers(0, 5)):
        case 0:
            return whole
        case 1:
            return draw(damaged(st.just(whole)))
        case 2:
            return draw(st.binary(max_size=60))
        case _:
            at = draw(st.integers(0, len(inside) - 1))
            inside[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
            return b"%b\n%b%b\n" % (begin, base64.encodebytes(inside), end)


@given(key=any_pem(OURS.key_pem), chain=any_pem(OURS.chain_pem), ca=any_pem(CA_PEM))
def test_credentials_of_the_operators_own(key: bytes, chain: bytes, ca: bytes) -> None:
    with suppress(CertificateError):
        found = read_credentials(key, chain, ca)
        client_context(found)
        server_context(found, strangers=True)


class Joining:
    """An authority, and a token of it."""

    def __init__(self, data: Path, errors: Errors) -> None:
        self.authority = Authority.open(data, time.time(), lifetime_s=3600.0)
        self.admission = Admission(self.authority, None, self.authority.ledger)
        self.token = self.authority.create_token(note="", ttl_s=None, uses=None, now=time.time()).text
        self.errors = errors


@pytest.fixture(scope="module")
def joining(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joining]:
    with watched_log() as errors:
        joining = Joining(tmp_path_factory.mktemp("authority") / "scheduler", errors)
        yield joining
        joining.authority.close()


TEXTS = st.one_of(
    st.text(max_size=12), st.sampled_from(["a", "host-1", "..", "a/b", "", "a" * 65]), st.integers(), st.none()
)


@given(
    asked=st.sampled_from(
        [("POST", JOIN_PATH), ("POST", JOIN_PATH), ("POST", RENEW_PATH), ("GET", CA_PATH), ("PUT", "/")]
    ),
    name=TEXTS,
    request=any_pem(REQUEST),
    token=st.none() | damaged(st.just(b"token")),
    body=st.none() | st.binary(max_size=40),
    member=st.booleans(),
)
def test_whoever_joins_gets_a_certificate_or_a_reason(
    joining: Joining, asked: tuple[str, str], name: object, request: bytes, token: bytes | None,
    body: bytes | None, member: bool,
) -> None:  # fmt: skip
    shown = joining.token if token is None else joining.token.replace(joining.token[9:14], token.decode("latin-1"))
    told = json.dumps({"token": shown, "host": name, "request": request.decode("latin-1")}).encode()
    method, path = asked
    peer = host("a") if member else None
    answer = joining.admission.answer(peer, method, path, told if body is None else body)
    assert answer.status in (200, 403, 405)
    if answer.status == 200 and path != CA_PATH:
        assert name if path == JOIN_PATH else member
        assert answer.body.startswith(b"-----BEGIN CERTIFICATE-----")
    assert not joining.errors.told
