"""Which hosts a preheat is for: `all`, `12`, `30%`, `2/site`, `site=a,zone=b`, or hosts by id. Labels and a number go
together.

A number of hosts is spread over the sites, and over the hosts of a site by a hash of the job's id and the host's: the
same job chooses the same hosts, and two jobs choose different ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from msgspec import Struct

MAX_HOSTS: Final = 20_000
"""Hosts of one job. More hosts take several jobs."""

LABELS: Final = ("site", "zone", "rack")
FORMS: Final = "all, a number, a share as 30%, a number of each site as 2/site, labels as site=a,zone=b, or hosts by id"

_HOST = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LABEL = re.compile(r"[A-Za-z0-9._/-]{1,64}")
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_PER_SITE = re.compile(r"([0-9]{1,4})/site", re.ASCII)


class SelectionError(ValueError):
    """The text names no hosts. The error says which forms do."""


class Candidate(NamedTuple):
    """A connected host."""

    host: str
    site: str
    zone: str
    rack: str


class Selection(Struct, frozen=True):
    """`hosts` alone, or those with all `labels` (name and value): `count`, `percent` or `per_site` of them, or all."""

    labels: tuple[tuple[str, str], ...] = ()
    count: int | None = None
    percent: int | None = None
    hosts: tuple[str, ...] = ()
    per_site: int | None = None

    @property
    def grows(self) -> bool:
        """Whether a host that connects later may be selected, too: not by a number, and not by ids."""
        return not self.hosts and self.count is None and self.percent is None and self.per_site is None

    def admits(self, candidate: Candidate) -> bool:
        """Whether a host has all labels."""
        return all(getattr(candidate, name) == value for name, value in self.labels)

    def choose(self, candidates: Iterable[Candidate], job: str) -> list[Candidate]:
        """The hosts that are chosen. Those that were named and are not among the candidates have no labels."""
        if self.hosts:
            known = {each.host: each for each in candidates}
            return [known.get(host, Candidate(host, "", "", "")) for host in self.hosts]
        found = [each for each in candidates if self.admits(each)]
        if self.per_site is not None:
            return [each for turn, each in _spread(found, job) if turn < self.per_site][:MAX_HOSTS]
        if self.count is None and self.percent is None:
            return found[:MAX_HOSTS]
        wanted = self.count if self.percent is None else -(-len(found) * self.percent // 100)
        return [each for _, each in _spread(found, job)[: min(wanted or 0, MAX_HOSTS)]]


def _spread(found: list[Candidate], job: str) -> list[tuple[int, Candidate]]:
    """All of them, so that the first n are of as many sites as can be, each with its place among those of its site."""
    turns: dict[str, int] = {}
    order: list[tuple[int, str, Candidate]] = []
    for each in sorted(found, key=lambda each: blake2b(f"{job} {each.host}".encode(), digest_size=8).digest()):
        turns[each.site] = turn = turns.get(each.site, -1) + 1
        order.append((turn, each.site, each))
    return [(turn, each) for turn, _, each in sorted(order, key=lambda item: item[:2])]


def parse_selection(terms: Sequence[str]) -> Selection:
    """The selection of these terms; each may be several, joined by commas. Raises SelectionError."""
    labels: dict[str, str] = {}
    count: int | None = None
    percent: int | None = None
    per_site: int | None = None
    hosts: dict[str, None] = {}
    is_all = False
    for term in (part.strip() for text in terms for part in text.split(",")):
        name, equals, value = term.partition("=")
        if term == "all":
            is_all = True
        elif equals and name in LABELS and _LABEL.fullmatch(value) and labels.setdefault(name, value) == value:
            pass
        elif term.endswith("%") and _NUMBER.fullmatch(term[:-1]) and 1 <= int(term[:-1]) <= 100 and percent is None:
            percent = int(term[:-1])
        elif (each := _PER_SITE.fullmatch(term)) and int(each[1]) >= 1 and per_site is None:
            per_site = int(each[1])
        elif _NUMBER.fullmatch(term) and 1 <= int(term) <= MAX_HOSTS and count is None:
            count = int(term)
        elif _HOST.fullmatch(term) and not term.isdigit():
            hosts[term] = None
        else:
            raise SelectionError(f"{term[:80]!a} selects no hosts: give {FORMS}")
    if len(hosts) > MAX_HOSTS:
        raise SelectionError(f"{len(hosts)} hosts are more than the {MAX_HOSTS} that one preheat may have")
    numbers = sum(each is not None for each in (count, percent, per_site))
    others = bool(labels) or numbers > 0
    if (hosts and (others or is_all)) or (is_all and numbers):
        raise SelectionError(f"this selects twice: give one of {FORMS}")
    if numbers > 1:
        raise SelectionError("several numbers exclude each other")
    if not (hosts or others or is_all):
        raise SelectionError(f"no hosts are selected: give {FORMS}")
    return Selection(tuple(labels.items()), count, percent, tuple(hosts), per_site)
