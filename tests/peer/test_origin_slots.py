"""Requests to one origin: never more than the limit, clients before what is fetched ahead, and else in turns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peer.core.origin_slots import OriginSlots

UP = "reg.test"


class _Scene:
    """One slot, and the downloads that wait for it by name."""

    def __init__(self, *clients: str) -> None:
        self.slots = OriginSlots(1)
        self.clients = {client.encode() for client in clients}
        self.granted: list[str] = []
        self.requests = 0

    def want(self, *names: str) -> None:
        for name in names:
            if self.slots.is_free(UP):
                self._grant(name)
            else:
                self.slots.wait(UP, name.encode())

    def free(self) -> None:
        assert self.slots.release(self.requests) == UP
        chosen = self.slots.next(UP, lambda digest: digest not in self.clients)
        if chosen is not None:
            self._grant(chosen.decode())

    def _grant(self, name: str) -> None:
        self.requests += 1
        self.slots.take(UP, self.requests)
        self.granted.append(name)


def test_clients_come_first_and_else_who_came_first() -> None:
    scene = _Scene("client 1", "client 2")
    scene.want("first", "ahead 1", "client 1", "ahead 2", "client 2")
    for _ in range(4):
        scene.free()
    assert scene.granted == ["first", "client 1", "client 2", "ahead 1", "ahead 2"]


def test_who_waits_comes_sooner_once_a_client_waits_for_it() -> None:
    scene = _Scene()
    scene.want("first", "one", "other")
    scene.clients.add(b"other")
    scene.free()
    assert scene.granted == ["first", "other"]


def test_who_has_had_a_turn_and_wants_another_goes_behind_the_others() -> None:
    scene = _Scene()
    scene.want("first", "one", "other")
    for again in ("one", "other", "one"):
        scene.free()
        scene.want(again)
    assert scene.granted == ["first", "one", "other", "one"]


def test_who_waits_already_keeps_its_place_and_has_one_turn() -> None:
    scene = _Scene()
    scene.want("first", "one", "other", "one")
    for _ in range(3):
        scene.free()
    assert scene.granted == ["first", "one", "other"]


def test_each_upstream_has_slots_of_its_own() -> None:
    slots = OriginSlots(1)
    slots.take("a", 1)
    assert (slots.is_free("a"), slots.is_free("b")) == (False, True)
    slots.wait("a", b"one")
    assert slots.next("b", lambda _: False) is None
    slots.take("b", 2)
    assert slots.used() == {"a": 1, "b": 1}
    assert slots.release(1) == "a"
    assert slots.next("a", lambda _: False) == b"one"


def test_nobody_is_chosen_while_no_slot_is_free() -> None:
    slots = OriginSlots(1)
    slots.take(UP, 1)
    slots.wait(UP, b"one")
    assert slots.next(UP, lambda _: False) is None
    slots.release(1)
    assert slots.next(UP, lambda _: False) == b"one"
    assert slots.next(UP, lambda _: False) is None


def test_a_request_gives_its_slot_back_once() -> None:
    slots = OriginSlots(2)
    slots.take(UP, 1)
    slots.take(UP, 2)
    assert slots.release(1) == UP
    assert slots.release(1) is None
    assert slots.used() == {UP: 1}


@given(st.integers(1, 4), st.lists(st.booleans(), max_size=60))
def test_never_more_than_the_limit_and_never_fewer_than_possible(limit: int, steps: list[bool]) -> None:
    slots = OriginSlots(limit)
    running: list[int] = []
    wanted = 0
    for number, want in enumerate(steps):
        if want:
            wanted += 1
            if slots.is_free(UP):
                slots.take(UP, number)
                running.append(number)
            else:
                slots.wait(UP, bytes([number]))
        elif running:
            wanted -= 1
            slots.release(running.pop(0))
            if slots.next(UP, lambda _: False) is not None:
                slots.take(UP, number)
                running.append(number)
        assert len(running) == min(limit, wanted)
        assert slots.used().get(UP, 0) == len(running)
