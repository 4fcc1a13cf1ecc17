"""What an operator sees of a cluster: the pulls as they were counted, places, blobs on their way, and problems."""

from __future__ import annotations

from typing import Final

import pytest

from scheduler.core.exchanges import PullFacts
from scheduler.core.overview import ELSEWHERE, ERROR_COUNTS_S, MAX_PLACES, MAX_PROBLEMS, Overview
from scheduler.core.pulls import GAP_S, MAX_PULLS
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.from_host import (
    Announce,
    Fault,
    Holding,
    InlineBlob,
    Join,
    LeaseEnded,
    LeaseOutcome,
    LeasePieces,
    Leave,
    NeighbourFailed,
    Progress,
    Sealed,
)
from tests.scheduler.messages_for_pull import JOIN, MIB, P0, PIECE, D, one_with_a_lease
from tests.scheduler.playbook import VANISHES, Passes, Playbook, hello
from tests.support.images import digest_of

UNLEASED: Final = SchedulerSettings(leases_per_blob=0)
OTHER: Final = b"e" * 32


def seen(play: Playbook, *expiring: str) -> Overview:
    return play.scheduler.overview(play.now, frozenset(expiring))


def only(play: Playbook) -> PullFacts:
    [pull] = seen(play).pulls
    return pull


class TestPulls:
    def test_what_came_and_from_where(self) -> None:
        play = one_with_a_lease()
        began = play.now
        _ = play >> Passes(2.0) >> ("a", LeasePieces(1, D, 0, P0))
        pull = only(play)
        assert (pull.upstream, pull.repository, pull.began_at, pull.ended_at) == (
            "docker.io",
            "library/app",
            began,
            None,
        )
        assert (pull.hosts, pull.blobs, pull.size_bytes) == (2, 1, MIB)
        assert (pull.received_bytes, pull.origin_bytes, pull.left_bytes) == (PIECE, PIECE, 7 * PIECE)
        _ = play >> ("b", Progress(D, 1, b"\x01")) >> ("a", Sealed(D, 1, MIB)) >> ("b", Sealed(D, 1, 0, PIECE))
        pull = only(play)
        assert (pull.received_bytes, pull.left_bytes, pull.finished, pull.ended_at) == (2 * MIB, 0, 2, play.now)
        assert (pull.origin_bytes, pull.far_bytes) == (MIB, PIECE), "what a host says it had from the origin counts"

    def test_what_all_would_have_waited_for_the_registry(self) -> None:
        play = one_with_a_lease()
        _ = play >> Passes(2.0) >> ("a", LeasePieces(1, D, 0, P0)) >> ("a", Sealed(D, 1)) >> ("b", Sealed(D, 1))
        assert only(play).saved_s == pytest.approx(8 * 2.0 - 2.0), "8 pieces, each in 2 s, and it took 2 s"

    def test_a_host_that_exaggerates_has_said_no_more_than_the_blob(self) -> None:
        play = Playbook("a", settings=UNLEASED)
        _ = play >> ("a", JOIN) >> ("a", Sealed(D, 1, 1 << 40, 1 << 40)) >> ("a", Sealed(D, 1, 1 << 40, 1 << 40))
        assert (only(play).origin_bytes, only(play).far_bytes) == (MIB, MIB)

    def test_blobs_of_a_repository_that_follow_each_other_are_one_pull(self) -> None:
        play = Playbook("a", "b", settings=UNLEASED)
        other = Join(OTHER, "docker.io", "library/app", MIB)
        _ = play >> ("a", JOIN) >> ("a", Sealed(D, 1)) >> Passes(GAP_S) >> ("a", other) >> ("b", other)
        assert (only(play).blobs, only(play).hosts, only(play).size_bytes) == (2, 2, 2 * MIB)
        _ = play >> ("a", Sealed(OTHER, 1)) >> ("b", Sealed(OTHER, 1)) >> Passes(GAP_S + 1) >> ("b", JOIN)
        assert [(pull.blobs, pull.hosts) for pull in seen(play).pulls] == [(1, 1), (2, 2)], "the newest first"

    def test_a_host_that_connects_again_is_counted_once(self) -> None:
        play = Playbook("a", settings=UNLEASED)
        _ = play >> ("a", JOIN) >> ("a", VANISHES) >> ("a", hello("a")) >> ("a", JOIN)
        assert (only(play).hosts, only(play).broken_off) == (1, 1)

    def test_what_hosts_held_already_was_not_received(self) -> None:
        play = Playbook("a", "b", settings=UNLEASED)
        _ = play >> ("b", Announce((Holding(D, MIB, complete=True),)))
        assert seen(play).pulls == ()
        _ = play >> ("a", Announce((Holding(D, MIB, complete=False, have=b"\x03"),))) >> ("a", JOIN)
        assert (only(play).received_bytes, only(play).left_bytes, only(play).hosts) == (0, 2 * PIECE, 1)
        _ = play >> ("a", Sealed(D, 1))
        assert only(play).received_bytes == 2 * PIECE

    def test_wishes_that_ended_without_the_blob(self) -> None:
        play = Playbook("a", "b", settings=UNLEASED)
        _ = play >> ("a", JOIN) >> ("b", JOIN) >> ("a", Leave(D)) >> ("b", VANISHES)
        assert (only(play).broken_off, only(play).finished, only(play).ended_at) == (2, 0, play.now)

    def test_a_tiny_blob_leaves_the_registry_once(self) -> None:
        data = b"manifest"
        digest = bytes.fromhex(digest_of(data).removeprefix("sha256:"))
        join = Join(digest, "docker.io", "library/app", len(data))
        play = Playbook("a", "b", "c")
        _ = play >> ("a", join) >> ("b", join) >> ("a", InlineBlob(digest, data)) >> ("c", join) >> ("c", join)
        assert (only(play).origin_bytes, only(play).received_bytes, only(play).hosts) == (8, 24, 3)

    def test_memory_is_bounded_and_the_page_can_say_since_when(self) -> None:
        play = Playbook("a", settings=UNLEASED)
        started = play.now
        for number in range(MAX_PULLS):
            blob = number.to_bytes(32, "little")
            _ = play >> ("a", Join(blob, "docker.io", f"r/{number}", MIB)) >> ("a", Leave(blob)) >> Passes(1.0)
        assert (len(seen(play).pulls), seen(play).pulls_since) == (MAX_PULLS, started)
        _ = play >> ("a", JOIN)
        found = seen(play)
        assert (len(found.pulls), found.pulls[-1].repository) == (MAX_PULLS, "r/1")
        assert found.pulls_since == pytest.approx(started), "the first one ended when the scheduler began"
        _ = play >> ("a", Leave(D)) >> ("a", Join(OTHER, "docker.io", "r/last", MIB))
        assert seen(play).pulls_since == pytest.approx(started + 1.0)

    def test_what_is_older_than_a_day_is_not_told(self) -> None:
        play = Playbook("a", settings=UNLEASED)
        _ = play >> ("a", JOIN) >> ("a", Leave(D)) >> Passes(86_401.0)
        assert seen(play).pulls == ()


