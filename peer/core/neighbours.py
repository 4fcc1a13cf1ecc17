"""A download's neighbours: what each holds, how it has been doing, and which piece to ask of which of them next.

Rules:
1. Sets of pieces are integers, a bit for each piece: the questions asked here (who holds what nobody else does?) are
   then a few operations on long integers, whatever the number of pieces.
2. Rarest first among the neighbours; where pieces are equally rare, the lowest index, so that a warm swarm streams.
   What is asked for beyond `IN_ORDER` requests begins at a place of the host's own: where all neighbours hold
   everything, hosts that began together would else hold the same pieces, and have nothing to give each other.
3. Of the neighbours that hold it, in this order: the fewest requests of ours; the nearest; the fastest; by name.
4. Of neighbours in other sites only the pieces are asked that `open_far` has, and only what no neighbour in this site
   holds; such pieces come first, for others here wait for them.
5. A neighbour that answers *busy*, or says so with a piece, is left alone until it says that it can be asked again;
   others are asked meanwhile. That may overtake the answer, for it comes another way.
6. One request to a neighbour at a time; more only where it is the one that is asked: they hide the round trips then.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from scheduler.protocol import link

PER_NEIGHBOUR = 2
BUSY_S = 5.0
"""How long a busy neighbour is left alone that does not say before that it has room again."""

FULL_AFTER_S = 15.0
"""How long a neighbour may be busy each time that it is asked; then it counts as full, and another is asked for."""

FAR = 3
"""The distance of a neighbour in another site."""

IN_ORDER = 3
"""Neighbours that are asked in the order of pieces, before others are asked from the host's own place on."""

EVERYTHING = -1
"""The set of all pieces, however many there are."""


@dataclass(slots=True)
class _Neighbour:
    distance: int
    held: int = 0
    asked: int = 0
    refusals: int = 0
    refused_since: float = 0.0
    busy_until: float = 0.0
    called: bool = False
    """It has said that it can be asked again, while a request to it is under way."""
    piece_s: float = 0.0
    early: tuple[int, int] = (0, 0)
    """What it told of a generation that is not ours, and which: it may have heard of that before us."""


