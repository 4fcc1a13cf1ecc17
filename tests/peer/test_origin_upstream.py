"""What an operator may write about an upstream, and what an error says when it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peer.origin.upstream import Upstream, UpstreamEndpoint
from tests.peer.origin_fixtures import origin_at


@pytest.mark.parametrize(
    ("text", "shown", "path"),
    [
        ("https://registry-1.docker.io", "https://registry-1.docker.io", "/v2/x"),
        ("https://HOST:443/", "https://host", "/v2/x"),
        ("http://host:5000/a/b/", "http://host:5000/a/b", "/a/b/v2/x"),
        ("http://[::1]:5000", "http://[::1]:5000", "/v2/x"),
        ("https://host/v2/", "https://host", "/v2/x"),
        ("https://host/a/v2", "https://host/a", "/a/v2/x"),
        ("https://host/v2/hub/", "https://host/v2/hub", "/v2/hub/x"),
        ("https://host/a/v2/hub/b", "https://host/a/v2/hub/b", "/a/v2/hub/b/x"),
        ("https://host/v2//hub", "https://host/v2/hub", "/v2/hub/x"),
        ("https://host/v2x/hub", "https://host/v2x/hub", "/v2x/hub/v2/x"),
        ("https://host//v2//", "https://host", "/v2/x"),
        ("https://host.example.:5000", "https://host.example:5000", "/v2/x"),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example", "/v2/x"),
    ],
)
def test_endpoints(text: str, shown: str, path: str) -> None:
    endpoint = UpstreamEndpoint.parse(text)
    assert (str(endpoint), endpoint.path("x")) == (shown, path)
    assert f"{endpoint.prefix}/v2/{endpoint.repository('x')}" == path
    assert endpoint.repository("") == ""
    assert endpoint.path("") == f"{endpoint.prefix}/v2/"  # a ping is of the registry, not of a project


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "ftp://host",
        "https://",
        "https://host:port",
        "https://host:99999",
        "https://[::1",
        "https://user:secret@host",
        "https://host?secret",
        "https://host#secret",
        "https://.",
        "https://\u00fc" + "x" * 64,
    ],
)
def test_what_is_no_endpoint_is_an_error_at_once(text: str) -> None:
    with pytest.raises(ValueError, match="endpoint") as caught, origin_at(text):
        pass
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"endpoints": ()}, "at least one endpoint"),
        ({"username": "user"}, "go together"),
        ({"password": "secret"}, "go together"),
        ({"password_file": Path("/secret")}, "go together"),
        ({"username": "u", "password": "secret", "password_file": Path("/secret")}, "not both"),
        ({"username": "a:b", "password": "secret"}, "colon"),
        ({"max_connections": 0}, "at least 1"),
        ({"max_attempts": 0}, "at least 1"),
        ({"rate_bytes_per_s": -1}, "at least 0"),
    ],
)
def test_what_makes_no_sense_is_an_error_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"upstream reg\.test: .*{said}") as caught:
        Upstream(**{"name": "reg.test", "endpoints": ("https://host",), **options})
    assert "secret" not in str(caught.value)
