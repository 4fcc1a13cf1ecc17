"""Connections to one origin: never more than the limit, clients before what is fetched ahead."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from peer.priority_semaphore import PrioritySemaphore


class _Scene:
    """One slot, and who waits for it by name."""

    def __init__(self, *clients: str) -> None:
        self.slots = PrioritySemaphore(1)
        self.clients = set(clients)
        self.granted: list[str] = []

    def want(self, *names: str) -> None:
        for name in names:
            self.slots.want(partial(self._background, name), partial(self.granted.append, name))

    def _background(self, name: str) -> bool:
        return name not in self.clients


def test_clients_come_first_and_else_who_came_first() -> None:
    scene = _Scene("client 1", "client 2")
    scene.want("first", "ahead 1", "client 1", "ahead 2", "client 2")
    for _ in range(4):
        scene.slots.free()
    assert scene.granted == ["first", "client 1", "client 2", "ahead 1", "ahead 2"]


def test_who_waits_comes_sooner_once_a_client_waits_for_it() -> None:
    scene = _Scene()
    scene.want("first", "one", "other")
    scene.clients.add("other")
    scene.slots.free()
    assert scene.granted == ["first", "other"]


@given(st.integers(1, 4), st.lists(st.booleans(), max_size=60))
def test_never_more_than_the_limit_and_never_fewer_than_possible(limit: int, steps: list[bool]) -> None:
    slots = PrioritySemaphore(limit)
    wanted = out = 0

    def granted() -> None:
        nonlocal out
        out += 1

    for want in steps:
        if want:
            wanted += 1
            slots.want(lambda: False, granted)
        elif out:
            out -= 1
            wanted -= 1
            slots.free()
        assert out == min(limit, wanted)
