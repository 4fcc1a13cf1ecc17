"""Accept headers: whether a client takes a manifest that another host has found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.oci.manifest import DOCKER_IMAGE, OCI_IMAGE, OCI_INDEX
from proxy.core.accept import accepts

DOCKERD = f"application/json, {OCI_INDEX}, {OCI_IMAGE}"
"""As moby sends it, with fewer types."""


@pytest.mark.parametrize(
    ("header", "media_type", "taken"),
    [
        ("", OCI_IMAGE, True),
        (" , ", OCI_IMAGE, True),
        (DOCKERD, OCI_INDEX, True),
        (DOCKERD, DOCKER_IMAGE, False),
        (OCI_IMAGE.upper(), OCI_IMAGE, True),
        (f"{OCI_IMAGE};q=0.5", OCI_IMAGE, True),
        ("*/*", OCI_IMAGE, True),
        ("application/*", OCI_IMAGE, True),
        ("text/*", OCI_IMAGE, False),
        ("*/*;q=0.0", OCI_IMAGE, False),
        (f"*/*, {OCI_IMAGE};q=0", OCI_IMAGE, False),
        (f"*/*, {OCI_IMAGE};q=0", OCI_INDEX, True),
    ],
)
def test_what_is_taken(header: str, media_type: str, taken: bool) -> None:
    assert accepts(header, media_type) is taken


@given(st.text())
def test_any_header_has_an_answer(header: str) -> None:
    accepts(header, OCI_IMAGE)
