"""The choice of a preheat's hosts."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.preheat_hosts import MAX_HOSTS, Candidate, Selection, SelectionError, parse_selection

HOSTS = [Candidate(f"h{number}", "abc"[number % 3], "z", f"r{number % 2}") for number in range(12)]


def chosen(*terms: str) -> list[str]:
    return [each.host for each in parse_selection(terms).choose(HOSTS, "job")]


def test_all() -> None:
    assert chosen("all") == [each.host for each in HOSTS]


def test_a_number_and_a_percentage_are_spread_over_the_sites() -> None:
    sites = {each.host: each.site for each in HOSTS}
    assert Counter(sites[host] for host in chosen("6")) == {"a": 2, "b": 2, "c": 2}
    assert chosen("50%") == chosen("6")
    assert len(chosen("1%")) == 1
    assert len(chosen("100")) == 12


def test_two_jobs_choose_different_hosts() -> None:
    selection = parse_selection(["6"])
    assert selection.choose(HOSTS, "one") == selection.choose(reversed(HOSTS), "one")
    assert selection.choose(HOSTS, "one") != selection.choose(HOSTS, "two")


def test_labels_alone_and_with_a_number() -> None:
    assert chosen("site=a,rack=r1") == ["h3", "h9"]
    assert chosen("site=a", "rack=r1") == ["h3", "h9"]
    assert set(chosen("site=a,2")) < {"h0", "h3", "h6", "h9"}


def test_hosts_that_are_away_are_chosen_too() -> None:
    assert chosen("h1,gone", "h2", "h1") == ["h1", "gone", "h2"]
    assert chosen("node-1") == ["node-1"]


@pytest.mark.parametrize(
    "terms",
    [
        [],
        [""],
        ["0"],
        ["0%"],
        ["101%"],
        ["5,30%"],
        ["5", "6"],
        ["all,5"],
        ["all,h1"],
        ["site=a,h1"],
        ["colour=red"],
        ["site="],
        ["site=a,site=b"],
        ["a b"],
        ["h1;rm"],
        ["x" * 65],
        ["9" * 12],
        [f"{MAX_HOSTS + 1}"],
        ["é"],
    ],
)
def test_what_selects_no_hosts(terms: list[str]) -> None:
    with pytest.raises(SelectionError):
        parse_selection(terms)


def test_a_million_hosts_are_too_many() -> None:
    with pytest.raises(SelectionError, match="more than the 20000"):
        parse_selection([",".join(f"h{number}" for number in range(MAX_HOSTS + 1))])


@given(st.lists(st.text(max_size=12), max_size=4))
def test_any_text_selects_or_is_an_error(terms: list[str]) -> None:
    try:
        found = parse_selection(terms)
    except SelectionError:
        return
    assert isinstance(found, Selection)
    assert len(found.choose(HOSTS, "job")) <= MAX_HOSTS
