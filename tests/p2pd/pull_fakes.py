"""What a pull is given in tests: a clock that waits for nothing, and an ear for its progress."""

from __future__ import annotations

import threading


class InstantClock:
    """Waits at once for as long as it is asked to."""

    def __init__(self) -> None:
        self.waited_s: list[float] = []

    def monotonic(self) -> float:
        return sum(self.waited_s)

    def unix(self) -> float:
        return self.monotonic()

    def wait(self, ended: threading.Event, seconds: float) -> bool:
        self.waited_s.append(seconds)
        return ended.is_set()


class Recorder:
    """A `PullProgress` that remembers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.layers: dict[str, tuple[int, str]] = {}
        self.counts: dict[str, int] = {}
        self.verdicts: dict[str, bool] = {}

    def on_layer(self, digest: str, size_bytes: int, media_type: str) -> None:
        with self._lock:
            self.layers[digest] = (size_bytes, media_type)
            self.counts[digest] = 0

    def on_bytes(self, digest: str, count: int) -> None:
        with self._lock:
            self.counts[digest] += count

    def on_verdict(self, digest: str, ok: bool, seconds: float) -> None:
        assert seconds >= 0
        with self._lock:
            self.verdicts[digest] = ok
