"""When a certificate is renewed, and how long to wait after a failure: pure."""

from __future__ import annotations

from typing import Final

from scheduler.trust.certificates import CLOCK_SKEW, Credentials

RENEW_AFTER: Final = 2 / 3
"""The part of the lifetime after which a certificate is renewed, as kubelet and SPIRE do it, or before."""

JITTER: Final = 0.1
"""The part of the lifetime over which hosts spread that, which all joined at once."""

RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 60.0
REFUSED_S: Final = 60.0
"""The pause after a refusal: only an operator can change it, and then the host should come back by itself."""


def renew_at(credentials: Credentials, chance: float) -> float:
    """When to renew, in Unix seconds. `chance` is a random number from 0 to 1."""
    issued = credentials.not_before + CLOCK_SKEW.total_seconds()
    lifetime_s = max(0.0, credentials.not_after - issued)
    return issued + lifetime_s * (RENEW_AFTER - JITTER * chance)


def retry_after_s(failures: int, chance: float) -> float:
    """The pause after so many failures in a row: twice as long each time, up to a minute, and not the same for all."""
    longest: float = min(RETRY_MOST_S, RETRY_FIRST_S * 2 ** min(failures - 1, 10))
    return longest * (0.5 + chance / 2)
