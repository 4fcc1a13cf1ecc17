"""Pacing: the token bucket of a rate that the operator set, and the amount between two looks at it."""

from __future__ import annotations

from peer.core.token_bucket import TokenBucket

PACED_BYTES = 256 * 1024
"""The amount that is transferred between two looks at the bucket."""

BURST_S = 0.1
"""The longest pause that may be made up for: far longer than a delay of the system's scheduler, far shorter than a
burst that a network would notice."""

LOOK_EVERY_S = 0.1
"""How often whoever waits for the background looks whether a client waits for it by now."""


def pacing_bucket(rate_bytes_per_s: int) -> TokenBucket | None:
    """The bucket of `rate_bytes_per_s`; None for 0, which means no limit."""
    if not rate_bytes_per_s:
        return None
    return TokenBucket(rate_bytes_per_s, max(PACED_BYTES, rate_bytes_per_s * BURST_S))
