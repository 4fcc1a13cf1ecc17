"""Errors as clients get them: in the specification's form, with the status that makes a runtime do the right thing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import (
    OriginBrokenError,
    OriginCorruptError,
    OriginRefusedError,
    OriginTimeoutError,
    OriginUnreachableError,
    P2pdError,
    StoreBrokenError,
    StoreFullError,
)
from proxy.core.oci_errors import Code, Refusal, is_error_body, refusal, refusal_for, refusal_of_list

THEIRS = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit."}]}'


def only_error(refused: Refusal) -> dict[str, object]:
    document = json.loads(refused.body)
    assert set(document) == {"errors"}
    (error,) = document["errors"]
    assert set(error) == {"code", "message", "detail"}
    return dict(error)


def test_a_refusal_of_our_own() -> None:
    refused = refusal(405, Code.UNSUPPORTED, "only \"pull\" and \n 'é'", {"Allow": "GET"})
    assert (refused.status, refused.headers) == (405, {"Allow": "GET"})
    assert only_error(refused) == {"code": "UNSUPPORTED", "message": "only \"pull\" and \n 'é'", "detail": None}


@pytest.mark.parametrize(
    "error",
    [
        OriginUnreachableError("it does not answer"),
        OriginBrokenError("it broke off"),
        OriginCorruptError("other bytes"),
        StoreFullError("no room"),
        StoreBrokenError("the disk failed"),
        P2pdError("something else"),
    ],
)
def test_what_the_mirror_cannot_do_is_404_with_the_reason(error: P2pdError) -> None:
    refused = refusal_for(error, Code.BLOB_UNKNOWN)
    assert (refused.status, dict(refused.headers)) == (404, {})
    assert only_error(refused)["code"] == "BLOB_UNKNOWN"
    assert str(error) in str(only_error(refused)["message"])


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, Code.UNAUTHORIZED),
        (403, Code.DENIED),
        (429, Code.TOOMANYREQUESTS),
        (404, Code.MANIFEST_UNKNOWN),
        (400, Code.MANIFEST_UNKNOWN),
    ],
)
def test_the_origins_no_keeps_its_status(status: int, code: Code) -> None:
    headers = {"www-authenticate": 'Bearer realm="https://a/b",scope="c d"', "retry-after": "30", "set-cookie": "s=1"}
    refused = refusal_for(OriginRefusedError("no", status=status, headers=headers), Code.MANIFEST_UNKNOWN)
    assert refused.status == status
    assert only_error(refused)["code"] == code
    assert refused.headers == {"retry-after": "30"}
    assert refused.challenges == (headers["www-authenticate"],)


@pytest.mark.parametrize("status", [301, 304, 416, 500, 503])
def test_what_no_client_could_make_sense_of_is_404(status: int) -> None:
    assert refusal_for(OriginRefusedError("odd", status=status), Code.BLOB_UNKNOWN).status == 404


@pytest.mark.parametrize("status", [402, 405, 406, 408, 412, 418, 421, 425, 431])
def test_what_says_nothing_is_404_so_that_the_client_goes_on(status: int) -> None:
    assert refusal_for(OriginRefusedError("odd", status=status), Code.BLOB_UNKNOWN).status == 404


@pytest.mark.parametrize("status", [400, 401, 403, 429, 451])
def test_storages_refusals_are_not_the_registrys(status: int) -> None:
    error = OriginRefusedError("no", status=status, redirected=True)
    assert refusal_for(error, Code.BLOB_UNKNOWN).status == 404
    assert refusal_of_list(error, Code.MANIFEST_UNKNOWN).status == 502


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OriginRefusedError("no", status=404), 404),
        (OriginRefusedError("no", status=401), 401),
        (OriginRefusedError("no", status=429), 429),
        (OriginRefusedError("no", status=400), 400),
        (OriginRefusedError("no", status=405), 502),
        (OriginUnreachableError("gone"), 502),
        (OriginCorruptError("a page"), 502),
        (OriginTimeoutError("late"), 504),
    ],
)
def test_an_origin_that_fails_has_no_empty_list(error: P2pdError, status: int) -> None:
    refused = refusal_of_list(error, Code.MANIFEST_UNKNOWN)
    assert refused.status == status
    assert (only_error(refused)["code"] == "UNAVAILABLE") is (status >= 500)


def test_headers_are_relayed_however_they_are_written() -> None:
    error = OriginRefusedError("no", status=401, headers={"WWW-Authenticate": 'Basic realm="x"', "Retry-After": "1"})
    refused = refusal_for(error, Code.BLOB_UNKNOWN)
    assert (refused.challenges, list(refused.headers.values())) == (('Basic realm="x"',), ["1"])


def test_each_challenge_is_relayed_by_itself() -> None:
    challenges = ('Basic realm="x"', 'Bearer realm="https://a/b"')
    headers = {"www-authenticate": ", ".join(challenges)}
    error = OriginRefusedError("no", status=401, headers=headers, challenges=challenges)
    assert refusal_for(error, Code.BLOB_UNKNOWN).challenges == challenges


def test_the_origins_own_words_are_relayed() -> None:
    assert refusal_for(OriginRefusedError("no", status=429, body=THEIRS), Code.BLOB_UNKNOWN).body == THEIRS


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>no</html>",
        b"{}",
        b"[]",
        b"null",
        b'{"errors": null}',
        b'{"errors": [1]}',
        b'{"errors": [{"code": 1}]}',
        b'{"errors": []}',
        b'{"errors": {"code": "X"}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_error_body_is_not(body: bytes) -> None:
    assert not is_error_body(body)
    refused = refusal_for(OriginRefusedError("said no", status=403, body=body), Code.BLOB_UNKNOWN)
    assert only_error(refused) == {"code": "DENIED", "message": "said no", "detail": None}


@given(
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["errors", "code", "message"]), inner, max_size=3)
        ),
    )
    .map(json.dumps)
    .map(str.encode)
)
def test_any_body_leads_to_an_error_that_clients_can_read(body: bytes) -> None:
    refused = refusal_for(OriginRefusedError("no", status=403, body=body), Code.BLOB_UNKNOWN)
    errors = json.loads(refused.body)["errors"]
    assert errors
    assert all(isinstance(error["code"], str) for error in errors)
