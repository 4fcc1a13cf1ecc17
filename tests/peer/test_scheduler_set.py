"""Several schedulers, as a host divides its blobs among them: which moves when, and which connections are needed."""

from __future__ import annotations

import hashlib
import math

import pytest

from peer.core.scheduler_set import (
    ASKED_AT_MOST,
    DOUBT_WITHIN_S,
    GRACE_S,
    LINGER_S,
    Move,
    SchedulerSet,
    canonical,
)
from peer.core.session import STEADY_S, SessionState
from scheduler.protocol.rendezvous import owner_of, ranked
from scheduler.protocol.to_host import SchedulerAt, Schedulers

A, B, C = URLS = ("http://a:65003", "http://b:65003", "http://c:65003")
IDS = {A: "00000000000000aa", B: "00000000000000bb", C: "00000000000000cc"}
BLOBS = [hashlib.sha256(bytes([number])).digest() for number in range(30)]
TIMEOUT_S = 3.0
HOST = "host"
HOME, SECOND, THIRD = ranked(HOST.encode(), URLS)


def blobs_of(url: str, urls: tuple[str, ...] = URLS) -> set[bytes]:
    return {digest for digest in BLOBS if owner_of(digest, urls) == url}


class Scene:
    """A set, the time, and what has moved last."""

    def __init__(self, urls: tuple[str, ...] = URLS, blobs: list[bytes] = BLOBS) -> None:
        self.now = 100.0
        self.set = SchedulerSet(urls, HOST, TIMEOUT_S)
        self.moves: list[Move] = []
        for digest in blobs:
            self.set.place(digest)
        self.set.lost(self.set.home.url, self.now, stops=False)
        self.follow()

    def follow(self) -> None:
        self.set.time_out(self.now)
        self.moves = self.set.follow(self.now)
        self.set.validate(list(self.set._owners))

    def find(self, *urls: str, listed: Schedulers | None = None) -> None:
        for url in urls:
            self.set.found(url, 2.0, listed, self.now)
            self.follow()

    def lose(self, url: str, *, stops: bool = False) -> None:
        self.set.lost(url, self.now, stops=stops)
        self.follow()

    def fail(self, url: str) -> None:
        self.set.failed(url)
        self.follow()

    def passes(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.set.next_deadline()) <= until:
            self.now = max(self.now, due)
            self.set.leaving(self.now)
            self.follow()
        self.now = until

    def at(self, url: str) -> set[bytes]:
        return {digest for digest, owner in self.set._owners.items() if owner.url == url}

    def stands(self) -> SessionState:
        return self.set.state

    def state(self, url: str) -> SessionState:
        return self.set.sessions[url].state


def connected() -> Scene:
    """All three have been connected for a while."""
    scene = Scene()
    scene.find(HOME, SECOND, THIRD)
    scene.passes(STEADY_S)
    return scene


class TestTheFirst:
    def test_one_is_looked_for_until_it_is_known_how_blobs_are_divided(self) -> None:
        scene = Scene()
        assert list(scene.set.needed) == [HOME]
        assert scene.at(HOME) == set(BLOBS)
        scene.find(HOME)
        assert set(scene.set.needed) == set(URLS)
        assert scene.at(HOME) == set(BLOBS), "a blob stays until there is a connection to where it is to be"
        scene.find(SECOND, THIRD)
        assert {url: scene.at(url) for url in URLS} == {url: blobs_of(url) for url in URLS}

    def test_if_it_does_not_answer_the_next_is_asked_at_once(self) -> None:
        scene = Scene()
        scene.fail(HOME)
        assert set(scene.set.needed) == {HOME, SECOND}
        scene.fail(SECOND)
        assert set(scene.set.needed) == set(URLS)
        assert scene.at(THIRD) == set(BLOBS)

    def test_if_none_answers_the_host_stands_alone_in_the_time_that_it_was_given(self) -> None:
        scene = Scene()
        for url in (HOME, SECOND, THIRD):
            scene.fail(url)
        scene.passes(TIMEOUT_S - 0.1)
        assert scene.stands() is SessionState.SEARCHING
        scene.passes(0.1)
        assert scene.stands() is SessionState.MISSING
        assert set(scene.set.needed) == set(URLS), "any will do"
        scene.find(SECOND)
        assert scene.at(SECOND) == set(BLOBS)

    def test_a_host_without_blobs_has_one_connection(self) -> None:
        scene = Scene(blobs=[])
        scene.find(HOME)
        assert list(scene.set.needed) == [HOME]
        other = next(digest for digest in BLOBS if owner_of(digest, URLS) != HOME)
        url = owner_of(other, URLS)
        scene.set.place(other)
        scene.follow()
        scene.find(url)
        assert set(scene.set.needed) == {HOME, url}, "for a while"
        scene.passes(LINGER_S)
        assert list(scene.set.needed) == [url], "and one with blobs has those that it needs for them"
        scene.set.drop(other)
        scene.follow()
        scene.find(HOME)
        scene.passes(LINGER_S)
        assert list(scene.set.needed) == [HOME]

    def test_a_host_that_never_has_a_scheduler_looks_for_none(self) -> None:
        alone = SchedulerSet((), HOST, TIMEOUT_S)
        assert alone.place(BLOBS[0]).state is SessionState.MISSING
        assert (alone.follow(0.0), alone.next_deadline(), alone.state) == ([], math.inf, SessionState.MISSING)