@dataclass(slots=True)
class Neighbours:
    """The neighbours of one download, by host id. `held` of each is a set of pieces as an integer."""

    generation: int = 0
    open_far: int = EVERYTHING
    """The pieces that may be asked of neighbours in other sites."""
    host: str = ""
    """This host's id."""
    _known: dict[str, _Neighbour] = field(default_factory=dict)
    _asking: int = 0
    """How many of them a request is under way to."""
    _far: int = 0
    """How many of them are in other sites."""

    def __contains__(self, host: str) -> bool:
        return host in self._known

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def add(self, host: str, distance: int, asked: int = 0) -> None:
        """`host` is a neighbour; `asked` requests to it are under way from when it was one before."""
        before = self._known.get(host)
        self.remove(host)
        neighbour = self._known[host] = before or _Neighbour(distance, asked=asked)
        neighbour.distance = distance
        self._asking += neighbour.asked > 0
        self._far += distance >= FAR

    def remove(self, host: str) -> None:
        neighbour = self._known.pop(host, None)
        if neighbour is not None:
            self._asking -= neighbour.asked > 0
            self._far -= neighbour.distance >= FAR

    def take_over(self, before: Neighbours) -> None:
        """The neighbours of a download that begins anew: they do not say again what they hold."""
        for host, each in before._known.items():
            self.add(host, each.distance)
            known, is_ahead = self._known[host], each.early[0] > before.generation
            known.held, known.early = each.held, each.early if is_ahead else (before.generation, each.held)

    def on_message(self, host: str, message: link.LinkMessage) -> int | None:
        """News from a neighbour: which pieces it holds by them that it may not have held before.

        None: all that it holds was said, which may be less than before.
        """
        neighbour = self._known.get(host)
        if neighbour is None:
            return 0
        match message:
            case link.Have():
                pieces = 0
                for span in message.spans:
                    pieces |= (1 << span.stop) - (1 << span.first)
                if message.generation == self.generation:
                    neighbour.held |= pieces
                else:
                    told, before = neighbour.early
                    neighbour.early = message.generation, pieces | (before if told == message.generation else 0)
                return pieces if neighbour.distance < FAR else pieces & self.open_far
            case link.Bitfield(_, _, True):  # it has found the SHA-256 right: so it holds all in every generation
                neighbour.held = EVERYTHING
            case link.Bitfield(_, generation, False, have) if generation == self.generation:
                neighbour.held = int.from_bytes(have, "little")
            case link.Bitfield(_, generation, False, have):
                neighbour.early = generation, int.from_bytes(have, "little")
            case link.DontHave():
                neighbour.held, neighbour.early = 0, (0, 0)
            case link.Unchoke():
                neighbour.busy_until = 0.0
                neighbour.called = neighbour.asked > 0
                return self._usable(neighbour)
        return None

    def begin_generation(self, generation: int) -> None:
        """The map is another: what they hold by it is what they have told of it so far."""
        self.generation = generation
        for neighbour in self._known.values():
            told, pieces = neighbour.early
            if neighbour.held != EVERYTHING:
                neighbour.held = pieces if told == generation else 0

    def without(self, pieces: int) -> tuple[str, ...]:
        """Those that do not hold all of these."""
        return tuple([host for host, each in self._known.items() if pieces & ~each.held])

    def count_wanting(self) -> int:
        """How many of them do not hold all."""
        return len([neighbour for neighbour in self._known.values() if neighbour.held != EVERYTHING])

    def held_by_any(self, *, besides: str | None = None) -> int:
        """The pieces that one of them holds, or one other than `besides`."""
        pieces = 0
        for host, neighbour in self._known.items():
            if host != besides:
                pieces |= self._usable(neighbour)
        return pieces

    def held_by_none_but(self, host: str) -> int:
        """The pieces that no other neighbour holds than `host`."""
        return self._usable(self._known[host]) & ~self.held_by_any(besides=host) if host in self._known else 0

    def _usable(self, neighbour: _Neighbour) -> int:
        """The pieces that it may be asked for."""
        return neighbour.held if neighbour.distance < FAR else neighbour.held & self.open_far

    # -- how they are doing ----------------------------------------------------------------------------------------

    def asked(self, host: str) -> None:
        neighbour = self._known.get(host)
        if neighbour is not None:
            if not neighbour.asked:
                self._asking += 1
                neighbour.called = False
            neighbour.asked += 1

    def answered(self, host: str, seconds: float) -> None:
        """It sent a piece, within `seconds`."""
        neighbour = self._known.get(host)
        if neighbour is not None:
            self._has_answered(neighbour)
            neighbour.refusals = 0
            neighbour.piece_s = seconds if not neighbour.piece_s else 0.75 * neighbour.piece_s + 0.25 * seconds

    def let_go(self, host: str) -> None:
        """A request to it ended without an answer that says anything of it."""
        if host in self._known:
            self._has_answered(self._known[host])

    def refused(self, host: str, now: float) -> bool:
        """It is busy; True if it has been so for long enough to be replaced."""
        neighbour = self._known.get(host)
        if neighbour is None:
            return False
        self._has_answered(neighbour)
        if not neighbour.refusals:
            neighbour.refused_since = now
        neighbour.refusals += 1
        self.leave_alone(host, now)
        return now >= neighbour.refused_since + FULL_AFTER_S

    def leave_alone(self, host: str, now: float) -> None:
        """It will say when it can be asked again, unless it has done so already."""
        neighbour = self._known.get(host)
        if neighbour is None:
            return
        if neighbour.called:
            neighbour.called = False
        else:
            neighbour.busy_until = now + BUSY_S

    def _has_answered(self, neighbour: _Neighbour) -> None:
        neighbour.asked -= 1
        self._asking -= not neighbour.asked

    def may_be_asked(self, host: str, now: float) -> bool:
        """Whether it is not left alone for now, and has nothing to answer."""
        neighbour = self._known.get(host)
        return neighbour is not None and neighbour.busy_until <= now and neighbour.asked < self._most()

    def _most(self) -> int:
        """How many requests may be under way to each (rule 6)."""
        return PER_NEIGHBOUR if self._asking <= 1 else 1

    def next_free(self, now: float) -> float:
        """When the next of the busy neighbours is to be asked again; infinity if none is busy."""
        free = math.inf
        for each in self._known.values():
            if now < each.busy_until < free:
                free = each.busy_until
        return free

    def asked_of(self, host: str) -> int:
        """How many requests to `host` are under way."""
        return self._known[host].asked

    # -- the choice ------------------------------------------------------------------------------------------------

    def choose(
        self, wanted: int, first: int, now: float, *, besides: str | None = None, also_busy: bool = False
    ) -> tuple[str, int] | None:
        """Whom to ask for which of the pieces `wanted`, and of `first` of them before all others.

        `besides` is a neighbour not to ask (it has been asked already). None if nobody can be asked now.
        `also_busy`: neighbours that have said that they are busy may be asked.
        """
        most = self._most()
        far_only = self._held_far_only(wanted) if self._far else 0
        left_out = None if besides is None else self._known.get(besides)
        able: list[tuple[str, _Neighbour]] = []
        obtainable = 0
        for host, each in self._known.items():
            if (each.busy_until <= now or also_busy) and each.asked < most:
                askable = each.held & (wanted if each.distance < FAR else far_only)
                if askable and each is not left_out:
                    able.append((host, each))
                    obtainable |= askable
        if not able:
            return None
        rarest = self._rarest(obtainable & first or obtainable & far_only or obtainable)
        if self._asking >= IN_ORDER:
            at = zlib.crc32(self.host.encode()) % rarest.bit_length()
            rarest = rarest >> at << at or rarest
        bit = rarest & -rarest
        _, host = min([(each.asked, each.distance, each.piece_s, host) for host, each in able if each.held & bit])[2:]
        return host, bit.bit_length() - 1

    def _held_far_only(self, wanted: int) -> int:
        """Those of `wanted` that may be asked of other sites, and that no neighbour of this one holds."""
        wanted &= self.open_far
        for each in self._known.values():
            if each.distance < FAR:
                wanted &= ~each.held
        return wanted

    def _rarest(self, candidates: int) -> int:
        """Those of `candidates` that the fewest neighbours hold.

        The neighbours are counted for all pieces at once: bit k of a piece's count is its bit in `digits[k]`.
        """
        if candidates.bit_count() == 1:
            return candidates
        digits: list[int] = []
        for each in self._known.values():
            carry = each.held & candidates
            for k, digit in enumerate(digits):
                digits[k], carry = digit ^ carry, digit & carry
            if carry:
                digits.append(carry)
        for digit in reversed(digits):  # from the highest bit down: keep those without it, if there are any
            candidates = candidates & ~digit or candidates
        return candidates
