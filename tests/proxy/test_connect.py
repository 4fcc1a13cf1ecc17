"""The head of CONNECT: what is one, what is none, and what its client is told."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.connect import ConnectError, ConnectTarget, parse_connect, refusal_bytes


def head(line: str) -> bytes:
    return f"{line}\r\nHost: x\r\nProxy-Authorization: Basic eA==\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("authority", "target", "upstream"),
    [
        ("quay.io:443", ConnectTarget("quay.io", 443), "quay.io"),
        ("Quay.IO.:443", ConnectTarget("quay.io", 443), "quay.io"),
        ("registry.test:5000", ConnectTarget("registry.test", 5000), "registry.test:5000"),
        ("10.0.0.7:5000", ConnectTarget("10.0.0.7", 5000), "10.0.0.7:5000"),
        ("[2001:DB8::1]:443", ConnectTarget("2001:db8::1", 443), None),
        ("registry-1.docker.io:443", ConnectTarget("registry-1.docker.io", 443), None),
    ],
)
def test_targets(authority: str, target: ConnectTarget, upstream: str | None) -> None:
    assert parse_connect(head(f"CONNECT {authority} HTTP/1.1")) == target
    assert target.upstream == upstream


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET http://example.test/ HTTP/1.1", 405),
        ("GET / HTTP/1.1", 405),
        ("POST http://example.test/v2/ HTTP/1.1", 405),
        ("CONNECT quay.io HTTP/1.1", 400),
        ("CONNECT quay.io:0 HTTP/1.1", 400),
        ("CONNECT quay.io:65536 HTTP/1.1", 400),
        ("CONNECT :443 HTTP/1.1", 400),
        ("CONNECT https://quay.io:443 HTTP/1.1", 400),
        ("CONNECT me@quay.io:443 HTTP/1.1", 400),
        ("CONNECT qu_ay/..:443 HTTP/1.1", 400),
        ("CONNECT [::g]:443 HTTP/1.1", 400),
        ("CONNECT [fe80::1%eth0]:443 HTTP/1.1", 400),
        ("CONNECT quay.io:443 HTTP/2", 400),
        ("CONNECT  quay.io:443 HTTP/1.1", 400),
        ("", 400),
        ("hello", 400),
    ],
)
def test_what_is_no_connect_is_told_so(line: str, status: int) -> None:
    with pytest.raises(ConnectError) as refused:
        parse_connect(head(line))
    assert refused.value.status == status
    answer = refusal_bytes(refused.value)
    said, _, body = answer.partition(b"\r\n\r\n")
    assert said.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"Content-Length: {len(body)}\r\n".encode() in said + b"\r\n"
    assert (b"HTTPS_PROXY" in body) == (status == 405)


@given(st.binary(max_size=400))
def test_anything_is_a_target_or_refused(line: bytes) -> None:
    with suppress(ConnectError):
        assert 0 < parse_connect(line + b"\r\n\r\n").port < 65536


def test_the_host_header_names_the_target() -> None:
    target = ConnectTarget("quay.io", 443)
    assert all(target.is_named_by(host) for host in ("quay.io", "quay.io:443", "QUAY.IO"))
    assert not any(target.is_named_by(host) for host in ("", "quay.io:80", "evil.quay.io", "127.0.0.1"))
    assert not ConnectTarget("quay.io", 5000).is_named_by("quay.io")