class TestOneThatIsGone:
    def test_its_blobs_are_elsewhere_within_two_seconds_and_no_others_move(self) -> None:
        scene = connected()
        scene.lose(A)
        scene.passes(GRACE_S - 0.01)
        assert scene.at(A) == blobs_of(A)
        scene.passes(0.01)
        assert GRACE_S < 2.0
        assert {move.digest for move in scene.moves} == blobs_of(A)
        assert {url: scene.at(url) for url in (B, C)} == {url: blobs_of(url, (B, C)) for url in (B, C)}

    def test_nothing_moves_if_it_is_back_before(self) -> None:
        scene = connected()
        scene.lose(A)
        scene.passes(GRACE_S - 0.01)
        scene.find(A)
        scene.passes(60.0)
        assert scene.at(A) == blobs_of(A)

    def test_one_that_says_that_it_stops_is_not_waited_for(self) -> None:
        scene = connected()
        scene.lose(A, stops=True)
        assert {move.digest for move in scene.moves} == blobs_of(A)

    def test_the_next_is_connected_meanwhile(self) -> None:
        blob = BLOBS[0]
        first, second, _ = ranked(blob, URLS)
        scene = Scene(blobs=[blob])
        scene.find(HOME, *([first] if first != HOME else []))
        scene.passes(LINGER_S)
        assert list(scene.set.needed) == [first]
        scene.lose(first)
        assert set(scene.set.needed) == {first, second}

    def test_if_that_one_is_gone_too_the_third_has_the_blob(self) -> None:
        scene = connected()
        scene.lose(A)
        scene.lose(B)
        scene.passes(GRACE_S)
        assert scene.at(C) == set(BLOBS)

    def test_the_last_one_has_the_time_that_a_single_one_has(self) -> None:
        scene = connected()
        for url in URLS:
            scene.lose(url)
        scene.passes(TIMEOUT_S - 0.1)
        assert scene.stands() is SessionState.SEARCHING
        scene.passes(0.1)
        assert scene.stands() is SessionState.MISSING

    def test_when_it_is_back_it_has_its_share_again_and_nothing_else_moves(self) -> None:
        scene = connected()
        scene.lose(A)
        scene.passes(60.0)
        assert scene.state(A) is SessionState.MISSING
        scene.find(A)
        assert {move.digest for move in scene.moves} == blobs_of(A)
        assert all(scene.at(url) == blobs_of(url) for url in URLS)

    def test_one_that_comes_and_goes_has_blobs_only_once_it_stays(self) -> None:
        scene = connected()
        scene.lose(A, stops=True)
        scene.find(A)
        scene.lose(A)
        for _ in range(5):
            scene.passes(1.0)
            scene.find(A)
            scene.passes(STEADY_S - 1.0)
            assert scene.at(A) == set()
            scene.lose(A)
            assert scene.at(A) == set()
        scene.find(A)
        scene.passes(STEADY_S)
        assert scene.at(A) == blobs_of(A)

    def test_a_host_with_a_single_one_goes_on_with_one_that_comes_and_goes(self) -> None:
        scene = Scene((A,))
        for _ in range(3):
            scene.find(A)
            scene.lose(A)
            assert scene.at(A) == set(BLOBS)
            assert scene.stands() is SessionState.SEARCHING


def listing(epoch: int, own: str, *urls: str, outdated: bool = False) -> Schedulers:
    return Schedulers(epoch, IDS[own], tuple(SchedulerAt(IDS[url], url) for url in urls), outdated)


def owned(url: str, *urls: str) -> set[bytes]:
    return {digest for digest in BLOBS if owner_of(digest, [IDS[each] for each in urls]) == IDS[url]}


