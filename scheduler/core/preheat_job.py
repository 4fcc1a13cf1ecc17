"""A preheat: images that hosts are to have before clients ask for them. Its order, its hosts, and their states.

A job that is over may *stand*: hosts that connect while its pins last, and that it is for, are told, too.

What a host does for a job is idempotent: a host that is told twice, because the scheduler or the host was killed in
between, does what is left, which may be nothing, and reports.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from scheduler.core.preheat_hosts import Selection


class TargetState(Enum):
    """The state of one host in a job."""

    WAITING = auto()
    """It is away, or was not told yet."""
    TOLD = auto()
    CONFIRMING = auto()
    """The host says that it is done, and has not announced all that it says it holds."""
    DONE = auto()
    FAILED = auto()
    UNSUPPORTED = auto()
    """The host's version knows no preheats: it was not asked."""
    CANCELLED = auto()
    SKIPPED = auto()
    """The host does not use the image's repository, and the order is for those that do."""


class TargetCause(Enum):
    """The events that change it."""

    TELL = auto()
    LOST = auto()
    SAYS_DONE = auto()
    CONFIRM = auto()
    FAIL = auto()
    SKIP = auto()
    TOO_OLD = auto()
    CANCEL = auto()
    RETRY = auto()


_OPEN: Final = {TargetCause.FAIL: TargetState.FAILED, TargetCause.CANCEL: TargetState.CANCELLED}
_RETRY: Final = {TargetCause.RETRY: TargetState.WAITING}

TARGET_TRANSITIONS: Final[Mapping[TargetState, Mapping[TargetCause, TargetState]]] = {
    TargetState.WAITING: {
        TargetCause.TELL: TargetState.TOLD,
        TargetCause.TOO_OLD: TargetState.UNSUPPORTED,
        **_OPEN,
    },
    TargetState.TOLD: {
        TargetCause.LOST: TargetState.WAITING,
        TargetCause.SAYS_DONE: TargetState.CONFIRMING,
        TargetCause.SKIP: TargetState.SKIPPED,
        **_OPEN,
    },
    TargetState.CONFIRMING: {
        TargetCause.LOST: TargetState.WAITING,
        TargetCause.CONFIRM: TargetState.DONE,
        **_OPEN,
    },
    TargetState.DONE: {},
    TargetState.SKIPPED: {},
    TargetState.FAILED: _RETRY,
    TargetState.UNSUPPORTED: _RETRY,
    TargetState.CANCELLED: _RETRY,
}

AT_IT: Final = frozenset({TargetState.TOLD, TargetState.CONFIRMING})
OPEN_STATES: Final = AT_IT | {TargetState.WAITING}


class JobState(Enum):
    """PENDING: it has not begun, or waits for its hours. It has failed if no host has what it orders."""

    PENDING = auto()
    RUNNING = auto()
    SUCCEEDED = auto()
    PARTLY = auto()
    FAILED = auto()
    CANCELLED = auto()


STANDING_STATES: Final = (JobState.SUCCEEDED, JobState.PARTLY)
"""How a job has ended that may stand: some host has everything."""


@dataclass(frozen=True, slots=True)
class Order:
    """What hosts are told. `platforms` are as `linux/arm64`; none: each host's own; `all`: all of them.

    `rate_bytes_per_s` is for each host (0: no limit). What was fetched is kept for `ttl_s`.
    """

    id: str
    images: tuple[str, ...]
    platforms: tuple[str, ...] = ()
    rate_bytes_per_s: int = 0
    ttl_s: float = 0.0
    only_where_used: bool = False
    """It is for hosts whose clients have pulled from the images' repositories before."""
    most_bytes: int = 0
    """Each host fetches at most so many, and evicts nothing for them (0: no such bound)."""

    @property
    def content(self) -> tuple[object, ...]:
        """What is ordered."""
        return self.images, self.platforms

    def grows(self, selection: Selection) -> bool:
        """Whether it is also for hosts that connect later. None of them has used a repository yet."""
        return self.ttl_s > 0.0 and selection.grows and not self.only_where_used


