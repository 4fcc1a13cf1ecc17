"""Who is sent a piece now, who waits for its turn, and who is told when there is room.

1. One piece goes out at a time, at full speed, as long as it fills the line: sharing a line k ways costs a cold swarm
   k / log2(1 + k) of its ramp (Mundinger, Weber and Weiss, 2008). Where a receiver is slow, or has others that send to
   it, a part of the line is unused, and another piece goes out beside it; at most `slots` do.
2. Nobody waits for long: what a host needs most, and who has it, has changed by the time that its turn comes. But one
   may wait while the last of a piece goes out alone, so that the line is never idle between two pieces.
3. A host that finds this one busy is remembered, and told when it can come; it chooses anew then, or has no need any
   more. So two are told for each piece that may go out: who comes first is served.
4. A host that is served while others are remembered takes its place behind them: it need not ask to be refused.
5. A host has all slots but one at most: whatever it does with what it is sent, others are served.
6. Who asks from another site comes first: a whole site waits for the piece, and those nearby would always be quicker.
   So does who checks a piece (`scheduler.core.spot_checks`): all others wait for the result.
7. Whoever has a client that waits comes before all whose requests are of the background, and those are refused while
   such a host is remembered and a piece goes out. So a client's piece waits for one piece of the background at most.
8. If a piece begins beside others because a part of the line is unused, the next few go out as many at a time, three at
   most, whether or not the line seems full when they begin: where receivers have several senders, it soon is not again.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum, auto
from itertools import islice
from typing import Final, Generic, NamedTuple, TypeVar

FREE_SOON_S = 0.05
"""How long before a piece is out the next one may come and wait: some round trips between loaded hosts."""

MAX_WAITING = 1
SHARED_SLOTS = 3
SHARED_PIECES = 4
"""Four pieces go out two at a time, and eight three at a time (rule 8). Few: a part of the line may only have seemed
unused, or was tried (`peer.core.uplink.PROBE_INTERVAL_S`). Three at a time where two fill the line, or eight pieces two
at a time, cost the newcomers of a warm swarm 2 to 4 % (docs/decisions, 0062)."""

TOLD = 2
MAX_REFUSED = 4096
"""Hosts that are remembered, each once for each blob that it was refused a piece of. A host has 16 neighbours for each
blob and may pull 30 images at once, six layers of each: 2,880. One that is forgotten is told nothing, and comes back
only after `peer.core.neighbours.BUSY_S`."""

Request = TypeVar("Request", bound=Hashable)
"""Stands for one request: what the caller tells them apart by."""


RANKS: Final = tuple((background, ordinary) for background in (False, True) for ordinary in (False, True))
"""The lowest comes first (rules 6 and 7). If too many hosts are remembered, the oldest of the highest is forgotten."""


class UploadRequest(NamedTuple):
    """A host, and the blob (raw digest) of which it wants a piece. `far`: it is in another site.

    `background`: no client waits for the piece. `checks`: others wait until the host has compared it.
    """

    host: str
    digest: bytes
    far: bool = False
    background: bool = False
    checks: bool = False

    @property
    def rank(self) -> tuple[bool, bool]:
        """One of `RANKS`."""
        return self.background, not (self.far or self.checks)


class Uplink(Enum):
    """What there is on the line: a part that is unused, or a piece that is out within `FREE_SOON_S`, or nothing."""

    FREE = auto()
    FREE_SOON = auto()
    FULL = auto()


class Admission(Enum):
    """When a request is served."""

    SEND = auto()
    QUEUE = auto()
    REJECT = auto()


class Choker(Generic[Request]):
    """`active` pieces are going out now, of at most `slots`. It `remembers` so many hosts that were refused."""

    __slots__ = ("_refused", "_remembered", "_remembers", "_shared", "_shared_slots", "_waiting", "active", "slots")

    def __init__(self, slots: int, *, remembers: int = MAX_REFUSED) -> None:
        self.slots = slots
        self._remembers: Final = remembers
        self.active = 0
        self._shared = 0
        """So many pieces are still to go out `_shared_slots` at a time (rule 8)."""
        self._shared_slots = 1
        self._waiting: Final[dict[Request, UploadRequest | None]] = {}
        self._refused: Final[dict[tuple[bool, bool], dict[UploadRequest, None]]] = {rank: {} for rank in RANKS}
        self._remembered = 0

    def ask(self, request: Request, receiver: UploadRequest | None, uplink: Uplink, *, already: int = 0) -> Admission:
        """A request comes in; `SEND`: its piece goes out until `end`. `receiver` is None if it is not known.

        `already` pieces go out to this host now.
        """
        if already >= max(1, self.slots - 1):
            self._remember(receiver)
            return Admission.REJECT
        is_behind = receiver is not None and receiver.background and self.active
        if is_behind and any(refused for (background, _), refused in self._refused.items() if not background):
            self._remember(receiver)
            return Admission.REJECT
        if not self._waiting and self._may_begin(uplink):
            self._begin(uplink)
            admission = Admission.SEND
        elif uplink is Uplink.FREE_SOON and self.is_alone and len(self._waiting) < MAX_WAITING:
            self._waiting[request] = receiver
            admission = Admission.QUEUE
        else:
            self._remember(receiver)
            return Admission.REJECT
        if receiver is not None and self._remembered and receiver in (refused := self._refused[receiver.rank]):
            del refused[receiver]
            self._remembered -= 1
        return admission

    def cancel(self, request: Request, *, rejected: bool = False) -> None:
        """One that waits does not wait any longer; `rejected`: it is refused, and its host remembered."""
        receiver = self._waiting.pop(request, None)
        if rejected:
            self._remember(receiver)

    def end(self, requeue: UploadRequest | None = None) -> None:
        """A piece is out, or its receiver has gone. `requeue`: whom it went to, if others were remembered by then."""
        self.active -= 1
        self._shared = max(0, self._shared - 1)
        self._remember(requeue._replace(checks=False) if requeue and requeue.checks else requeue)

    def next(self, uplink: Uplink) -> Request | None:
        """Whose turn has come: its piece goes out until `end`. To be called when a piece is out, and now and then."""
        if not self._waiting or not self._may_begin(uplink):
            return None
        request = next(iter(self._waiting))
        del self._waiting[request]
        self._begin(uplink)
        return request

    def unchoke(self, uplink: Uplink) -> list[UploadRequest]:
        """Whom to tell that they can come; each is told once. To be called when `uplink` has changed."""
        if not self.is_to_tell:
            return []
        if not (uplink is Uplink.FREE_SOON and self.is_alone) and not self._may_begin(uplink):
            return []
        refused = next(filter(None, self._refused.values()))
        told = list(islice(refused, TOLD))
        for receiver in told:
            del refused[receiver]
        self._remembered -= len(told)
        return told

    @property
    def is_alone(self) -> bool:
        """Whether one piece goes out: only then may another come before it is out (rule 2)."""
        return self.active == 1

    @property
    def is_full(self) -> bool:
        """Whether no other piece goes out, however much of the line is unused."""
        return self.active >= self.slots

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits, or is to be told."""
        return bool(self._waiting or self._remembered)

    @property
    def is_to_tell(self) -> bool:
        """Whether somebody is to be told, and nobody waits."""
        return not self._waiting and self._remembered > 0

    def _may_begin(self, uplink: Uplink) -> bool:
        is_shared = self._shared > 0 and self.active < self._shared_slots
        return not self.active or ((uplink is Uplink.FREE or is_shared) and self.active < self.slots)

    def _begin(self, uplink: Uplink) -> None:
        if self.active and uplink is Uplink.FREE:
            self._shared, self._shared_slots = SHARED_PIECES * self.active, min(SHARED_SLOTS, self.active + 1)
        self.active += 1

    def _remember(self, receiver: UploadRequest | None) -> None:
        if receiver is None or receiver in (refused := self._refused[receiver.rank]):
            return
        refused[receiver] = None
        if self._remembered < self._remembers:
            self._remembered += 1
        else:
            last = next(refused for refused in reversed(self._refused.values()) if refused)
            del last[next(iter(last))]
