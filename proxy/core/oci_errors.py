"""Errors for container runtimes: status, code and body of the OCI distribution specification.

The effect of each status, as read in the sources of moby, containerd and container-libs:

    dockerd      a blob's 401, 403, 404 or 429: on to the next endpoint at once; 5xx: up to 5 tries here over 50 s
    containerd   any refusal of a manifest or a blob: on to the next host at once; 408 and 429: up to 5 tries here
    podman       the manifest's source has to have every blob; 429: waits for Retry-After

So if the mirror cannot serve something, it answers 404 with the reason, and not 5xx: the client goes to the registry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from peer.errors import OriginRefusedError, P2pdError


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
    UNSUPPORTED = "UNSUPPORTED"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a request that is refused. Each of `challenges` goes into a WWW-Authenticate field of its own.

    The parsers of docker and containerd read one challenge per field: of joined fields they see the first challenge.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    challenges: tuple[str, ...] = ()


_BY_STATUS = {401: Code.UNAUTHORIZED, 403: Code.DENIED, 429: Code.TOOMANYREQUESTS}
_FOR_CLIENTS = frozenset(range(400, 500)) - {416}
"""The statuses of an origin that are relayed. 416 is not: p2pd chose the range that it answers."""

RELAYED_HEADERS = ("retry-after",)
"""The origin's headers that are relayed beside its challenges."""


def refusal(status: int, code: Code, message: str, headers: Mapping[str, str] | None = None) -> Refusal:
    """An error body with one error."""
    body = {"errors": [{"code": code.value, "message": message, "detail": None}]}
    return Refusal(status, json.dumps(body).encode(), dict(headers or {}))


def refusal_for(error: P2pdError, unknown: Code) -> Refusal:
    """The refusal for `error`. `unknown` is its code if the origin's answer has none, for a manifest or a blob."""
    if not isinstance(error, OriginRefusedError) or error.status not in _FOR_CLIENTS:
        return refusal(404, unknown, str(error))
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
