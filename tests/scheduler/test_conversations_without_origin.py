"""What the scheduler says when it need not ask the origin: tiny blobs, and what hosts know after a restart."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from msgspec import structs

from scheduler.core.quarantine import QUARANTINE_S
from scheduler.protocol import from_host, to_host
from scheduler.protocol.connection import Closing
from scheduler.protocol.from_host import (
    Announce,
    DigestReport,
    Holding,
    LeasePieces,
    Leave,
    Length,
)
from scheduler.protocol.to_host import (
    Joined,
    Lease,
    Quarantined,
    RequestDigests,
    Sized,
    Welcome,
)
from tests.scheduler.messages_for_pull import (
    JOIN,
    MIB,
    P0,
    P1,
    P2,
    P3,
    WITHIN,
    D,
    add,
    all_landed,
    digests,
    joined,
    remove,
)
from tests.scheduler.playbook import SETTINGS, Passes, Playbook, hello

TINY = b"tiny"
T = hashlib.sha256(TINY).digest()
JOIN_TINY = structs.replace(JOIN, digest=T, size_bytes=len(TINY))


def test_a_tiny_blob_leaves_the_origin_once_and_travels_in_replies() -> None:
    assert (
        Playbook("a", "b", "c")
        >> ("a", JOIN_TINY)
        << ("a", Joined(T, 1, 4, False, ()))
        << ("a", Lease(1, T, 1, 0, 2, WITHIN))
        >> ("b", JOIN_TINY)
        << ("b", Joined(T, 1, 4, False, ()))
        >> ("a", from_host.InlineBlob(T, TINY))
        << ("b", to_host.InlineBlob(T, TINY))
        >> ("c", structs.replace(JOIN_TINY, size_bytes=None))
        << ("c", to_host.InlineBlob(T, TINY))
    )


def test_a_tiny_blob_that_was_dropped_is_requested_from_a_seeder() -> None:
    assert (
        Playbook("a", "b", settings=replace(SETTINGS, inline_cache_bytes=3))
        >> ("a", JOIN_TINY)
        << ("a", Joined(T, 1, 4, False, ()))
        << ("a", Lease(1, T, 1, 0, 2, WITHIN))
        >> ("a", from_host.InlineBlob(T, TINY))
        >> ("b", JOIN_TINY)
        << ("b", Joined(T, 1, 4, False, ()))
        << ("a", RequestDigests(T))
        >> ("a", from_host.InlineBlob(T, TINY))
        << ("b", to_host.InlineBlob(T, TINY))
    )


def test_a_host_that_sends_a_wrong_inline_blob_is_quarantined() -> None:
    play = (
        Playbook("a")
        >> ("a", JOIN_TINY)
        << ("a", Joined(T, 1, 4, False, ()))
        << ("a", Lease(1, T, 1, 0, 2, WITHIN))
        >> ("a", from_host.InlineBlob(T, b"tony"))
    )
    reason = f"sent other bytes under a blob's digest (blob sha256:{T.hex()})"
    assert (
        play
        << ("a", Quarantined(reason, QUARANTINE_S))
        << ("a", Closing.QUARANTINED)
        >> ("a", hello("a"))
        << ("a", Closing.QUARANTINED)
        >> Passes(QUARANTINE_S)
        >> ("a", hello("a"))
        << ("a", Welcome(1))
    )


def test_a_tiny_blob_that_its_holder_has_lost_is_fetched_again() -> None:
    assert (
        Playbook("a", "b")
        >> ("a", Announce((Holding(T, 4, True),)))
        >> ("b", JOIN_TINY)
        << ("b", Joined(T, 1, 4, False, ()))
        << ("a", RequestDigests(T))
        >> ("a", DigestReport(T, 0, b"", last=True))
        << ("b", Lease(1, T, 1, 0, 2, WITHIN))
    )


def test_an_inline_blob_that_was_not_requested_is_ignored() -> None:
    assert Playbook("a", "b") >> ("a", Announce((Holding(T, 4, True),))) >> ("a", from_host.InlineBlob(T, b"tony"))


def test_a_restarted_scheduler_requests_digests_from_holders() -> None:
    assert (
        Playbook("a", "b", "c")
        >> ("a", Announce((Holding(D, MIB, True),)))
        >> ("b", Announce((Holding(D, MIB, False, b"\x01"),)))
        >> ("c", JOIN)
        << ("c", joined("a", "b"))
        << ("a", RequestDigests(D))
        << ("a", add("c"))
        << ("b", add("c"))
        >> ("a", DigestReport(D, 0, P0 + P1 + P2 + P3, last=True))
        << ("c", digests(0, P0 + P1 + P2 + P3))
    )


def test_a_long_piece_map_travels_in_several_messages() -> None:
    size, part = 40 << 30, 4096
    join = structs.replace(JOIN, size_bytes=size)
    play = Playbook("a", "b", settings=replace(SETTINGS, lease_pieces=3 * part))
    play = play >> ("a", structs.replace(JOIN, size_bytes=None)) << ("a", joined(size=None))
    play = play << ("a", Lease(1, D, 1, 0, 3 * part, WITHIN)) >> ("a", Length(1, D, size)) << ("a", Sized(D, 1, size))
    for first in range(0, 10_240, part):
        run = P0 * min(part, 10_240 - first)
        play = play >> Passes(1) >> ("a", LeasePieces(1, D, first, run)) << ("a", digests(first, run))
    play = play >> ("b", join) << ("b", joined("a", size=size)) << ("a", add("b"))
    assert (
        play << ("b", digests(0, P0 * part)) << ("b", digests(part, P0 * part)) << ("b", digests(2 * part, P0 * 2048))
    )


class Detail:
    """A part of a story, which counts how often it becomes text."""

    times = 0

    def __str__(self) -> str:
        self.times += 1
        return "the detail"


def test_the_story_becomes_text_if_an_invariant_does_not_hold() -> None:
    """Not before: tests validate after each event."""
    swarm = all_landed().scheduler._state.swarms[D]
    detail = Detail()
    swarm.story.tell("%s", detail)
    swarm.validate()
    assert detail.times == 0
    swarm.foreground += 1
    with pytest.raises(AssertionError, match="the detail"):
        swarm.validate()


def test_the_story_and_the_statistics() -> None:
    play = all_landed()
    assert any("lease 1 to a: pieces 0 to 0" in line for line in play.scheduler.story(D))
    assert play.scheduler.story(b"e" * 32) == ()
    statistics = play.scheduler.statistics()
    assert (statistics.hosts, statistics.swarms, statistics.members, statistics.leases_given) == (2, 1, 2, 4)
    assert statistics.leases == 0


def test_the_last_member_takes_the_swarm_with_it() -> None:
    play = all_landed() >> ("a", Leave(D)) << ("b", remove("a")) >> ("b", Leave(D))
    assert play
    assert play.scheduler.statistics().swarms == 0
    assert play.scheduler.next_deadline() is None


def test_what_nobody_tells_in_time_is_fetched() -> None:
    assert (
        Playbook("a", "c")
        >> ("a", Announce((Holding(D, MIB, False, b"\x01"),)))
        >> ("c", JOIN)
        << ("c", joined("a"))
        << ("a", RequestDigests(D))
        << ("a", add("c"))
        >> Passes(SETTINGS.digest_request_s)
        << ("c", Lease(1, D, 1, 0, 1, WITHIN))
    )


def test_a_scheduler_that_has_just_started_does_not_wait_for_holders_of_what_it_had_fetched_itself() -> None:
    assert (
        Playbook("a", settings=replace(SETTINGS, settle_s=2.0))
        >> ("a", JOIN)
        << ("a", joined())
        << ("a", Lease(1, D, 1, 0, 1, WITHIN))
        >> ("a", LeasePieces(1, D, 0, P0))
        << ("a", digests(0, P0))
        << ("a", Lease(2, D, 1, 1, 2, WITHIN))
    )


def test_after_a_restart_hosts_have_time_to_come_back_before_anything_is_fetched() -> None:
    assert (
        Playbook("a", "b", settings=replace(SETTINGS, settle_s=2.0))
        >> ("a", Announce((Holding(D, MIB, False, b"\x03"),)))
        >> ("a", JOIN)
        << ("a", joined())
        << ("a", RequestDigests(D))
        >> ("a", DigestReport(D, 0, P0 + P1, last=True))
        << ("a", digests(0, P0 + P1))
        >> Passes(1)
        >> ("b", Announce((Holding(D, MIB, False, b"\x06"),)))
        << ("a", add("b"))
        << ("b", RequestDigests(D))
        << ("b", add("a"))
        >> ("b", DigestReport(D, 2, P2, last=True))
        << ("a", digests(2, P2))
        >> Passes(1)
        << ("a", Lease(1, D, 1, 3, 4, WITHIN))
    )
