"""Swarms that wait for a lease of another swarm to end, because their origin or their hosts are at a limit.

The problem: a host may want thousands of blobs. If swarms waited in one line, one host could keep all others from an
origin, and each lease that ends would have the whole line examined.

Rules:
1. A swarm waits on behalf of one of its hosts: in the line of that host's witness for its origin. Of the hosts that
   could get the lease it is the one with the shortest line.
2. When a lease ends, the first swarm of each line for its origin is tried, and of each line of its witness. The line
   that was given a lease least recently comes first. At most TRIED lines of either kind are tried. A swarm that gets
   the lease has the next ones tried.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final

from scheduler.core.members import Member

if TYPE_CHECKING:
    from scheduler.core.swarm import Swarm

TRIED: Final = 32

_Line = tuple[str, str]
"""An upstream and a witness."""


class OverQuota:
    """The lines of swarms."""

    def __init__(self) -> None:
        self._line_of: Final[dict[Swarm, _Line]] = {}
        self._by_upstream: Final[dict[str, dict[str, dict[Swarm, None]]]] = {}
        """The lines of each upstream by witness: the next to be tried first."""
        self._upstreams: Final[dict[str, dict[str, None]]] = {}
        """The upstreams for which each witness has a line: the next to be tried first."""

    def __contains__(self, swarm: Swarm) -> bool:
        return swarm in self._line_of

    def add(self, swarm: Swarm, members: Iterable[Member]) -> None:
        """Let a swarm wait, of which none of these members may have a lease now.

        One that waits already keeps its place, unless another line is shorter.
        """
        line = min(map(_line, members), key=lambda each: len(self._swarms(each)))
        present = self._line_of.get(swarm)
        if present is not None and len(self._swarms(present)) <= len(self._swarms(line)) + 1:
            return
        self.discard(swarm)
        upstream, witness = self._line_of[swarm] = line
        self._by_upstream.setdefault(upstream, {}).setdefault(witness, {})[swarm] = None
        self._upstreams.setdefault(witness, {})[upstream] = None

    def discard(self, swarm: Swarm) -> None:
        """A swarm does not wait any more."""
        line = self._line_of.pop(swarm, None)
        if line is None:
            return
        upstream, witness = line
        del self._by_upstream[upstream][witness][swarm]
        if self._by_upstream[upstream][witness]:
            return
        del self._by_upstream[upstream][witness]
        del self._upstreams[witness][upstream]
        if not self._by_upstream[upstream]:
            del self._by_upstream[upstream]
        if not self._upstreams[witness]:
            del self._upstreams[witness]

    def next(self, ended: Member) -> list[Swarm]:
        """The swarms to try, because a lease of this member has ended."""
        return self._firsts(_line(ended))

    def after(self, swarm: Swarm) -> list[Swarm]:
        """A swarm that waits was given a lease: the other lines come first now. Returns the swarms to try after it."""
        upstream, witness = line = self._line_of[swarm]
        self.discard(swarm)
        lines = self._by_upstream.get(upstream, {})
        if witness in lines:
            lines[witness] = lines.pop(witness)
        return self._firsts(line)

    def _firsts(self, line: _Line) -> list[Swarm]:
        upstream, witness = line
        lines = [(upstream, each) for each in _turned(self._by_upstream.get(upstream, {}))]
        lines += [(each, witness) for each in _turned(self._upstreams.get(witness, {}))]
        return [next(iter(self._swarms(line))) for line in lines]

    def others_wait(self, member: Member) -> bool:
        """Whether swarms wait for the origin of a member, on behalf of other witnesses."""
        upstream, witness = _line(member)
        lines = self._by_upstream.get(upstream, {})
        return len(lines) > (witness in lines)

    def validate(self) -> None:
        """Raise AssertionError if a line is empty, or a swarm is in none."""
        lines = {
            swarm: (upstream, witness)
            for upstream, of_upstream in self._by_upstream.items()
            for witness, swarms in of_upstream.items()
            for swarm in swarms
        }
        assert lines == self._line_of
        assert all(swarms for of_upstream in self._by_upstream.values() for swarms in of_upstream.values())
        pairs = {(upstream, witness) for witness, upstreams in self._upstreams.items() for upstream in upstreams}
        assert pairs == set(lines.values())

    def _swarms(self, line: _Line) -> dict[Swarm, None]:
        upstream, witness = line
        return self._by_upstream.get(upstream, {}).get(witness, {})


def _line(member: Member) -> _Line:
    return member.source.upstream if member.source else "", member.host.identity.witness


def _turned(lines: dict[str, dict[Swarm, None]] | dict[str, None]) -> list[str]:
    """The keys of the first TRIED lines, which are the last from now on."""
    first = list(islice(lines, TRIED))
    if len(first) < len(lines):
        for key in first:
            lines[key] = lines.pop(key)  # type: ignore[assignment] # as it was
    return first
