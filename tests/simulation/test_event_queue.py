"""Virtual time: the order in which things happen, and that a task of trio can play them."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from p2pd.simulation.event_queue import SLICE_S, EventQueue


def test_what_is_due_first_happens_first_and_else_what_was_put_first() -> None:
    event_queue, seen = EventQueue(), list[tuple[float, str]]()

    def see(what: str) -> None:
        seen.append((event_queue.now, what))

    event_queue.at(2.0, see, "late")
    event_queue.at(1.0, see, "first")
    event_queue.after(1.0, see, "second")
    event_queue.play(5.0)
    assert seen == [(1.0, "first"), (1.0, "second"), (2.0, "late")]
    assert (event_queue.now, event_queue.next()) == (5.0, None)


def test_what_an_action_puts_happens_in_the_same_go_if_it_is_due() -> None:
    event_queue, seen = EventQueue(), list[float]()

    def requeue() -> None:
        seen.append(event_queue.now)
        event_queue.after(1.0, requeue)

    event_queue.at(0.5, requeue)
    event_queue.play(3.0)
    assert seen == [0.5, 1.5, 2.5]
    assert event_queue.next() == 3.5


def test_a_step_is_one_action_at_its_own_time() -> None:
    event_queue = EventQueue()
    event_queue.at(3.0, lambda: None)
    event_queue.step()
    assert event_queue.now == 3.0
    with pytest.raises(IndexError):
        event_queue.step()


def test_a_task_plays_what_others_put_while_it_sleeps() -> None:
    event_queue, seen = EventQueue(), list[tuple[float, float]]()

    def see() -> None:
        seen.append((event_queue.now, trio.current_time()))

    async def run() -> None:
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(event_queue.drive)
            event_queue.at(began_s + 10.0, see)
            await trio.sleep(4.0)
            event_queue.catch_up()
            event_queue.after(1.0, see)
            await trio.sleep(8.0)
            nursery.cancel_scope.cancel()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [now - seen[0][0] for now, _ in seen] == pytest.approx([0.0, 5.0])
    for now, clock in seen:
        assert clock <= now <= clock + SLICE_S