class TestALivingList:
    def listed(self, *urls: str) -> Scene:
        """A host that was given one URL, and has been connected for a while to all in the list."""
        scene = Scene((A,))
        scene.find(A, listed=listing(1, A, *urls))
        for url in urls:
            if url != A:
                scene.find(url, listed=listing(1, url, *urls))
        scene.passes(STEADY_S)
        return scene

    def test_blobs_are_divided_by_the_ids_in_it(self) -> None:
        scene = self.listed(*URLS)
        assert all(scene.at(url) == owned(url, *URLS) for url in URLS)

    def test_one_that_is_added_gets_its_share_once_it_is_connected(self) -> None:
        scene = self.listed(A, B)
        scene.set.told(A, listing(2, A, *URLS), scene.now)
        scene.follow()
        assert not scene.moves
        scene.find(C)
        assert {move.digest for move in scene.moves} == owned(C, *URLS)

    def test_one_that_is_taken_out_loses_all_and_nothing_else_moves(self) -> None:
        scene = self.listed(*URLS)
        scene.set.told(A, listing(2, A, A, B), scene.now)
        scene.follow()
        assert {move.digest for move in scene.moves} == owned(C, *URLS)
        scene.passes(LINGER_S)
        assert C not in scene.set.needed

    def test_one_that_is_gone_is_done_without_before_the_list_says_so(self) -> None:
        scene = self.listed(*URLS)
        scene.lose(B)
        scene.passes(GRACE_S)
        assert scene.at(B) == set()
        scene.set.told(A, listing(2, A, A, C), scene.now)
        scene.follow()
        assert not scene.moves

    def test_the_newest_counts_whoever_sends_it(self) -> None:
        scene = self.listed(*URLS)
        scene.set.told(B, listing(3, B, A, B), scene.now)
        scene.set.told(C, listing(2, C, *URLS), scene.now)
        scene.follow()
        assert scene.at(C) == set()

    def test_numbers_may_begin_anew(self) -> None:
        scene = self.listed(*URLS)
        scene.set.told(B, listing(1000, B, *URLS), scene.now)
        scene.set.told(B, listing(1, B, A, B), scene.now)
        scene.follow()
        assert scene.at(C) == set()

    def test_an_empty_list_says_nothing(self) -> None:
        scene = self.listed(*URLS)
        scene.set.told(A, listing(9, A), scene.now)
        scene.follow()
        assert not scene.moves

    def test_a_scheduler_that_was_reached_by_another_url_is_not_connected_twice(self) -> None:
        balancer = "http://any-of-them:65003"
        scene = Scene((balancer,))
        scene.find(balancer, listed=listing(1, B, *URLS))
        assert scene.at(balancer) == set(BLOBS)
        scene.find(A, C)
        assert scene.at(balancer) == owned(B, *URLS)
        assert B not in scene.set.needed
        scene.passes(STEADY_S)
        scene.lose(balancer)
        assert balancer not in scene.set.needed, "it may lead to another one"
        scene.find(B)
        assert scene.at(B) == owned(B, *URLS)

    def test_a_host_hears_from_another_that_the_only_one_it_needs_is_off_the_list(self) -> None:
        scene, home, second, _ = self.outdated()
        assert scene.set.needed == {home: None, second: None}
        scene.find(second, listed=listing(2, second, *{*URLS} - {home}))
        scene.passes(LINGER_S)
        assert list(scene.set.needed) == [second]
        assert scene.set.home.url == second

    def test_nothing_moves_if_none_can_look_at_the_list(self) -> None:
        scene, home, second, third = self.outdated()
        for each in (second, third):
            scene.find(each, listed=listing(1, each, *URLS, outdated=True))
            scene.passes(DOUBT_WITHIN_S)
        scene.passes(10 * LINGER_S)
        assert set(scene.set.needed) == {home, second, third}, "connections to hear of it, for as long as that lasts"
        assert scene.set.home.url == home
        scene.set.told(home, listing(1, home, *URLS), scene.now)
        scene.follow()
        scene.passes(LINGER_S)
        assert list(scene.set.needed) == [home]

    def test_the_next_is_asked_if_the_one_that_is_asked_cannot_look_either(self) -> None:
        scene, home, second, third = self.outdated()
        scene.find(second, listed=listing(1, second, *URLS, outdated=True))
        assert third not in scene.set.needed, "where nobody can look, all hosts would come at once"
        scene.passes(DOUBT_WITHIN_S)
        assert set(scene.set.needed) == {home, second, third}
        scene.find(third, listed=listing(2, third, third))
        scene.passes(LINGER_S)
        assert list(scene.set.needed) == [third]
        assert scene.set.home.url == third

    def test_so_many_are_asked_and_no_more(self) -> None:
        urls = [f"http://s{number}:65003" for number in range(2 * ASKED_AT_MOST)]
        ids = {url: format(number, "016x") for number, url in enumerate(urls)}
        entries = tuple(SchedulerAt(ids[url], url) for url in urls)
        one, now = SchedulerSet((urls[0],), HOST, TIMEOUT_S), 0.0
        for _ in urls:
            for url in list(one.needed):
                one.found(url, 2.0, Schedulers(1, ids[url], entries, outdated=True), now)
            one.follow(now)
            now += DOUBT_WITHIN_S
            one.time_out(now)
            one.follow(now)
        now += LINGER_S
        one.follow(now)
        assert len(one.needed) == 1 + ASKED_AT_MOST

    def test_another_is_asked_if_the_one_that_is_asked_is_gone(self) -> None:
        scene, _, second, third = self.outdated()
        scene.fail(second)
        scene.passes(0.0)
        assert third in scene.set.needed
        scene.passes(10 * LINGER_S)
        assert third in scene.set.needed

    def test_nobody_else_is_asked_while_one_that_is_needed_knows_the_list(self) -> None:
        scene = self.listed(*URLS)
        scene.lose(C)
        scene.passes(GRACE_S)
        scene.set.told(A, listing(1, A, *URLS, outdated=True), scene.now)
        needed = scene.set.needed
        scene.passes(DOUBT_WITHIN_S)
        assert scene.set.needed == needed
        assert not any(each.is_doubted for each in scene.set.sessions.values() if each.url != A)

    def test_hosts_ask_at_times_that_differ(self) -> None:
        asked = set()
        for number in range(100):
            one = SchedulerSet((A,), f"host-{number}", TIMEOUT_S)
            one.lost(A, 0.0, stops=False)
            one.found(A, 2.0, listing(1, A, *URLS, outdated=True), 0.0)
            asked.add(one.sessions[A].doubt_at)
        assert len(asked) == 100
        assert max(asked) - min(asked) > 0.8 * DOUBT_WITHIN_S
        assert max(asked) <= DOUBT_WITHIN_S

    def test_nothing_is_due_at_once(self) -> None:
        one = SchedulerSet((A,), "", TIMEOUT_S)  # the CRC of "" is 0
        one.found(A, 2.0, listing(1, A, *URLS, outdated=True), 100.0)
        assert one.next_deadline() > 100.0

    def outdated(self) -> tuple[Scene, str, str, str]:
        """A host without blobs, the scheduler that it is connected to, whose list is outdated, and the other two."""
        home, second, third = (URLS[list(IDS.values()).index(each)] for each in ranked(HOST.encode(), IDS.values()))
        scene = Scene((home,), [])
        scene.find(home, listed=listing(1, home, *URLS))
        scene.passes(LINGER_S)
        assert list(scene.set.needed) == [home]
        scene.set.told(home, listing(1, home, *URLS, outdated=True), scene.now)
        scene.follow()
        assert list(scene.set.needed) == [home], "all hosts would come at once"
        scene.passes(DOUBT_WITHIN_S)
        return scene, home, second, third

    def test_the_given_urls_are_tried_again_if_all_of_the_list_are_gone(self) -> None:
        balancer = "http://any-of-them:65003"
        scene = Scene((balancer,))
        scene.find(balancer, listed=listing(1, B, B, C))
        scene.find(C)
        scene.passes(STEADY_S)
        scene.lose(balancer)
        scene.lose(C)
        scene.passes(TIMEOUT_S + GRACE_S)
        assert scene.stands() is SessionState.MISSING
        assert balancer in scene.set.needed
        scene.find(balancer)
        assert scene.at(balancer) == set(BLOBS), "it has no list: it is by itself"


def test_a_blob_that_has_moved_is_taken_back_from_where_it_was_in_a_while() -> None:
    scene = connected()
    session = scene.set.sessions[A]
    session.leaves[BLOBS[0]] = scene.now + 5.0
    assert scene.set.leaving(scene.now + 4.9) == []
    assert scene.set.next_deadline() == scene.now + 5.0
    assert scene.set.leaving(scene.now + 5.0) == [(session, BLOBS[0])]


@pytest.mark.parametrize(
    ("given", "made"), [(("http://a:1/", "http://a:1"), ("http://a:1",)), (("b", "a"), ("b", "a")), ((), ())]
)
def test_urls_have_one_form_on_all_hosts(given: tuple[str, ...], made: tuple[str, ...]) -> None:
    assert canonical(given) == made
