"""Errors for container runtimes: status, code and body of the OCI distribution specification.

The effect of each status, as read in the sources of moby, containerd and container-libs:

    dockerd      a blob's 401, 403, 404 or 429: on to the next endpoint at once; 5xx: up to 5 tries here over 50 s
    containerd   any refusal of a manifest or a blob: on to the next host at once; 408 and 429: up to 5 tries here
    podman       the manifest's source has to have every blob; 429: waits for Retry-After

So if the mirror cannot serve something, it answers 404 with the reason, and not 5xx: the client goes to the registry.

A list is different: 404 for referrers means that there are none, also for the tag `sha256-<hex>` that lists them at a
registry without a referrers API. There, an origin that fails is 502 or 504.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct, field

from peer.errors import OriginRefusedError, OriginTimeoutError, P2pdError
from proxy.core.origin_answers import Word, word_of_error


class Code(StrEnum):
    """The specification's codes that a mirror needs (section "Error Codes"); TOOMANYREQUESTS comes with 429."""

    BLOB_UNKNOWN = "BLOB_UNKNOWN"
    DENIED = "DENIED"
    DIGEST_INVALID = "DIGEST_INVALID"
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
    NAME_INVALID = "NAME_INVALID"
    NAME_UNKNOWN = "NAME_UNKNOWN"
    SIZE_INVALID = "SIZE_INVALID"
    TOOMANYREQUESTS = "TOOMANYREQUESTS"
    UNAUTHORIZED = "UNAUTHORIZED"
    UNAVAILABLE = "UNAVAILABLE"
    """Not of the specification, which has no code for 5xx: docker-registry's."""
    UNSUPPORTED = "UNSUPPORTED"


class Refusal(Struct, frozen=True):
    """The answer to a request that is refused. Each of `challenges` goes into a WWW-Authenticate field of its own.

    The parsers of docker and containerd read one challenge per field: of joined fields they see the first challenge.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    challenges: tuple[str, ...] = ()


_BY_STATUS = {401: Code.UNAUTHORIZED, 403: Code.DENIED, 429: Code.TOOMANYREQUESTS, 451: Code.DENIED}
_FOR_CLIENTS = frozenset({400, 429})
"""The statuses that are relayed though they say nothing of access: what the client can act upon. Others are not, such
as 405 and 416: p2pd chose the method and the range. dockerd tries again after some of them."""

RELAYED_HEADERS = ("retry-after",)
"""The origin's headers that are relayed beside its challenges."""


def refusal(status: int, code: Code, message: str, headers: Mapping[str, str] | None = None) -> Refusal:
    """An error body with one error."""
    body = {"errors": [{"code": code.value, "message": message, "detail": None}]}
    return Refusal(status, json.dumps(body).encode(), dict(headers or {}))


def refusal_for(error: P2pdError, unknown: Code) -> Refusal:
    """The refusal for `error`. `unknown` is its code if the origin's answer has none, for a manifest or a blob."""
    if not isinstance(error, OriginRefusedError) or not _is_for_clients(error):
        return refusal(404, unknown, str(error))
    return _relayed(error, unknown)


def refusal_of_list(error: P2pdError, unknown: Code) -> Refusal:
    """The refusal for `error` where the origin was asked for a list of tags or of referrers; `unknown` as above."""
    if isinstance(error, OriginRefusedError) and _is_for_clients(error):
        return _relayed(error, unknown)
    return refusal(504 if isinstance(error, OriginTimeoutError) else 502, Code.UNAVAILABLE, str(error))


def _is_for_clients(error: OriginRefusedError) -> bool:
    return word_of_error(error) is not Word.SAYS_NOTHING or (error.status in _FOR_CLIENTS and not error.redirected)


def _relayed(error: OriginRefusedError, unknown: Code) -> Refusal:
    headers = {name: value for name, value in error.headers.items() if name.lower() in RELAYED_HEADERS}
    refused = refusal(error.status, _BY_STATUS.get(error.status, unknown), str(error))
    body = error.body if is_error_body(error.body) else refused.body
    return Refusal(error.status, body, headers, error.challenges)


def is_error_body(body: bytes) -> bool:
    """Whether an origin's body is an error body of the specification; such a body is relayed unchanged."""
    try:
        errors = json.loads(body)["errors"]
        return isinstance(errors, list) and bool(errors) and all(isinstance(one["code"], str) for one in errors)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
