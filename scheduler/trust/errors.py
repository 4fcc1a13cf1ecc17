"""What can go wrong with trust. The text of each error is for the operator: it names the thing and says what to do."""

from __future__ import annotations


class TrustError(Exception):
    """The base of all errors of trust."""


class UnsafeFileError(TrustError):
    """A file of a key cannot be used: it is missing, damaged, a link, or others can read or own it."""


class TokenTextError(TrustError):
    """A text is not a join token."""


class CertificateError(TrustError):
    """A certificate is not acceptable: for its form, its issuer, its cluster, its role or its host id."""


class CertificateExpiredError(CertificateError):
    """A certificate was good, and its time is over, or has not begun."""


class JoinRefusedError(TrustError):
    """The authority gives this host no certificate. `reason` is one word, the same in every version."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
