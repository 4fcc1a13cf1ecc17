"""What the scheduler says of tags whose origin is gone: what most hosts were told, and never one host's word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest
from msgspec import structs

from scheduler.core.events import Connected, Disconnected, Received, Send, Tick
from scheduler.core.scheduler import Scheduler
from scheduler.core.tags import LOOKUPS, LOOKUPS_PER_HOST, Manifest, Word, most_told
from scheduler.protocol.codec import FROM_HOST, TO_HOST, Codec
from scheduler.protocol.from_host import Bye, TagAnswer, TagLookup
from scheduler.protocol.to_host import TagQuery, TagResult, Welcome
from tests.scheduler.messages_for_pull import D
from tests.scheduler.playbook import SETTINGS, VANISHES, Closing, Passes, Playbook, hello

TAG = ("docker.io", "library/app", "v1")
LOOKUP = TagLookup(*TAG)
QUERY = TagQuery(*TAG, SETTINGS.tag_tell_s)
ANSWER = TagAnswer(*TAG, 200, D, 7, "application/json", public=True, age_s=5.0)
LIE = structs.replace(ANSWER, digest=b"x" * 32, age_s=0.0)
NOTHING = TagAnswer(*TAG, 0)
RESULT = TagResult(*TAG, 200, D, 7, "application/json", public=True, hosts=2)
UNKNOWN = TagResult(*TAG, 0)
KEPT = Passes(max(SETTINGS.tag_ttl_s, SETTINGS.tag_tell_s))
LATE = Passes(SETTINGS.tag_tell_s)


def asked(*hosts: str) -> Playbook:
    """Host n, which never saw the tag, has asked for it; so all are asked, and n has answered."""
    play = Playbook("n", *hosts) >> ("n", LOOKUP)
    for host in ("n", *hosts):
        play = play << (host, QUERY)
    return play >> ("n", NOTHING)


def test_the_host_is_told_what_most_hosts_were_told_as_soon_as_all_have_answered() -> None:
    assert (
        asked("a", "b", "c")
        >> ("a", ANSWER)
        >> ("b", NOTHING)
        >> ("c", ANSWER)
        << ("n", RESULT)
        >> ("b", LOOKUP)
        << ("b", RESULT)
        >> KEPT
        >> ("b", LOOKUP)
        << ("n", QUERY)
        << ("a", QUERY)
        << ("b", QUERY)
        << ("c", QUERY)
    )


def test_all_that_ask_meanwhile_are_told_together() -> None:
    play = asked("a", "b", "m") >> ("m", LOOKUP) >> ("m", LOOKUP) >> ("m", NOTHING) >> ("a", ANSWER) >> ("b", ANSWER)
    assert play << ("n", RESULT) << ("m", RESULT)


@pytest.mark.parametrize("others", [NOTHING, TagAnswer(*TAG, 404), TagAnswer(*TAG, 401)])
def test_one_hosts_word_decides_nothing(others: TagAnswer) -> None:
    assert asked("a", "b") >> ("a", ANSWER) >> ("b", others) << ("n", UNKNOWN)


def test_one_liar_among_three_changes_nothing() -> None:
    assert asked("a", "b", "liar") >> ("liar", LIE) >> ("a", ANSWER) >> ("b", ANSWER) << ("n", RESULT)


@pytest.mark.parametrize("word", [TagAnswer(*TAG, 404), TagAnswer(*TAG, 401), NOTHING])
def test_a_host_that_says_it_is_gone_or_private_changes_nothing(word: TagAnswer) -> None:
    assert asked("a", "b", "liar") >> ("liar", word) >> ("a", ANSWER) >> ("b", ANSWER) << ("n", RESULT)


@pytest.mark.parametrize(
    ("address", "certified", "words"),
    [("192.0.2.7", False, 1), ("192.0.2.7", True, 2), ("127.0.0.1", False, 2), ("::1", False, 2)],
)
def test_ids_that_come_from_one_address_have_one_word_unless_certificates_or_nothing_tells_them_apart(
    address: str, certified: bool, words: int
) -> None:
    play = Playbook("n")
    play.seen_at, play.certified = address, certified
    for host in ("x", "y"):
        play = play >> (host, hello(host)) << (host, Welcome(1, seen_at=play.seen_at))
    play = play >> ("n", LOOKUP) << ("n", QUERY) << ("x", QUERY) << ("y", QUERY) >> ("n", NOTHING)
    assert play >> ("x", ANSWER) >> ("y", ANSWER) << ("n", RESULT if words > 1 else UNKNOWN)


def test_two_that_lie_together_do_not_beat_three() -> None:
    play = asked("a", "b", "c", "x", "y") >> ("x", LIE) >> ("y", LIE)
    play = play >> ("a", ANSWER) >> ("b", ANSWER) >> ("c", ANSWER)
    assert play << ("n", structs.replace(RESULT, hosts=3))


def test_two_that_lie_together_do_not_beat_two() -> None:
    play = asked("a", "b", "x", "y") >> ("x", LIE) >> ("y", LIE) >> ("a", ANSWER) >> ("b", ANSWER)
    assert play << ("n", UNKNOWN)


def test_a_word_counts_once() -> None:
    """Again, under the same id after a new connection, before it was asked for, and after the result."""
    play = Playbook("n", "a", "x") >> ("x", LIE) >> ("n", LOOKUP) << ("n", QUERY) << ("a", QUERY) << ("x", QUERY)
    play = play >> ("x", LIE) >> ("x", LIE) >> ("x", VANISHES) >> ("x", hello("x")) << ("x", Welcome(1))
    play = play >> ("x", LIE) >> ("a", NOTHING) >> ("n", NOTHING) << ("n", UNKNOWN)
    assert play >> ("x", LIE) >> ("a", LIE) >> ("n", LOOKUP) << ("n", UNKNOWN)


def test_what_is_told_for_one_tag_counts_for_no_other() -> None:
    play = (
        asked("a", "b")
        >> ("a", structs.replace(ANSWER, tag="v2"))
        >> ("b", structs.replace(ANSWER, repository="library/other"))
    )
    assert play >> LATE << ("n", UNKNOWN)


def test_what_not_everybody_may_have_counts_for_nothing() -> None:
    private = structs.replace(ANSWER, public=False)
    assert asked("a", "b", "c") >> ("a", private) >> ("b", private) >> ("c", private) << ("n", UNKNOWN)


def test_a_host_that_is_late_is_not_waited_for_and_its_word_is_dropped() -> None:
    play = asked("a", "b", "late") >> ("a", ANSWER) >> ("b", ANSWER) >> LATE << ("n", RESULT)
    assert play >> ("late", LIE) >> ("n", LOOKUP) << ("n", RESULT)


def test_hosts_that_leave_are_not_waited_for_and_take_their_words_along() -> None:
    assert asked("a", "b") >> ("a", ANSWER) >> ("b", Bye()) << ("n", UNKNOWN)
    assert asked("a", "b", "c") >> ("a", ANSWER) >> ("a", VANISHES) >> ("b", ANSWER) >> ("c", Bye()) << ("n", UNKNOWN)
    assert asked("a", "b", "c") >> ("a", ANSWER) >> ("n", Bye()) >> ("b", ANSWER) >> ("c", ANSWER)


def test_a_host_whose_connection_is_replaced_takes_its_word_along() -> None:
    play = asked("a", "b", "c") >> ("a", ANSWER) >> ("c", ANSWER)
    play.now += SETTINGS.takeover_s
    play.certified = True
    play = play >> ("a", hello("a")) << ("a", Closing.REPLACED) << ("a", Welcome(1)) << ("n", UNKNOWN)
    assert play


def test_after_a_restart_hosts_have_time_to_come_back() -> None:
    settings = replace(SETTINGS, settle_s=2.0)
    play = Playbook("n", "x", "y", settings=settings) >> ("n", LOOKUP) >> Passes(1.0)
    for host in ("a", "b", "c"):
        play = play >> (host, hello(host)) << (host, Welcome(1))
    play = play >> Passes(1.0)
    for host in ("n", "x", "y", "a", "b", "c"):
        play = play << (host, QUERY)
    play = play >> ("n", NOTHING) >> ("x", LIE) >> ("y", LIE)
    assert play >> ("a", ANSWER) >> ("b", ANSWER) >> ("c", ANSWER) << ("n", structs.replace(RESULT, hosts=3))


def test_a_host_starts_so_many_lookups_in_their_time_and_no_more() -> None:
    play = Playbook("n")
    for number in range(LOOKUPS_PER_HOST):
        tag = (*TAG[:2], str(number))
        play = play >> ("n", TagLookup(*tag)) << ("n", TagQuery(*tag, SETTINGS.tag_tell_s))
        play = play >> ("n", TagAnswer(*tag, 0)) << ("n", TagResult(*tag, 0))
    play = play >> ("n", LOOKUP) << ("n", UNKNOWN)
    play = play >> ("n", VANISHES) >> ("n", hello("n")) << ("n", Welcome(1)) >> ("n", LOOKUP) << ("n", UNKNOWN)
    play = play >> KEPT
    assert not len(play.scheduler._tags)
    assert play >> ("n", LOOKUP) << ("n", QUERY)


def test_all_hosts_together_start_so_many_and_no_more() -> None:
    """Each lookup has every host answer: more would have honest hosts send too many messages."""
    hosts = [f"h{number}" for number in range(-(-LOOKUPS // LOOKUPS_PER_HOST))]
    play = Playbook("n", *hosts)
    for number in range(LOOKUPS):
        tag = (*TAG[:2], str(number))
        play = play >> (hosts[number // LOOKUPS_PER_HOST], TagLookup(*tag))
        for host in ("n", *hosts):
            play = play << (host, TagQuery(*tag, SETTINGS.tag_tell_s))
    assert play >> ("n", LOOKUP) << ("n", UNKNOWN)


A, B, C = (Manifest(letter * 32, 7, "application/json") for letter in (b"a", b"b", b"c"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", None),
        ("A1", None),
        ("A1 A2", (A, 2)),
        ("A1 B2", None),
        ("A9 A9 B0", (A, 2)),
        ("A9 A9 A9 B0 B0", (A, 3)),  # the tag moved, or two lie: nothing tells which
        ("A9 B0 B0", (B, 2)),
        ("A9 A9 B0 B0", None),
        ("A9 A9 A9 B0 B0 B0", (B, 3)),  # the tag moved: the newer half of the words decides
        ("A0 A0 A0 B9 B9 B9", (A, 3)),
        ("C0 C0 A9 A9 A9 A9 B1 B1 B1 B1", (B, 4)),
        ("C0 A2 B1", None),
    ],
)
def test_what_most_were_told(words: str, told: tuple[Manifest, int] | None) -> None:
    """A letter is a manifest, the digit its age."""
    names = {"A": A, "B": B, "C": C}
    assert most_told(Word(names[word[0]], float(word[1])) for word in words.split()) == told


@pytest.mark.parametrize(
    ("codec", "message", "old"),
    [
        (FROM_HOST, ANSWER, structs.replace(ANSWER, age_s=0.0)),
        (TO_HOST, RESULT, structs.replace(RESULT, hosts=0)),
    ],
)
def test_an_older_version_tells_neither_age_nor_hosts(codec: Codec[Any], message: object, old: object) -> None:
    fields = msgpack.unpackb(codec.encode(message))
    assert codec.decode(msgpack.packb(fields)) == message
    assert codec.decode(msgpack.packb(fields[:-1])) == old


def test_if_all_leave_before_they_are_asked_there_is_no_majority() -> None:
    scheduler = Scheduler(replace(SETTINGS, settle_s=5.0))
    scheduler.handle(Connected(1, hello("n")), 100.0)
    scheduler.handle(Received(1, LOOKUP), 100.0)
    scheduler.handle(Disconnected(1), 101.0)
    scheduler.handle(Tick(), 105.0)
    scheduler.validate()
    scheduler.handle(Connected(2, hello("n")), 106.0)
    assert scheduler.handle(Received(2, LOOKUP), 106.0) == [Send((2,), UNKNOWN)]