@dataclass(slots=True)
class Target:
    """One host of a job. `attempt` counts the orders that are to be carried out anew."""

    host: str
    site: str = ""
    state: TargetState = TargetState.WAITING
    attempt: int = 1
    reason: str = ""
    digests: bytes = b""
    """The blobs (raw SHA-256, one after the other) that the host says it holds."""
    roots: bytes = b""
    """The manifests that the images' names stand for, as the host says."""
    size_bytes: int = 0
    fetched_bytes: int = 0
    unpinned_bytes: int = 0
    """What there was no room to pin."""
    confirmed: bool = False
    """Whether the host has announced all that it says it holds."""
    asked: int = 0
    """How often it was looked whether it has."""

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES

    @property
    def may_try_again(self) -> bool:
        return TargetCause.RETRY in TARGET_TRANSITIONS[self.state]

    def try_again(self) -> None:
        """Raises KeyError as `step` does."""
        self.step(TargetCause.RETRY)
        self.attempt += 1

    def step(self, cause: TargetCause, reason: str = "") -> None:
        """Change the state. Raises KeyError for a cause that the state does not have: a defect."""
        self.state = TARGET_TRANSITIONS[self.state][cause]
        self.reason = reason


@dataclass(slots=True)
class Job:
    """A preheat in the scheduler's memory. Times are of its clock (monotonic, seconds).

    `credential` is for hosts alone, and is in nothing that is shown. With `open_s` it runs for so long from `begins_at`
    on, and again a day later, until it is done.
    """

    order: Order
    selection: Selection
    begins_at: float
    ends_at: float
    state: JobState = JobState.PENDING
    targets: dict[str, Target] = field(default_factory=dict)
    reason: str = ""
    credential: str = field(default="", repr=False)
    still_open: dict[str, Target] = field(default_factory=dict)
    """Those of the targets that are open."""
    at_it: int = 0
    """How many of them have been told."""
    open_s: float = 0.0
    held_images: tuple[str, ...] = ()
    """The images by digest, once a host that was given the credential holds them."""
    result: JobState | None = None
    """How it was when it was over, if it stands. Then `state` says whether hosts are told, or its hours waited for."""
    pinned_until: float = 0.0
    """If it stands: hosts are told until then, and keep the images until then."""
    is_part: bool = False
    """Other schedulers have other hosts of it. Its hosts are given by PreheatHosts, and it is ended from outside."""

    @property
    def pauses_at(self) -> float:
        """When its hours are over."""
        return self.begins_at + self.open_s if self.open_s else self.ends_at

    @property
    def shown_state(self) -> JobState:
        return self.result or self.state

    @property
    def is_open(self) -> bool:
        return self.shown_state in (JobState.PENDING, JobState.RUNNING)

    def keep_s(self, now: float) -> float:
        """For how long a host keeps what it is told of now."""
        return min(self.order.ttl_s, max(1.0, self.pinned_until - now)) if self.pinned_until else self.order.ttl_s

    @property
    def is_bounded(self) -> bool:
        """Whether not all hosts are told at once, so that others are told when one is done."""
        return bool(self.pinned_until) or (bool(self.credential) and not self.held_images)

    @property
    def grows(self) -> bool:
        """Whether it is also for hosts that connect later."""
        return self.order.grows(self.selection)

    def open(self, target: Target) -> None:
        """One more of the targets is open: it waits."""
        self.still_open[target.host] = target

    def step(self, target: Target, cause: TargetCause, reason: str = "") -> None:
        """Change the state of an open target. Raises KeyError as Target.step does."""
        self.at_it -= target.state in AT_IT
        target.step(cause, reason)
        self.at_it += target.state in AT_IT

    def forget(self, target: Target) -> None:
        """A target is not open any longer, or no target."""
        del self.still_open[target.host]
        self.at_it -= target.state in AT_IT

    def counts(self) -> Counter[TargetState]:
        return Counter(target.state for target in self.targets.values())

    def outcome(self) -> JobState:
        """The state of a job without open hosts."""
        counts = self.counts()
        if self.targets and counts[TargetState.DONE] + counts[TargetState.SKIPPED] == len(self.targets):
            return JobState.SUCCEEDED
        if counts[TargetState.CANCELLED]:
            return JobState.CANCELLED
        return JobState.PARTLY if counts[TargetState.DONE] else JobState.FAILED
