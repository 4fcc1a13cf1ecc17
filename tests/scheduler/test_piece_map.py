"""The states of the piece map, and the reports that are believed in each."""

from __future__ import annotations

import pytest

from scheduler.core.claims import SECONDHAND
from scheduler.core.leases import LEASE_TRANSITIONS, LeaseState
from scheduler.core.members import MEMBER_TRANSITIONS, Identity, MemberState
from scheduler.core.piece_map import MAP_TRANSITIONS, ClaimResult, MapCause, MapState, PieceMap
from scheduler.core.story import STORY_LINES, IllegalTransitionError, Story

X, Y = b"x" * 32, b"y" * 32
A, B, C, D, E, LIAR, ACCOMPLICE = (Identity(name, "") for name in ("a", "b", "c", "d", "e", "liar", "accomplice"))


def piece_map(*words: tuple[Identity, int, bytes], count: int = 2) -> PieceMap:
    made = PieceMap(count, Story())
    for word in words:
        made.claim_digest(*word)
    made.validate()
    return made


def known() -> PieceMap:
    return piece_map((A, 0, X), (B, 1, X))


def test_one_report_is_believed_until_it_is_disputed() -> None:
    growing = piece_map((A, 0, X))
    assert growing.state is MapState.GROWING
    assert growing.known == 0b01
    assert growing.digest(0) == X
    assert known().state is MapState.KNOWN


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([(A, 0, X)], [ClaimResult.NEWS]),
        ([(A, 0, X), (A, 0, Y)], [ClaimResult.NEWS, ClaimResult.CONTRADICTION]),
        ([(A, 0, X), (B, 0, X)], [ClaimResult.NEWS, ClaimResult.NOTHING_NEW]),
        ([(A, 0, X), (B, 0, Y)], [ClaimResult.NEWS, ClaimResult.CONTRADICTION]),
    ],
)
def test_words_on_a_growing_map(words: list[tuple[Identity, int, bytes]], expected: list[ClaimResult]) -> None:
    made = PieceMap(3, Story())
    assert [made.claim_digest(*word) for word in words] == expected


def test_a_contested_map_believes_two_hosts_that_agree() -> None:
    contested = known()
    assert contested.dispute(B)
    contested.contest()
    assert contested.state is MapState.CONTESTED
    assert contested.known == 0
    assert contested.claim_digest(A, 0, X) is ClaimResult.UNDECIDED  # it has said so already
    assert contested.claim_digest(B, 0, X) is ClaimResult.NEWS
    assert contested.claim_digest(A, 1, Y) is ClaimResult.UNDECIDED
    assert contested.claim_digest(C, 1, Y) is ClaimResult.NEWS
    assert contested.wrong_reporters() == (), "the SHA-256 has not judged yet"
    assert judged(contested, A, C).wrong_reporters() == (B,)
    assert contested.right_reporters() == (A, C)
    contested.validate()


def judged(made: PieceMap, *sealers: Identity) -> PieceMap:
    """The map, found right by `sealers`, which are more than still want the blob."""
    assert [made.seal(sealer, len(sealers) - 1, 0) for sealer in sealers] == [False] * (len(sealers) - 1) + [True]
    return made


def test_a_secondhand_report_is_believed_but_never_counted_or_accused() -> None:
    contested = piece_map((SECONDHAND, 0, Y), count=1)
    assert contested.digest(0) == Y
    contested.contest()
    assert contested.claim_digest(B, 0, X) is ClaimResult.UNDECIDED
    assert contested.claim_digest(C, 0, X) is ClaimResult.NEWS
    assert judged(contested, B, C).wrong_reporters() == ()


def test_a_host_that_disputes_a_right_map_is_accused() -> None:
    contested = known()
    assert contested.dispute(LIAR)
    contested.contest()
    contested.claim_digest(B, 0, X)
    contested.claim_digest(A, 1, X)
    assert contested.state is MapState.PROVEN
    assert contested.wrong_reporters() == ()
    assert judged(contested, A, B).wrong_reporters() == (LIAR,)


def test_two_that_seal_a_wrong_map_have_nobody_accused_who_disputes_it() -> None:
    sealed = known()
    assert not sealed.seal(C, 5, 0)
    assert sealed.dispute(A), "one host alone has sealed it"
    assert not sealed.seal(D, 5, 0)
    assert not sealed.dispute(A)
    assert not sealed.dispute(B)
    assert not sealed.judged
    assert sealed.dispute(E), "three against two"
    sealed.contest()
    assert sealed.wrong_reporters() == ()


def test_a_wrong_map_that_two_have_proven_is_contested_once_more_and_needs_three() -> None:
    proven = piece_map((LIAR, 0, Y), (ACCOMPLICE, 0, Y), count=1)
    proven.dispute(A)
    proven.contest()
    assert proven.known == 1
    assert not proven.dispute(A)
    assert proven.dispute(B)
    proven.contest()
    assert not proven.known
    words = [proven.claim_digest(host, 0, X) for host in (A, B, C)]
    assert words == [ClaimResult.UNDECIDED, ClaimResult.UNDECIDED, ClaimResult.NEWS]
    assert proven.digest(0) == X
    proven.validate()
    assert judged(proven, A, B, C).wrong_reporters() == (LIAR, ACCOMPLICE)


def test_a_later_word_against_a_judged_map_is_disproved() -> None:
    proven = known()
    proven.claim_digest(B, 0, X)
    proven.claim_digest(A, 1, X)
    proven.contest()
    assert proven.state is MapState.PROVEN
    assert proven.claim_digest(C, 1, Y) is ClaimResult.UNDECIDED
    judged(proven, A, B)
    assert proven.claim_digest(D, 1, Y) is ClaimResult.DISPROVED


def test_runs_of_neighbouring_pieces() -> None:
    made = piece_map((A, 0, X), (A, 2, Y), (A, 3, X), count=5)
    assert list(made.runs(made.known)) == [(0, X), (2, Y + X)]
    assert list(made.runs(0)) == []


def test_an_illegal_step_carries_the_story() -> None:
    story = Story()
    for number in range(STORY_LINES + 1):
        story.tell("line %s", number)
    with pytest.raises(IllegalTransitionError, match="SHA256_RIGHT while GROWING") as caught:
        story.step("map", MAP_TRANSITIONS, MapState.GROWING, MapCause.SHA256_RIGHT)
    assert "line 1\n" in str(caught.value)
    assert "line 0\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("states", "table", "final"),
    [
        (MapState, MAP_TRANSITIONS, set()),
        (MemberState, MEMBER_TRANSITIONS, {MemberState.GONE}),
        (LeaseState, LEASE_TRANSITIONS, set(LeaseState) - {LeaseState.OFFERED, LeaseState.ACTIVE, LeaseState.LATE}),
    ],
)
def test_tables_name_every_state_and_only_the_final_ones_have_no_way_out(states: type, table: dict, final: set) -> None:  # type: ignore[type-arg]  # three tables of different types
    assert set(table) == set(states)  # type: ignore[call-overload]  # an Enum class is iterable
    assert {state for state, steps in table.items() if not steps} == final
