"""Digests: what text is one, and the way to 32 bytes and back."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from collections.abc import Callable

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import InvalidNameError
from peer.oci.digest import AnyDigest, Digest, Hasher

DIGEST = "sha256:" + "0123456789abcdef" * 4


def test_a_digest_is_sha256_and_64_lower_case_digits() -> None:
    assert Digest(DIGEST) == DIGEST


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        DIGEST[:-1],
        DIGEST + "0",
        DIGEST.upper(),
        DIGEST + "\n",
        "md5:" + "0" * 32,
        "sha256:" + "g" * 64,
    ],
)
def test_other_digests_are_refused_with_the_form_that_is_expected(text: str) -> None:
    with pytest.raises(InvalidNameError, match="64 lower-case hexadecimal"):
        Digest(text)


@pytest.mark.parametrize("algorithm", [hashlib.sha256, hashlib.sha384, hashlib.sha512, blake3])
def test_every_registered_algorithm_names_content(algorithm: Callable[[bytes], Hasher]) -> None:
    name = "blake3" if algorithm is blake3 else hashlib.new(algorithm.__name__.removeprefix("openssl_")).name
    digest = AnyDigest(f"{name}:{algorithm(b'content').hexdigest()}")
    assert (digest.algorithm, digest.names(b"content"), digest.names(b"others")) == (name, True, False)
    assert isinstance(digest, Digest) is (name == "sha256")


@pytest.mark.parametrize("text", ["", "sha512:", "sha512:" + "0" * 64, "sha512:" + "A" * 128, "md5:" + "0" * 32, "x"])
def test_other_algorithms_and_lengths_are_no_digest(text: str) -> None:
    with pytest.raises(InvalidNameError, match="sha256, sha384, sha512, blake3"):
        AnyDigest(text)


def test_a_digest_of_another_algorithm_is_none_for_the_store() -> None:
    with pytest.raises(InvalidNameError, match="64 lower-case"):
        Digest("sha512:" + "0" * 128)


@given(st.text())
def test_any_text_is_a_digest_or_refused(text: str) -> None:
    try:
        assert Digest(text) == text
    except InvalidNameError:
        assert text != DIGEST


@given(st.binary(min_size=32, max_size=32))
def test_32_bytes_become_a_digest_and_again_32_bytes(raw: bytes) -> None:
    digest = Digest.from_raw(raw)
    assert (digest.raw, digest.hex, digest) == (raw, raw.hex(), f"sha256:{raw.hex()}")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_other_lengths_are_no_sha256(length: int) -> None:
    with pytest.raises(InvalidNameError):
        Digest.from_raw(bytes(length))


def test_the_digest_of_content_is_its_sha256() -> None:
    assert Digest.of(b"content").hex == hashlib.sha256(b"content").hexdigest()


def test_a_digest_is_its_text_wherever_text_is_wanted() -> None:
    digest = Digest(DIGEST)
    names: dict[str, int] = {digest: 1}
    assert names[DIGEST] == 1
    assert json.dumps([digest]) == json.dumps([DIGEST])
    assert type(str(digest)) is str
    assert type(pickle.loads(pickle.dumps(copy.copy(digest)))) is Digest  # noqa: S301 # our own
