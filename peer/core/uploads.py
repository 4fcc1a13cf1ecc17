"""Who is sent a piece now, and who is told when there is room again.

1. One piece goes out at a time, at full speed, as long as it fills the line: sharing a line k ways costs a cold swarm
   k / log2(1 + k) of its ramp (Mundinger, Weber and Weiss, 2008). Where a receiver is slow, or has others that send to
   it, a part of the line is left over: there is *room*, and another piece goes out beside it; at most `slots` do.
2. Nobody waits in a queue: what a host needs most, and who has it, has changed by the time that its turn comes. A host
   that finds this one busy is remembered, and told when there is room; it chooses anew then, or has no need any more.
3. So two are told for each piece that may go out: who comes first is served. One that is not told for long asks again.
4. Who asks from another site comes first: a whole site waits for the piece, and those nearby would always be quicker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

TOLD = 2
MAX_REFUSED = 64
"""Hosts that are remembered; a host has at most 16 neighbours for each blob. The oldest is forgotten."""


class Refused(NamedTuple):
    """A host that found this one busy, and the blob (raw digest) of which it wanted a piece. `far`: in another site."""

    host: str
    digest: bytes
    far: bool = False


@dataclass(slots=True)
class Uploads:
    """`going` pieces are going out now. `room` says, each time, whether they leave a part of the line unused."""

    slots: int
    going: int = 0
    _refused: dict[Refused, None] = field(default_factory=dict)

    def begin(self, asking: Refused | None, *, room: bool) -> bool:
        """Whether a piece may go out now, until `end`. Who is `asking`, if it is known, is remembered if not."""
        if self._may_begin(room=room):
            self.going += 1
            if asking is not None:
                self._refused.pop(asking, None)
            return True
        if asking is not None:
            self._refused.setdefault(asking)
            if len(self._refused) > MAX_REFUSED:
                del self._refused[next(iter(self._refused))]
        return False

    def end(self) -> None:
        """A piece is out, or its receiver has gone."""
        self.going -= 1

    def tell(self, *, room: bool) -> list[Refused]:
        """Whom to tell that there is room, now that a piece is out or some time has passed; each is told once."""
        if not self._may_begin(room=room):
            return []
        told = ([asking for asking in self._refused if asking.far] or list(self._refused))[:TOLD]
        for asking in told:
            del self._refused[asking]
        return told

    @property
    def waited_for(self) -> bool:
        """Whether somebody is to be told as soon as there is room."""
        return bool(self._refused)

    def _may_begin(self, *, room: bool) -> bool:
        return not self.going or (room and self.going < self.slots)
