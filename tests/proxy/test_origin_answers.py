"""What each answer of an origin says of access: the table, whole."""

from __future__ import annotations

import pytest

from peer.errors import (
    OriginBrokenError,
    OriginCorruptError,
    OriginRefusedError,
    OriginTimeoutError,
    OriginTooLargeError,
    OriginUnreachableError,
    P2pdError,
)
from peer.oci.descriptor import Descriptor
from peer.oci.digest import Digest
from peer.oci.manifest import DOCKER_SCHEMA_1_SIGNED, KIND_BY_MEDIA_TYPE, OCI_IMAGE
from proxy.core.origin_answers import (
    Word,
    get_decides,
    shows_blob,
    shows_manifest,
    takes_back_public,
    word_of,
    word_of_error,
)

A = Digest.of(b"a")

TABLE = {
    200: Word.GIVES,
    401: Word.REFUSES,
    403: Word.REFUSES,
    404: Word.ABSENT,
    410: Word.ABSENT,
    451: Word.REFUSES,
}
"""All that says something. The statuses of the field that do not are below."""
SILENT = [201, 202, 204, 206, 300, 304, 307, 400, 402, 405, 406, 407, 408, 409, 411, 412, 413, 414, 415, 416, 417, 418]
SILENT += [421, 422, 423, 424, 425, 426, 428, 429, 431, 499, 500, 501, 502, 503, 504, 505, 507, 508, 511, 520, 522, 530]


def refusal(status: int, *, redirected: bool = False) -> OriginRefusedError:
    return OriginRefusedError("no", status=status, redirected=redirected)


@pytest.mark.parametrize("status", [*TABLE, *SILENT])
def test_the_word_of_a_status(status: int) -> None:
    word = TABLE.get(status, Word.SAYS_NOTHING)
    assert word_of(status) is word
    assert word_of(status, redirected=True) is (Word.GIVES if status == 200 else Word.SAYS_NOTHING)
    if status >= 400:
        assert word_of_error(refusal(status)) is word
        assert word_of_error(refusal(status, redirected=True)) is Word.SAYS_NOTHING


@pytest.mark.parametrize("status", [status for status in (*TABLE, *SILENT) if status >= 400])
def test_what_takes_back_that_content_is_public(status: int) -> None:
    assert takes_back_public(refusal(status)) is (status in (401, 403, 404, 410))
    assert not takes_back_public(refusal(status, redirected=True))


@pytest.mark.parametrize(
    "error",
    [
        OriginUnreachableError("gone"),
        OriginTimeoutError("late"),
        OriginBrokenError("broke off"),
        OriginCorruptError("a page"),
        OriginTooLargeError("long"),
        P2pdError("something else"),
    ],
)
def test_what_is_no_answer_says_nothing(error: P2pdError) -> None:
    assert word_of_error(error) is Word.SAYS_NOTHING
    assert not takes_back_public(error)


@pytest.mark.parametrize("status", [*TABLE, *SILENT])
def test_where_get_decides(status: int) -> None:
    assert get_decides(status) is (status < 400 or status in (400, 403, 404, 405, 501))
    passing = status in (408, 425, 429, 500, 502, 503, 504)
    assert get_decides(status, redirected=True) is not passing


@pytest.mark.parametrize(
    ("media_type", "shows"),
    [
        *((media_type, True) for media_type in KIND_BY_MEDIA_TYPE),
        (DOCKER_SCHEMA_1_SIGNED, True),
        ("application/vnd.oci.artifact.manifest.v1+json", True),
        ("application/vnd.example.thing.v9+json", True),
        ("text/html", False),
        ("application/json", False),
        ("application/octet-stream", False),
        ("text/plain", False),
        ("", False),
    ],
)
def test_the_headers_of_a_manifest(media_type: str, shows: bool) -> None:
    assert shows_manifest(Descriptor(media_type, A, 9)) is shows
    assert not shows_manifest(Descriptor(media_type, A, 0))


@pytest.mark.parametrize(
    ("media_type", "known_bytes", "named", "shows"),
    [
        ("application/octet-stream", None, False, True),
        ("binary/octet-stream", None, False, True),
        ("", None, False, True),
        (OCI_IMAGE, None, False, False),
        (OCI_IMAGE, None, True, True),
        ("application/octet-stream", 9, False, True),
        ("application/octet-stream", 8, True, False),
        ("application/json", None, False, False),
        ("application/json", None, True, True),
        ("application/json", 9, False, True),
        ("application/json", 8, False, False),
        ("text/plain", None, False, False),
        ("text/html", None, True, False),
        ("text/html", 9, True, False),
    ],
)
def test_the_headers_of_a_blob(media_type: str, known_bytes: int | None, named: bool, shows: bool) -> None:
    assert shows_blob(Descriptor(media_type, A, 9), known_bytes, named=named) is shows
