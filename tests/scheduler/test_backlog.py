"""What waits until a scheduler has nothing else to do."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core import backlog as tested
from scheduler.core.backlog import Backlog, is_join
from scheduler.core.events import Answered, Connected, Received, Tick
from scheduler.protocol.from_host import Hello, Join, Leave

D = b"d" * 32
FromHost = Received | Answered

messages = st.sampled_from([Join(D, "docker.io", "library/app", 1 << 20), Leave(D)])
from_hosts = st.one_of(
    st.builds(Received, st.integers(1, 4), messages),
    st.builds(Answered, st.integers(1, 4), st.integers(1, 9)),
)


@given(st.lists(from_hosts, max_size=30), st.data())
def test_a_host_is_heard_in_its_own_order_and_a_join_after_all_else(said: list[FromHost], data: st.DataObject) -> None:
    backlog, heard = Backlog(), list[FromHost]()
    for event in said:
        if backlog.has_to_wait(event):
            backlog.put(event, 100)
        else:
            assert not is_join(event)
            heard.append(event)
        heard.extend(backlog.take() for _ in range(data.draw(st.integers(0, len(backlog)))))
    heard.extend(backlog.take() for _ in range(len(backlog)))
    assert not any(map(backlog.is_full, range(1, 5)))
    of_host: dict[tuple[str, int], list[FromHost]] = defaultdict(list)
    for name, events in (("said", said), ("heard", heard)):
        for event in events:
            of_host[name, event.connection].append(event)
    for connection in range(1, 5):
        assert of_host["said", connection] == of_host["heard", connection]


def test_what_comes_from_no_host_or_lets_one_in_never_waits() -> None:
    backlog = Backlog()
    backlog.put(Received(1, Join(D, "docker.io", "library/app")))
    assert not backlog.has_to_wait(Tick())
    assert not backlog.has_to_wait(Connected(1, Hello("a", 1, 1, "a:1")))


def test_what_waits_has_a_bound() -> None:
    backlog, full = Backlog(), list[bool]()
    for connection, size_bytes in ((1, tested.MAX_BYTES), (2, 1)):
        backlog.put(Received(connection, Join(D, "docker.io", "library/app")), size_bytes)
        full.append(backlog.is_full(connection))
    assert backlog.take().connection == 1
    assert [*full, backlog.is_full(2)] == [False, True, False]


def test_what_waits_of_one_host_has_a_bound() -> None:
    backlog = Backlog()
    for _ in range(tested.MAX_OF_ONE + 1):
        assert not backlog.is_full(1)
        backlog.put(Received(1, Join(D, "docker.io", "library/app")))
    assert backlog.is_full(1)
    assert not backlog.is_full(2)
    backlog.take()
    assert not backlog.is_full(1)
