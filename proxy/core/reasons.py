"""The reasons for which a request is refused, and those for which a blob is relayed past the store: for the metrics."""

from __future__ import annotations

from enum import StrEnum

from peer.errors import (
    DrainingError,
    ManifestError,
    OriginBrokenError,
    OriginCorruptError,
    OriginRefusedError,
    OriginTimeoutError,
    OriginUnreachableError,
    OriginUnusableError,
    P2pdError,
    StoreError,
    StoreFullError,
)
from proxy.core.oci_errors import Code
from proxy.core.routing import RouteError


class Refused(StrEnum):
    """Why a client got an error, or less than the whole body."""

    PUSH = "push"
    NOT_AN_UPSTREAM = "not_an_upstream"
    BAD_REQUEST = "bad_request"
    DRAINING = "draining"
    UNAUTHORIZED = "unauthorized"
    """The registry wants a login; a part of each login."""
    DENIED = "denied"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    ORIGIN_REFUSED = "origin_refused"
    ORIGIN_TIMEOUT = "origin_timeout"
    ORIGIN_UNREACHABLE = "origin_unreachable"
    ORIGIN_BROKEN = "origin_broken"
    ORIGIN_UNUSABLE = "origin_unusable"
    CORRUPT = "corrupt"
    NO_ROOM = "no_room"
    STORE = "store"
    OTHER = "other"


class Relayed(StrEnum):
    """Why a blob was passed on from its origin, past the store."""

    NO_ROOM = "no_room"
    STORE = "store"
    """The disk failed."""
    TOO_LARGE = "too_large"
    ALGORITHM = "algorithm"
    """The blob is not named by its SHA-256."""
    LAZY_READ = "lazy_read"


_BY_STATUS = {
    401: Refused.UNAUTHORIZED,
    403: Refused.DENIED,
    404: Refused.NOT_FOUND,
    410: Refused.NOT_FOUND,
    429: Refused.RATE_LIMITED,
    451: Refused.DENIED,
}
_BY_ERROR: tuple[tuple[type[P2pdError], Refused], ...] = (
    (DrainingError, Refused.DRAINING),
    (OriginTimeoutError, Refused.ORIGIN_TIMEOUT),  # which is an OriginUnreachableError too
    (OriginUnreachableError, Refused.ORIGIN_UNREACHABLE),
    (OriginBrokenError, Refused.ORIGIN_BROKEN),
    (OriginCorruptError, Refused.CORRUPT),
    (OriginUnusableError, Refused.ORIGIN_UNUSABLE),
    (ManifestError, Refused.ORIGIN_UNUSABLE),
    (StoreFullError, Refused.NO_ROOM),
    (StoreError, Refused.STORE),
)


def reason_of(error: P2pdError) -> Refused:
    """The reason that an error gives for a refusal."""
    match error:
        case RouteError():
            if error.status == 405:
                return Refused.PUSH
            return Refused.NOT_AN_UPSTREAM if error.code is Code.NAME_UNKNOWN else Refused.BAD_REQUEST
        case OriginRefusedError():
            return _BY_STATUS.get(error.status, Refused.ORIGIN_REFUSED)
    return next((reason for kind, reason in _BY_ERROR if isinstance(error, kind)), Refused.OTHER)
