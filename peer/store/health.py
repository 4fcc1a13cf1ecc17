"""The state of the store, in one place: whether it takes new blobs, and why not.

Every write says how it went. A change is logged once, when it happens. A store that takes nothing new still serves what
it holds.
"""

from __future__ import annotations

import threading
from enum import StrEnum

import structlog
from msgspec import Struct

from peer.errors import FileLimitError, StoreError, StoreFullError, StoreReadOnlyError

log = structlog.get_logger("peer.store")


class Condition(StrEnum):
    """Whether new blobs can be stored."""

    WRITABLE = "writable"
    FULL = "full"
    """No room, and nothing left to evict."""
    READ_ONLY = "read-only"
    FAILING = "failing"
    """The disk gives errors, or the directory is gone."""


class StoreState(Struct, frozen=True):
    """`cause` says what is wrong and what to do; "" for a store that is well."""

    condition: Condition
    cause: str = ""

    @property
    def is_well(self) -> bool:
        return self.condition is Condition.WRITABLE


class Health:
    """From any thread."""

    def __init__(self) -> None:
        self.state = StoreState(Condition.WRITABLE)
        self._lock = threading.Lock()

    def failed(self, error: StoreError) -> None:
        """A write has failed. Our own limit of open files says nothing of the disk, and changes nothing."""
        if isinstance(error, FileLimitError):
            return
        match error:
            case StoreFullError():
                condition = Condition.FULL
            case StoreReadOnlyError():
                condition = Condition.READ_ONLY
            case _:
                condition = Condition.FAILING
        self._change(StoreState(condition, str(error)))

    def worked(self) -> None:
        """A write has succeeded."""
        if not self.state.is_well:
            self._change(StoreState(Condition.WRITABLE))

    def _change(self, state: StoreState) -> None:
        with self._lock:
            before, self.state = self.state, state
        if before.condition is state.condition:
            return
        if state.is_well:
            log.warning("the store takes new blobs again", was=before.condition.value)
        else:
            log.warning("the store takes nothing new", condition=state.condition.value, cause=state.cause)
