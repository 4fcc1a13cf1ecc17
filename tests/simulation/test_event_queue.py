"""Virtual time: the order in which things happen, and that a task of trio can play them."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from p2pd.simulation.event_queue import SLICE_S, Timeline


def test_what_is_due_first_happens_first_and_else_what_was_put_first() -> None:
    timeline, seen = Timeline(), list[tuple[float, str]]()

    def see(what: str) -> None:
        seen.append((timeline.now, what))

    timeline.at(2.0, see, "late")
    timeline.at(1.0, see, "first")
    timeline.after(1.0, see, "second")
    timeline.play(5.0)
    assert seen == [(1.0, "first"), (1.0, "second"), (2.0, "late")]
    assert (timeline.now, timeline.next()) == (5.0, None)


def test_what_an_action_puts_happens_in_the_same_go_if_it_is_due() -> None:
    timeline, seen = Timeline(), list[float]()

    def again() -> None:
        seen.append(timeline.now)
        timeline.after(1.0, again)

    timeline.at(0.5, again)
    timeline.play(3.0)
    assert seen == [0.5, 1.5, 2.5]
    assert timeline.next() == 3.5


def test_a_step_is_one_action_at_its_own_time() -> None:
    timeline = Timeline()
    timeline.at(3.0, lambda: None)
    timeline.step()
    assert timeline.now == 3.0
    with pytest.raises(IndexError):
        timeline.step()


def test_a_task_plays_what_others_put_while_it_sleeps() -> None:
    timeline, seen = Timeline(), list[tuple[float, float]]()

    def see() -> None:
        seen.append((timeline.now, trio.current_time()))

    async def run() -> None:
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timeline.drive)
            timeline.at(began_s + 10.0, see)
            await trio.sleep(4.0)
            timeline.catch_up()
            timeline.after(1.0, see)
            await trio.sleep(8.0)
            nursery.cancel_scope.cancel()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [now - seen[0][0] for now, _ in seen] == pytest.approx([0.0, 5.0])
    for now, clock in seen:
        assert clock <= now <= clock + SLICE_S