class TestPlaces:
    def test_hosts_by_site_and_zone(self) -> None:
        play = Playbook(settings=UNLEASED)
        for host, zone in (("a", "1"), ("b", "1"), ("c", "2")):
            _ = play >> (host, hello(host, site="east", zone=zone))
        _ = play >> ("a", JOIN) >> ("b", JOIN) >> ("b", Sealed(D, 1))
        first, second = seen(play).places
        assert (first.site, first.zone, first.hosts, first.pulling, first.serving) == ("east", "1", 2, 1, 1)
        assert first.rate_bytes_per_s > 0
        assert (second.zone, second.hosts, second.pulling, second.serving) == ("2", 1, 0, 0)
        assert (seen(play).hosts, seen(play).pulling) == (3, 1)

    def test_hosts_that_make_up_places_do_not_make_the_page_longer(self) -> None:
        play = Playbook(settings=UNLEASED)
        for number in range(MAX_PLACES + 9):
            _ = play >> (f"h{number}", hello(f"h{number}", site=f"s{number}"))
        found = {(place.site, place.zone): place.hosts for place in seen(play).places}
        assert (len(found), found[ELSEWHERE]) == (MAX_PLACES + 1, 9)

    def test_the_hosts_of_a_place(self) -> None:
        play = Playbook(settings=UNLEASED)
        for number in range(5):
            _ = play >> (f"h{number}", hello(f"h{number}", site="east" if number else "west"))
        ask = play.scheduler.hosts_at
        count, found = ask(play.now, "east", "", "", 1, 2)
        assert (count, [host.id for host in found]) == (4, ["h2", "h3"])
        assert ask(play.now, None, None, "h4", 0, 9)[0] == ask(play.now, None, None, "h4:1", 0, 9)[0] == 1
        assert ask(play.now, "east", "z", "", 0, 9) == (0, [])


