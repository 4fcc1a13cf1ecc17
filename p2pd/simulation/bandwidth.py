"""Lines and what flows through them: rates that many transfers share as TCP does, about.

The problem: how fast a transfer is depends on all that share its sender's line, its receiver's, and the lines between,
and on what shares theirs. An exact max-min fair share is a computation over the whole network at every change.

Ours is local. A transfer that begins gets its even share of each line, or all that is spare if that is more; where the
line is full, those with more than their even share give way. What a transfer leaves when it ends is given to the
others on its lines, smallest first, as far as their other lines have room. So no line ever carries more than its rate,
little is left unused, and a change costs a step for each transfer that it touches. Not modelled: slow start (the
connections are kept), loss, queues in switches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from p2pd.simulation.event_queue import EventQueue

_BYTE: Final = 1.0
_RATE: Final = 1.0
"""Bytes, and bytes per second, that are not worth an event."""


class Line:
    """One direction of a link, of `rate` bytes per second; `used` of it are given out."""

    __slots__ = ("carried", "flows", "rate", "used")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.used = 0.0
        self.carried = 0.0
        self.flows: list[Flow] = []


class Flow:
    """So many bytes on their way. `done(*args)` is called when the last one has arrived."""

    __slots__ = ("args", "done", "due", "left", "lines", "rate", "since", "size")

    def __init__(
        self, size: float, lines: tuple[Line, ...], done: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self.size = self.left = size
        self.lines = lines
        self.done = done
        self.args = args
        self.rate = 0.0
        self.since = 0.0
        self.due = math.inf


class Lines:
    """All that flows at one time."""

    def __init__(self, event_queue: EventQueue) -> None:
        self._event_queue: Final = event_queue

    def send(self, size: float, lines: tuple[Line, ...], done: Callable[..., object], *args: object) -> Flow:
        """Send `size` bytes through `lines`."""
        flow = Flow(size, lines, done, args)
        flow.since = self._event_queue.now
        rate = math.inf
        for line in lines:
            fair, spare = line.rate / (len(line.flows) + 1), line.rate - line.used
            rate = min(rate, max(fair, spare))
        relieved: dict[Line, None] = {}
        for line in lines:
            if rate > line.rate - line.used:
                self._squeeze(line, rate, relieved)
            line.used += rate
        for line in lines:
            line.flows.append(flow)
        flow.rate = rate
        for line in relieved:
            if line not in lines:
                self._fill(line)
        self._schedule(flow)
        return flow

    def stop(self, flow: Flow) -> float:
        """End a flow before its time. Returns the bytes that have passed."""
        self._settle(flow)
        self._take_out(flow)
        return flow.size - flow.left

    def _take_out(self, flow: Flow) -> None:
        flow.due = math.inf
        passed = flow.size - flow.left
        for line in flow.lines:
            line.flows.remove(flow)
            line.used -= flow.rate
            line.carried += passed
        for line in flow.lines:
            if line.flows:
                self._fill(line)

    def _squeeze(self, line: Line, wanted: float, relieved: dict[Line, None]) -> None:
        """Make room for `wanted` on a full line: who has more than an even share gives of it, in proportion.

        What else becomes free by that is on the lines `relieved`.
        """
        fair = line.rate / (len(line.flows) + 1)
        above = [(flow, flow.rate - fair) for flow in line.flows if flow.rate > fair]
        missing = wanted - (line.rate - line.used)
        part = min(1.0, missing / sum(excess for _, excess in above)) if above else 0.0
        for flow, excess in above:
            self._change(flow, -part * excess)
            relieved.update(dict.fromkeys(flow.lines))

    def _fill(self, line: Line) -> None:
        """Give what is spare on a line to the flows on it, as far as their other lines have room."""
        spare = line.rate - line.used
        if spare <= _RATE:
            return
        flows = line.flows if len(line.flows) == 1 else sorted(line.flows, key=_rate_of)
        count = len(flows)
        for flow in flows:
            more = spare / count
            count -= 1
            for other in flow.lines:
                if other is not line:
                    more = min(more, other.rate - other.used)
            if more > _RATE:
                self._change(flow, more)
                spare -= more

    def _change(self, flow: Flow, by: float) -> None:
        self._settle(flow)
        flow.rate += by
        for line in flow.lines:
            line.used += by
        self._schedule(flow)

    def _settle(self, flow: Flow) -> None:
        now = self._event_queue.now
        flow.left -= flow.rate * (now - flow.since)
        flow.since = now

    def _schedule(self, flow: Flow) -> None:
        """See to the flow when it will end at this rate. One that has become slower is seen to too early, once."""
        due = self._event_queue.now + max(0.0, flow.left) / flow.rate
        if due < flow.due:
            flow.due = due
            self._event_queue.at(due, self._due, flow, due)

    def _due(self, flow: Flow, due: float) -> None:
        if flow.due != due:
            return
        self._settle(flow)
        if flow.left > _BYTE:
            flow.due = math.inf
            self._schedule(flow)
            return
        flow.left = 0.0
        self._take_out(flow)
        flow.done(*flow.args)


def _rate_of(flow: Flow) -> float:
    return flow.rate
