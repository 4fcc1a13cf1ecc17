"""A token bucket that lets a debt be made: what has been received already cannot be refused, only paid for.

Rules: no clock is read; whoever takes passes `now` and waits as long as it is told to. Takers that do so get, in any
stretch of time, at most `burst_bytes` more than the rate gives, plus the one amount that each of them has just taken.
"""

from __future__ import annotations


class TokenBucket:
    """Bytes that may pass: they gather at `rate_bytes_per_s` up to `burst_bytes`."""

    def __init__(self, rate_bytes_per_s: float, burst_bytes: float) -> None:
        if rate_bytes_per_s <= 0 or burst_bytes < 0:
            raise ValueError("a bucket's rate is above zero and its burst is not below it")
        self._rate_bytes_per_s = rate_bytes_per_s
        self._burst_bytes = burst_bytes
        self._level_bytes = burst_bytes
        self._filled_at: float | None = None

    def take(self, amount_bytes: int, now: float) -> float:
        """Take `amount_bytes`; returns for how many seconds the taker waits before it takes again.

        `now` may stand still or go back (two threads that read the clock and then get the lock in the other order):
        then nothing gathers.
        """
        if self._filled_at is None:
            self._filled_at = now
        if now > self._filled_at:
            self._level_bytes += (now - self._filled_at) * self._rate_bytes_per_s
            if self._level_bytes > self._burst_bytes:
                self._level_bytes = self._burst_bytes
            self._filled_at = now
        self._level_bytes -= amount_bytes
        return 0.0 if self._level_bytes >= 0 else -self._level_bytes / self._rate_bytes_per_s