class TestBlobs:
    def test_how_far_a_blob_is(self) -> None:
        play = one_with_a_lease()
        _ = play >> ("a", LeasePieces(1, D, 0, P0)) >> ("b", Progress(D, 1, b"\x01"))
        [blob] = seen(play).blobs
        assert (blob.blob, blob.size_bytes, blob.wanting, blob.complete) == ("64" * 6, MIB, 2, 0)
        assert (blob.landed_percent, blob.held_percent, blob.pull) == (25, 25, only(play).number)
        _ = play >> ("b", Sealed(D, 1))
        [blob] = seen(play).blobs
        assert (blob.wanting, blob.complete, blob.held_percent) == (1, 1, 62)

    def test_no_digest_is_told_whole(self) -> None:
        play = Playbook("a", settings=UNLEASED)
        _ = play >> ("a", JOIN)
        assert D.hex() not in repr(seen(play))


class TestProblems:
    def test_none(self) -> None:
        play = Playbook("a", "b", settings=UNLEASED)
        assert (seen(play).troubles, seen(play).troubles_in_all) == ((), 0)

    def test_the_worst_first(self) -> None:
        play = Playbook(settings=UNLEASED)
        for host in "abcde":
            _ = play >> (host, hello(host, software="1.0" if host != "d" else "0.9"))
        _ = play >> ("a", JOIN) >> ("b", JOIN) >> ("b", NeighbourFailed(D, "a", Fault.GONE))
        told = {each.id: each.problems for each in seen(play, "c").troubles}
        assert told == {
            "a": ("a host could not reach it at a:1",),
            "c": ("its certificate ends soon and was not renewed",),
            "d": ("runs p2pd 0.9, and most run 1.0",),
        }
        assert list(told) == ["a", "c", "d"]
        assert seen(play).versions == (("1.0", 4), ("0.9", 1))
        assert sum(place.problems for place in seen(play, "c").places) == 3

    def test_an_error_is_told_for_a_while(self) -> None:
        play = one_with_a_lease()
        _ = play >> ("a", LeaseEnded(1, D, LeaseOutcome.FAILED, 503))
        [trouble] = seen(play).troubles
        assert trouble.problems == ("no blob from docker.io (status 503)",)
        _ = play >> Passes(ERROR_COUNTS_S + 1)
        assert seen(play).troubles_in_all == 0

    def test_many_are_counted_and_some_are_told(self) -> None:
        play = Playbook(settings=UNLEASED)
        for number in range(2 * MAX_PROBLEMS + 3):
            _ = play >> (f"h{number}", hello(f"h{number}", software="2" if number > MAX_PROBLEMS + 1 else "1"))
        found = seen(play)
        assert (len(found.troubles), found.troubles_in_all) == (MAX_PROBLEMS, MAX_PROBLEMS + 1)

    def test_who_is_in_quarantine_and_why(self) -> None:
        data = b"manifest"
        digest = bytes.fromhex(digest_of(data).removeprefix("sha256:"))
        play = Playbook("a", "b")
        play.seen_at = "10.0.0.9"
        _ = play >> ("a", Join(digest, "docker.io", "library/app", len(data))) >> ("a", InlineBlob(digest, b"others"))
        [told] = play.scheduler.quarantined(play.now)
        assert (told.id, told.until) == ("a", play.now + 3600)
        assert told.reason.startswith("sent other bytes under a blob's digest")
        _ = play >> Passes(3601)
        assert play.scheduler.quarantined(play.now) == []
