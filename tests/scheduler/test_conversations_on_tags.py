"""What the scheduler says of tags: the origin is asked once, and no host that hangs keeps the others waiting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

from scheduler.core.tags import LOOKUPS_PER_HOST, TRIES
from scheduler.protocol.codec import FROM_HOST, TO_HOST, Codec
from scheduler.protocol.from_host import Bye, TagAnswer, TagLookup
from scheduler.protocol.to_host import TagResolve, TagResult
from tests.scheduler.messages_for_pull import D
from tests.scheduler.playbook import SETTINGS, VANISHES, Passes, Playbook

TAG = ("docker.io", "library/app", "v1")
LOOKUP = TagLookup(*TAG)
RESOLVE = TagResolve(*TAG, SETTINGS.tag_resolve_s)
ANSWER = TagAnswer(*TAG, 200, D, 7, "application/json", public=True)
RESULT = TagResult(*TAG, 200, D, 7, "application/json", public=True)
UNREACHED = TagResult(*TAG, 0)


def test_many_hosts_ask_for_a_tag_and_the_origin_is_asked_once() -> None:
    assert (
        Playbook("a", "b", "c")
        >> ("a", LOOKUP)
        << ("a", RESOLVE)
        >> ("b", LOOKUP)
        >> ("b", TagAnswer(*TAG, 200, b"x" * 32))  # it was not asked
        >> ("a", ANSWER)
        << ("a", RESULT)
        << ("b", RESULT)
        >> ("a", TagAnswer(*TAG, 200, b"x" * 32))  # it has answered
        >> ("c", LOOKUP)
        << ("c", RESULT)
        >> Passes(SETTINGS.tag_ttl_s)
        >> ("c", LOOKUP)
        << ("c", RESOLVE)
    )


def test_a_host_that_asks_again_while_it_waits_is_told_once() -> None:
    assert (
        Playbook("a", "b")
        >> ("a", LOOKUP)
        << ("a", RESOLVE)
        >> ("a", LOOKUP)
        >> ("b", LOOKUP)
        >> ("b", LOOKUP)
        >> ("a", ANSWER)
        << ("a", RESULT)
        << ("b", RESULT)
    )


def test_a_tag_goes_to_the_next_host_if_the_first_is_refused_late_or_gone() -> None:
    assert (
        Playbook("a", "b", "c", "d")
        >> ("a", LOOKUP)
        << ("a", RESOLVE)
        >> ("b", LOOKUP)
        >> ("c", LOOKUP)
        >> ("d", LOOKUP)
        >> ("a", TagAnswer(*TAG, 401))
        << ("a", TagResult(*TAG, 401))
        << ("b", RESOLVE)
        >> ("b", VANISHES)
        << ("c", RESOLVE)
        >> Passes(SETTINGS.tag_resolve_s)
        << ("c", UNREACHED)
        << ("d", RESOLVE)
        >> ("d", Bye())
    )


def test_of_a_host_that_is_late_only_a_digest_is_heard() -> None:
    play = Playbook("a", "b", "c") >> ("a", LOOKUP) << ("a", RESOLVE) >> ("b", LOOKUP) >> ("c", LOOKUP)
    play = play >> Passes(SETTINGS.tag_resolve_s) << ("a", UNREACHED) << ("b", RESOLVE)
    play = play >> ("a", TagAnswer(*TAG, 404)) >> ("a", TagAnswer(*TAG, 0))
    assert play >> ("a", ANSWER) << ("b", RESULT) << ("c", RESULT)


def test_a_host_that_is_late_may_ask_again_or_vanish() -> None:
    play = Playbook("a", "b", "c") >> ("a", LOOKUP) << ("a", RESOLVE) >> ("b", LOOKUP) >> ("c", LOOKUP)
    play = play >> Passes(SETTINGS.tag_resolve_s) << ("a", UNREACHED) << ("b", RESOLVE)
    play = play >> ("a", LOOKUP) >> Passes(SETTINGS.tag_resolve_s) << ("b", UNREACHED) << ("c", RESOLVE)
    play = play >> ("b", VANISHES) >> ("c", ANSWER) << ("c", RESULT) << ("a", RESULT)
    assert play
    assert not play.scheduler._tags._by_host


def test_a_tag_of_an_origin_that_is_down_fails_for_all_after_some_tries() -> None:
    down = TagAnswer(*TAG, 503)
    result = TagResult(*TAG, 503)
    assert TRIES == 3
    play = Playbook("a", "b", "c", "d", "e") >> ("a", LOOKUP) << ("a", RESOLVE)
    play = play >> ("b", LOOKUP) >> ("c", LOOKUP) >> ("d", LOOKUP) >> ("e", LOOKUP)
    play = play >> ("a", down) << ("a", result) << ("b", RESOLVE)
    play = play >> ("b", down) << ("b", result) << ("c", RESOLVE)
    assert play >> ("c", down) << ("c", result) << ("d", result) << ("e", result)
    assert not play.scheduler._tags._by_host


def test_a_host_waits_for_so_many_tags_and_no_more() -> None:
    play = Playbook("a", "b")
    for number in range(LOOKUPS_PER_HOST):
        tag = (*TAG[:2], str(number))
        play = play >> ("a", TagLookup(*tag)) << ("a", TagResolve(*tag, SETTINGS.tag_resolve_s))
    play = play >> ("a", LOOKUP) << ("a", UNREACHED) >> ("b", LOOKUP) << ("b", RESOLVE)
    assert play >> ("b", ANSWER) << ("b", RESULT)
    assert play >> ("a", LOOKUP) << ("a", RESULT), "what is known already costs nothing"
    assert play >> ("a", VANISHES)
    assert len(play.scheduler._tags) == 1


@pytest.mark.parametrize(
    ("codec", "message"),
    [(FROM_HOST, ANSWER), (TO_HOST, RESULT)],
)
def test_an_older_version_does_not_say_that_anyone_may_have_it(
    codec: Codec[Any], message: TagAnswer | TagResult
) -> None:
    fields = msgpack.unpackb(codec.encode(message))
    assert codec.decode(msgpack.packb(fields)) == message
    assert codec.decode(msgpack.packb(fields[:-1])) == replace(message, public=False)
