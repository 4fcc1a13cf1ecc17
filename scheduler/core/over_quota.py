"""Swarms that wait for a lease of another swarm to end, because their origin or their hosts are at a limit.

The problem: a host may want thousands of blobs. If swarms waited in one line, one host could keep all others from an
origin, and each lease that ends would have the whole line examined.

Rules:
1. A swarm waits on behalf of one of its hosts: in the line of that host's witness for its origin. Of the hosts that
   could get the lease it is the one with the shortest line.
2. When a lease ends, the first swarm of each line for its origin is tried, and of each line of its witness. The line
   that was given a lease least recently comes first. At most TRIED lines of either kind are tried. A swarm that gets
   the lease has the next ones tried.
3. Swarms that clients wait for and swarms of the background have lines of their own. Those of clients are tried first.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
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


class OverQuota:
    """The lines of swarms."""

    def __init__(self) -> None:
        self._line_of: Final[dict[Swarm, _Line]] = {}
        self._by_origin: Final[dict[_Origin, dict[str, dict[Swarm, None]]]] = {}
        """The lines of each origin by witness: the next to be tried first."""
        self._origins: Final[dict[str, dict[_Origin, None]]] = {}
        """The origins for which each witness has a line: the next to be tried first."""

    def __contains__(self, swarm: Swarm) -> bool:
        return swarm in self._line_of

    def add(self, swarm: Swarm, members: Iterable[Member]) -> None:
        """Let a swarm wait, of which none of these members may have a lease now.

        One that waits already keeps its place, unless another line is shorter.
        """
        background = swarm.is_background
        line = min((_line(member, background) for member in members), key=lambda each: len(self._swarms(each)))
        present = self._line_of.get(swarm)
        if present is not None and present[0].background is not background:
            present = None
        if present is not None and len(self._swarms(present)) <= len(self._swarms(line)) + 1:
            return
        self.discard(swarm)
        origin, witness = self._line_of[swarm] = line
        self._by_origin.setdefault(origin, {}).setdefault(witness, {})[swarm] = None
        self._origins.setdefault(witness, {})[origin] = None

    def discard(self, swarm: Swarm) -> None:
        """A swarm does not wait any more."""
        line = self._line_of.pop(swarm, None)
        if line is None:
            return
        origin, witness = line
        del self._by_origin[origin][witness][swarm]
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
        own = [next(iter(self._swarms(line))) for line in lines]
        return clients + own + self.of_background(origin.upstream)

    def _first_of_each(self, origin: _Origin) -> list[Swarm]:
        return [next(iter(self._swarms((origin, each)))) for each in _turned(self._by_origin.get(origin, {}))]

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

    def _swarms(self, line: _Line) -> dict[Swarm, None]:
        origin, witness = line
        return self._by_origin.get(origin, {}).get(witness, {})


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
