"""Calls to Redis from worker threads, for stores whose errors are their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from scheduler.shared.errors import SharedStateError
from scheduler.shared.redis_clients import RedisPlace, blocking_client, translated

TRY_AGAIN_S: Final = 1.0


class RedisCalls:
    """A client for any thread. Its calls raise what `failed` makes of the reason; after a failure, at once for a while.

    So the threads that many requests are answered in do not all wait for a Redis that hangs.
    """

    def __init__(
        self, place: RedisPlace, failed: Callable[[str], Exception], *, try_again_s: float = TRY_AGAIN_S
    ) -> None:
        """Raises what `failed` makes if the password cannot be read."""
        self.place: Final = place
        self._make_error: Final = failed
        self._try_again_s: Final = try_again_s
        self._failed: tuple[float, str] | None = None
        try:
            self.client: Final[Any] = blocking_client(place)
        except SharedStateError as error:
            raise failed(str(error)) from None

    @contextmanager
    def using(self) -> Iterator[Any]:
        """The client, to call it."""
        failed = self._failed
        if failed is not None and time.monotonic() - failed[0] < self._try_again_s:
            raise self._make_error(failed[1])
        try:
            with translated(self.place):
                yield self.client
        except SharedStateError as error:
            self._failed = time.monotonic(), str(error)
            raise self._make_error(str(error)) from None
        self._failed = None

    def close(self) -> None:
        self.client.close()
