"""What an origin's headers say of content, and when they say nothing of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peer.oci.descriptor import Descriptor
from peer.oci.digest import Digest
from peer.oci.manifest import OCI_IMAGE
from peer.origin.api import Answer
from proxy.origins import described

DIGEST, OTHER = Digest.of(b"content"), Digest.of(b"other")
NAMED = {"content-type": OCI_IMAGE, "content-length": "7", "docker-content-digest": DIGEST}


def answer(**changes: str | None) -> Answer:
    headers = NAMED | {name.replace("_", "-"): value for name, value in changes.items()}
    return Answer(200, {name: value for name, value in headers.items() if value is not None}, b"")


def test_of_a_tag_the_headers_name_the_digest() -> None:
    assert described(answer()) == Descriptor(OCI_IMAGE, DIGEST, 7)
    assert described(answer(docker_content_digest=None)) is None
    assert described(answer(docker_content_digest="sha256:short")) is None


def test_of_a_digest_they_need_not() -> None:
    for named in (None, DIGEST):
        assert described(answer(docker_content_digest=named), DIGEST) == Descriptor(OCI_IMAGE, DIGEST, 7)


def test_headers_of_other_content_say_nothing() -> None:
    assert described(answer(docker_content_digest=OTHER), DIGEST) is None
    assert described(answer(docker_content_digest="sha512:0"), DIGEST) is None


def test_no_length_is_no_descriptor_and_no_type_an_empty_one() -> None:
    for length in (None, "", "many", "-7", "1_0", "9" * 5000):
        assert described(answer(content_length=length), DIGEST) is None
    assert described(answer(content_type=None), DIGEST) == Descriptor("", DIGEST, 7)


@given(st.dictionaries(st.sampled_from(sorted(NAMED)), st.text()), st.none() | st.just(DIGEST))
def test_any_headers_are_a_descriptor_or_nothing(headers: dict[str, str], digest: Digest | None) -> None:
    found = described(Answer(200, headers, b""), digest)
    if found is not None:
        assert found.digest == (digest or headers["docker-content-digest"])
        assert found.size_bytes >= 0
