"""Swarms that wait for a lease of another swarm to end, because their origin or their hosts are at a limit.

The problem: a host may want thousands of blobs. If swarms waited in one line, one host could keep all others from an
origin, and each lease that ends would have the whole line examined.

Rules:
1. A swarm waits on behalf of one of its hosts: in the line of that host's witness for its origin. Of the hosts that
   could get the lease it is one in whose line the fewest swarms come before it.
2. When a lease ends, the first swarm of each line for its origin is tried, and of each line of its witness. The line
   that was given a lease least recently comes first. At most TRIED lines of either kind are tried. A swarm that gets
   the lease has the next ones tried.
3. Swarms that clients wait for and swarms of the background have lines of their own. Those of clients are tried first.
4. In a line, the blob comes first that has been wanted for the longest time (`Swarm.place`). If the swarms of a line
   took turns, all images that a host pulls at once would be complete at the end of the last one. If all hosts want
   the same images, the swarm that comes first in several lines waits in the one that is tried next.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from scheduler.core.members import Member

if TYPE_CHECKING:
    from scheduler.core.swarm import Swarm

TRIED: Final = 32

K = TypeVar("K")
V = TypeVar("V")


class _Origin(NamedTuple):
    """An upstream, and whether the swarms that wait for it are of the background."""

    upstream: str
    background: bool


_Line = tuple[_Origin, str]
"""An origin and a witness."""

_PLACE: Final = attrgetter("place")


class OverQuota:
    """The lines of swarms."""

    def __init__(self) -> None:
        self._line_of: Final[dict[Swarm, _Line]] = {}
        self._by_origin: Final[dict[_Origin, dict[str, list[Swarm]]]] = {}
        """The lines of each origin by witness: the next to be tried first."""
        self._origins: Final[dict[str, dict[_Origin, None]]] = {}
        """The origins for which each witness has a line: the next to be tried first."""

    def __contains__(self, swarm: Swarm) -> bool:
        return swarm in self._line_of

    def add(self, swarm: Swarm, members: Iterable[Member]) -> None:
        """Let a swarm wait, of which none of these members may have a lease now.

        One that waits already keeps its line, unless fewer come before it in another.
        """
        background = swarm.is_background
        lines = {_line(member, background): None for member in members}
        line = min(lines, key=lambda each: (self._older(each, swarm), len(self._swarms(each))))
        present = self._line_of.get(swarm)
        if present is not None and present[0].background is not background:
            present = None
        if present is not None and self._older(present, swarm) <= self._older(line, swarm):
            return
        self.discard(swarm)
        if not self._older(line, swarm):
            line = next(
                (each for each in self._tried_next(line[0]) if each in lines and not self._older(each, swarm)), line
            )
        origin, witness = self._line_of[swarm] = line
        insort(self._by_origin.setdefault(origin, {}).setdefault(witness, []), swarm, key=_PLACE)
        self._origins.setdefault(witness, {})[origin] = None

    def discard(self, swarm: Swarm) -> None:
        """A swarm does not wait any more."""
        line = self._line_of.pop(swarm, None)
        if line is None:
            return
        origin, witness = line
        self._by_origin[origin][witness].remove(swarm)
        if self._by_origin[origin][witness]:
            return
        del self._by_origin[origin][witness]
        del self._origins[witness][origin]
        if not self._by_origin[origin]:
            del self._by_origin[origin]
        if not self._origins[witness]:
            del self._origins[witness]

    def next(self, ended: Member) -> list[Swarm]:
        """The swarms to try, because a lease of this member has ended."""
        return self._firsts(*_line(ended, background=False))

    def after(self, swarm: Swarm) -> list[Swarm]:
        """A swarm that waits was given a lease: the other lines come first now. Returns the swarms to try after it."""
        origin, witness = self._line_of[swarm]
        self.discard(swarm)
        lines = self._by_origin.get(origin, {})
        if witness in lines:
            lines[witness] = lines.pop(witness)
        return self._firsts(origin, witness)

    def of_background(self, upstream: str) -> list[Swarm]:
        """The swarms to try that wait for an upstream, because the background may have it again."""
        return self._first_of_each(_Origin(upstream, background=True))

    def _firsts(self, origin: _Origin, witness: str) -> list[Swarm]:
        clients = self._first_of_each(_Origin(origin.upstream, background=False))
        lines = [(each, witness) for each in sorted(_turned(self._origins.get(witness, {})), key=_is_background)]
        own = [self._swarms(line)[0] for line in lines]
        return clients + own + self.of_background(origin.upstream)

    def _first_of_each(self, origin: _Origin) -> list[Swarm]:
        return [self._swarms((origin, each))[0] for each in _turned(self._by_origin.get(origin, {}))]

    def others_wait(self, member: Member) -> bool:
        """Whether swarms wait for the origin of a member, on behalf of other witnesses, that do not come after it."""
        origin, witness = _line(member, background=False)
        behind = self._by_origin.get(_Origin(origin.upstream, background=True), {}) if member.background else {}
        return any(each != witness for each in (*islice(self._by_origin.get(origin, {}), 2), *islice(behind, 2)))

    def validate(self) -> None:
        """Raise AssertionError if a line is empty, or a swarm is in none."""
        lines = {
            swarm: (origin, witness)
            for origin, of_origin in self._by_origin.items()
            for witness, swarms in of_origin.items()
            for swarm in swarms
        }
        assert lines == self._line_of
        assert all(swarms for of_origin in self._by_origin.values() for swarms in of_origin.values())
        pairs = {(origin, witness) for witness, origins in self._origins.items() for origin in origins}
        assert pairs == set(lines.values())

    def _tried_next(self, origin: _Origin) -> list[_Line]:
        return [(origin, each) for each in islice(self._by_origin.get(origin, {}), TRIED)]

    def _older(self, line: _Line, swarm: Swarm) -> int:
        """How many of a line come before a swarm."""
        return bisect_left(self._swarms(line), swarm.place, key=_PLACE)

    def _swarms(self, line: _Line) -> Sequence[Swarm]:
        origin, witness = line
        return self._by_origin.get(origin, {}).get(witness, ())


def _line(member: Member, background: bool) -> _Line:
    upstream = member.source.upstream if member.source else ""
    return _Origin(upstream, background), member.host.identity.witness


def _is_background(origin: _Origin) -> bool:
    return origin.background


def _turned(lines: dict[K, V]) -> list[K]:
    """The keys of the first TRIED lines, which are the last from now on."""
    first = list(islice(lines, TRIED))
    if len(first) < len(lines):
        for key in first:
            lines[key] = lines.pop(key)
    return first
