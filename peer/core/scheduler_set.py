"""Which scheduler each blob of this host is at, and to which a connection is needed.

A blob is at its owner by rendezvous hashing (`scheduler.protocol.rendezvous`) among the schedulers that live, as far
as this host knows.

Rules:
1. Which schedulers there are: those in the newest list that a scheduler has sent. Where none sends a list, those whose
   URLs this host was given; their ids are the URLs. Until the first scheduler has answered, this host does not know
   which of the two holds, and all blobs are where it looks first.
2. A scheduler is MISSING if its connection was lost and is not back after `GRACE_S`, or if the first attempt to
   connect has failed, or took `ANSWER_S`. Then its blobs are at the next by rendezvous, and nothing else moves. When
   it is there again, they move back; where the connection comes and goes, once it has lasted. The last scheduler that
   is left has `timeout_s` from when there was none: beyond that this host goes without.
3. A blob leaves a scheduler that is connected only for one that is connected.
4. A connection is needed to the owners of blobs that are here, to those that would be owners but are MISSING, so that
   it is noticed when they are back, and to those to which blobs move if a lost connection does not come back. A host
   without blobs has one: to the owner of its own id. If all are MISSING, any scheduler will do. A connection that is
   not needed any more is kept for `LINGER_S`.
5. A scheduler that cannot look at the list that it shares says that its own is outdated. If all say so to which a
   connection is needed, one more is, to hear of a newer list: to the first other one by rendezvous of this host's id.
   If that one says the same, the next is, up to `ASKED_AT_MOST`: several may be cut off at once. If nobody can look,
   nothing moves. Hosts come to each of them at times that differ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from zlib import crc32

from peer.core.session import SchedulerSession, SessionState
from scheduler.protocol import to_host
from scheduler.protocol.rendezvous import ranked

GRACE_S: Final = 1.25
"""How long a lost connection may take to come back before blobs move. With the time to move them that is below 2 s."""

ANSWER_S: Final = 3.0
"""How long a scheduler may take to let this host in. After one has gone, its hosts all come to the others."""

DOUBT_WITHIN_S: Final = 5.0
"""How long after a list is outdated the last host has asked another scheduler. Of 10,000 hosts, 2,000 a second do."""

ASKED_AT_MOST: Final = 3
"""How many others say that their lists are outdated before this host takes it that nobody can look."""

LINGER_S: Final = 10.0
"""How long a connection is kept that is not needed any more: blobs come and go."""

LEAVE_AFTER_S: Final = 5.0
"""How long after a blob has moved the scheduler before is told so. It would take the host's neighbours away at once,
and those that have not moved yet would end what they transfer."""


class Move(NamedTuple):
    """A blob that is at another scheduler from now on."""

    digest: bytes
    before: SchedulerSession
    after: SchedulerSession


@dataclass(slots=True)
class SchedulerSet:
    """`urls` are those that this host was given, and `host` is its id. Without URLs there is no scheduler, ever."""

    urls: tuple[str, ...]
    host: str
    timeout_s: float
    sessions: dict[str, SchedulerSession] = field(default_factory=dict)
    """By URL."""
    listed: to_host.Schedulers | None = None
    """The newest list; None while blobs are divided among the given URLs."""
    home: SchedulerSession = field(init=False)
    """Where this host is if it has no blob."""
    needed: dict[str, None] = field(default_factory=dict)
    """The URLs of the schedulers to which a connection is needed."""
    is_stale: bool = False
    """Whether something has changed by which `needed` may be another."""
    _told_by: str = ""
    _doubt_s: float = 0.0
    """How long after a list is outdated this host asks another scheduler."""
    _without_since: float | None = None
    """Since when there has been no connection at all."""
    _is_settled: bool = False
    """Whether a scheduler has answered, so that it is known who divides the blobs (rule 1)."""
    _candidates: dict[str, SchedulerSession] = field(default_factory=dict)
    """The schedulers that blobs are divided among, by id."""
    _owners: dict[bytes, SchedulerSession] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    """How many blobs are at each scheduler, by URL."""

    def __post_init__(self) -> None:
        if not self.urls:
            self.home = SchedulerSession(state=SessionState.MISSING)
            return
        self._is_settled = len(self.urls) == 1
        self._find_candidates()
        self._doubt_s = DOUBT_WITHIN_S * (1 + crc32(self.host.encode())) / 2**32
        self.home = self._ranked(b"")[0]
        self.home.state = SessionState.SEARCHING
        self.needed = {self.home.url: None}

    # -- the state -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> SessionState:
        """CONNECTED if one is, MISSING if all are: this host stands alone."""
        if any(self.connected()):
            return SessionState.CONNECTED
        return SessionState.SEARCHING if any(map(_is_live, self._candidates.values())) else SessionState.MISSING

    def connected(self) -> Iterator[SchedulerSession]:
        """Those to which there is a connection."""
        return filter(_is_connected, self.sessions.values())

    def next_deadline(self) -> float:
        """When `time_out`, or a `Leave`, is due; infinity if none is."""
        dues = [self._due(each) for each in self.sessions.values() if each.since is not None]
        dues += [
            min((each.steady_at, each.spare_until, each.doubt_at, *each.leaves.values()))
            for each in self.sessions.values()
        ]
        return min(dues, default=math.inf)

    def of(self, digest: bytes) -> SchedulerSession:
        """The session of a blob, whether the blob is here or not."""
        return self._owners.get(digest) or self._choose(self._ranked(digest), None)

    def count_at(self, url: str) -> int:
        """How many blobs are at the scheduler with this URL."""
        return self._counts.get(url, 0)

    # -- blobs -----------------------------------------------------------------------------------------------------

    def place(self, digest: bytes) -> SchedulerSession:
        """A blob is here, or on its way. Returns where it is from now on."""
        if digest not in self._owners:
            owner = self.of(digest)
            self._own(digest, owner)
            self.is_stale = self.is_stale or owner.url not in self.needed or self.count_at(owner.url) == 1
        return self._owners[digest]

    def drop(self, digest: bytes) -> None:
        """A blob is here no more."""
        owner = self._owners.pop(digest, None)
        if owner is not None:
            self._counts[owner.url] -= 1
            self.is_stale = self.is_stale or not self._counts[owner.url]

    def _own(self, digest: bytes, owner: SchedulerSession) -> None:
        before = self._owners.get(digest)
        if before is not None:
            self._counts[before.url] -= 1
        self._owners[digest] = owner
        self._counts[owner.url] = self.count_at(owner.url) + 1

    # -- what happens ----------------------------------------------------------------------------------------------

    def found(
        self,
        url: str,
        progress_s: float,
        listed: to_host.Schedulers | None,
        now: float,
        *,
        divides: bool = True,
        lengthens: bool = True,
    ) -> SchedulerSession | None:
        """A scheduler is connected, and has sent its list, or is by itself. None: no connection was wanted there."""
        session = self.sessions.get(url)
        if session is None or session.state is SessionState.UNUSED:
            return None
        session.found(progress_s, now, divides=divides, lengthens=lengthens)
        self._without_since = None
        self.is_stale = self._is_settled = True
        if listed is not None:
            self.told(url, listed, now)
        elif session not in self._candidates.values():  # none of those in the list answered, and this one has no list
            self.listed = None
        self._find_candidates()
        return session

    def told(self, url: str, listed: to_host.Schedulers, now: float) -> None:
        """A scheduler has sent a list.

        The newest counts. What the scheduler said that sent the newest one counts in any case: the numbers begin anew
        if what the schedulers share is lost.
        """
        session = self.sessions.get(url)
        if session is None or not listed.schedulers:
            return
        session.id = listed.own
        if not listed.outdated:
            session.trust()
        elif not session.is_doubted:
            session.doubt_at = min(session.doubt_at, now + self._doubt_s)
        if self.listed is None or listed.epoch > self.listed.epoch or listed.own == self._told_by:
            self.listed, self._told_by = listed, listed.own
        self._find_candidates()
        self.is_stale = True

    def lost(self, url: str, now: float, *, stops: bool) -> SchedulerSession | None:
        """A connection has ended. `stops`: the scheduler has said that it will not be back at once."""
        session = self.sessions.get(url)
        if session is None or session.state is SessionState.UNUSED:
            return None
        session.lost(now, stops=stops)
        if not any(self.connected()):
            self._without_since = now
        self._find_candidates()
        self.is_stale = True
        return session

    def failed(self, url: str) -> None:
        """An attempt to connect has failed."""
        session = self.sessions.get(url)
        if session is not None:
            session.has_failed = True

    def time_out(self, now: float) -> bool:
        """Whether a scheduler is MISSING that was not."""
        for session in self.sessions.values():
            if session.steady_at <= now:
                session.unsteady = False
                self.is_stale = True
            if session.doubt_at <= now:
                session.doubt_at, session.is_doubted = math.inf, True
                self.is_stale = True
            self.is_stale = self.is_stale or session.spare_until <= now
        any_missing = False
        for session in sorted(self.sessions.values(), key=lambda each: each.since or 0.0):
            if session.since is not None and self._due(session) <= now:
                session.time_out()
                any_missing = self.is_stale = True
        return any_missing

    def leaving(self, now: float) -> list[tuple[SchedulerSession, bytes]]:
        """The schedulers that are told now which blobs have moved elsewhere."""
        out = []
        for session in self.sessions.values():
            for digest in [digest for digest, due in session.leaves.items() if due <= now]:
                session.stay(digest)
                out.append((session, digest))
            self.is_stale = self.is_stale or bool(out)
        return out

    def follow(self, now: float) -> list[Move]:
        """Put each blob where it is to be after what has changed, and see which connections are needed."""
        self.is_stale = False
        if not self.urls:
            return []
        needed: dict[str, None] = {}
        moves = []
        for digest, before in self._owners.items():
            after = self._place(self._ranked(digest), before, needed)
            if after is not before:
                moves.append(Move(digest, before, after))
        for move in moves:
            self._own(move.digest, move.after)
        at_home = self._place(self._ranked(b""), self.home, {} if self._owners else needed)
        self.home = at_home
        self._ask_another(needed)
        if not any(map(_is_live, self._candidates.values())):
            needed |= dict.fromkeys([*self.urls, *(each.url for each in self._candidates.values())])
        needed |= {each.url: None for each in self.sessions.values() if each.leaves}
        for session in self.connected():
            if session.url in needed:
                session.spare_until = math.inf
            elif session.spare_until == math.inf:
                session.spare_until = now + LINGER_S
            if now < session.spare_until:
                needed[session.url] = None
        self.needed = dict(sorted(needed.items()))
        self._open_and_close(now)
        return moves

    def validate(self, digests: Sequence[bytes]) -> None:
        """Raise AssertionError if an invariant does not hold. `digests`: the blobs that are here."""
        assert set(self._owners) == set(digests), "a blob is at no scheduler, or one that is not here is"
        counts = Counter(each.url for each in self._owners.values())
        assert counts == {url: count for url, count in self._counts.items() if count}
        if not self.urls:
            return
        assert not self.is_stale
        assert all(url in self.needed for url in counts), "there is no connection to where a blob is"
        for url, session in self.sessions.items():
            assert (session.state is SessionState.UNUSED) == (url not in self.needed), (url, session.state)

    # -- the rules -------------------------------------------------------------------------------------------------

    def _due(self, session: SchedulerSession) -> float:
        """When a session that searches is MISSING (rule 2)."""
        assert session.since is not None
        fails = session.has_failed and not session.grace
        patience_s = 0.0 if fails else GRACE_S if session.grace else ANSWER_S
        answer_due = session.since + min(patience_s, self.timeout_s)
        if not any(_is_live(each) for each in self._candidates.values() if each is not session):
            alone_since = session.since if self._without_since is None else self._without_since
            return max(alone_since + self.timeout_s, answer_due)
        return answer_due

    def _place(
        self, order: list[SchedulerSession], current: SchedulerSession, needed: dict[str, None]
    ) -> SchedulerSession:
        """Where a blob is from now on, and the connections that are needed for it (rules 3 and 4)."""
        chosen = self._choose(order, current)
        needed[chosen.url] = None
        for session in order:
            needed[session.url] = None
            if _is_live(session) and not (session.state is SessionState.SEARCHING and session.grace):
                break
        return chosen

    def _ask_another(self, needed: dict[str, None]) -> None:
        """Have a connection to one that may know a newer list than all that are needed (rule 5)."""
        if any(_is_connected(each) and not each.is_doubted for each in map(self._session, needed)):
            return
        if not any(each.is_doubted for each in map(self._session, needed)):
            return
        doubted = 0
        for session in [each for each in self._ranked(b"") if each.url not in needed]:
            needed[session.url] = None
            doubted += session.is_doubted
            if doubted == ASKED_AT_MOST or (_is_live(session) and not session.is_doubted):
                break

    def _choose(self, order: list[SchedulerSession], current: SchedulerSession | None) -> SchedulerSession:
        if not order:
            return self.home
        first = next(filter(_is_live, order), None) or next(filter(_is_connected, order), None)
        first = first or next(self.connected(), order[0])
        if current is not None and current.state is SessionState.CONNECTED is not first.state:
            return current
        return first

    def _ranked(self, digest: bytes) -> list[SchedulerSession]:
        """The schedulers, the owner of a blob first. No digest: the owner of this host's id."""
        if len(self._candidates) < 2:
            return list(self._candidates.values())
        key = digest if digest and self._is_settled else self.host.encode()
        return [self._candidates[each] for each in ranked(key, self._candidates)]

    def _find_candidates(self) -> None:
        if self.listed is None:
            self._candidates = {url: self._session(url) for url in self.urls}
            return
        known = {each.id: each for each in self.sessions.values() if each.id}
        self._candidates = {
            each.id: known.get(each.id) or self._session(each.url.rstrip("/")) for each in self.listed.schedulers
        }

    def _session(self, url: str) -> SchedulerSession:
        return self.sessions.setdefault(url, SchedulerSession(url))

    def _open_and_close(self, now: float) -> None:
        for url in self.needed:
            session = self._session(url)
            if session.state is SessionState.UNUSED:
                session.open(now)
        kept = {*self.needed, *self.urls, *(each.url for each in self._candidates.values())}
        for url, session in list(self.sessions.items()):
            if url not in self.needed and session.state is not SessionState.UNUSED:
                session.close()
            if url not in kept:
                del self.sessions[url]


def _is_live(session: SchedulerSession) -> bool:
    return session.state is not SessionState.MISSING and not (session.unsteady and _is_connected(session))


def _is_connected(session: SchedulerSession) -> bool:
    return session.state is SessionState.CONNECTED


def canonical(urls: Iterable[str]) -> tuple[str, ...]:
    """URLs in the form that is the same on each host, so that hosts agree on the owners. Each once."""
    return tuple(dict.fromkeys(url.rstrip("/") for url in urls))
