"""A conversation with the scheduler as one assertion.

`Playbook("a") >> ("a", Join(…)) << ("a", Joined(…))` reads: host a, which is connected, says Join, and the scheduler
says Joined to it and nothing else to anybody. A playbook is true if each host is told what is written, in that order;
if not, it says which conversation took place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from msgspec.structs import replace

from scheduler.core.events import (
    Answered,
    Ask,
    Close,
    Connected,
    Disconnected,
    Event,
    PreheatChanged,
    Probe,
    PullSeen,
    Received,
    TagAsked,
    TagTold,
    Tick,
)
from scheduler.core.preheat_job import JobState, TargetState
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.connection import Closing
from scheduler.protocol.from_host import Hello
from scheduler.protocol.to_host import Welcome

SETTINGS = SchedulerSettings(lease_pieces=2, leases_per_host=1, leases_per_blob=2, settle_s=0.0, opening_s=15.0)


@dataclass(frozen=True)
class Passes:
    """Time passes, in which nobody says anything."""

    seconds: float


VANISHES = Disconnected(0)
"""The host's connection breaks."""


def hello(host: str, **fields: Any) -> Hello:
    """What a host says first."""
    return replace(Hello(host, 1, 1, f"{host}:1"), **fields)


PROBED = "is pinged"


class Playbook:
    """Plays a conversation as it is written down, and compares."""

    def __init__(self, *hosts: str, settings: SchedulerSettings = SETTINGS) -> None:
        self.certified = False
        """Whether hosts connect with a certificate."""
        self.seen_at = ""
        """The address from which hosts connect."""
        self.frozen: set[str] = set()
        """The hosts that answer no ping. All others answer at once."""
        self.scheduler = Scheduler(settings)
        self.now = 1000.0
        self.kept: list[tuple[JobState, dict[str, TargetState]]] = []
        """What was to be kept of preheats: the state of a job, and of the hosts that have changed."""
        self.pulls: list[PullSeen] = []
        self.of_tags: list[TagAsked | TagTold] = []
        """What the other schedulers are to hear."""
        self._names: dict[int, str] = {}
        self._expected: list[tuple[str, object]] = []
        self._got: list[tuple[str, object]] = []
        self._transcript: list[str] = []
        self._mistakes = 0
        for host in hosts:
            _ = self >> (host, hello(host)) << (host, Welcome(1))

    def __rshift__(self, step: tuple[str, Any] | Passes) -> Self:
        self._compare()
        self._transcript.append(f">> {step}")
        if isinstance(step, Passes):
            until = self.now + step.seconds
            while (due := self.scheduler.next_deadline()) is not None and due <= until:
                self.now = due
                self._play(Tick())
            self.now = until
            self._play(Tick())
            return self
        host, message = step
        connection = next((number for number, name in reversed(self._names.items()) if name == host), 0)
        if isinstance(message, Hello):
            connection = len(self._names) + 1
            self._names[connection] = host
            self._play(Connected(connection, message, self.seen_at, self.certified))
        elif message is VANISHES:
            self._play(Disconnected(connection))
        else:
            self._play(Received(connection, message))
        return self

    def __lshift__(self, reply: tuple[str, object]) -> Self:
        self._expected.append(reply)
        return self

    def __bool__(self) -> bool:
        self._compare()
        assert not self._mistakes, "\n" + "\n".join(self._transcript)
        return True

    def tell(self, event: Event) -> None:
        """Something happens that is no host's doing; what is told follows by `<<`."""
        self._compare()
        self._transcript.append(f">> {event}")
        self._play(event)

    def _play(self, event: Event) -> None:
        for instruction in self.scheduler.handle(event, self.now):
            if isinstance(instruction, Close):
                self._got.append((self._names[instruction.connection], instruction.closing))
            elif isinstance(instruction, PreheatChanged):
                self.kept.append((instruction.job.shown_state, {each.host: each.state for each in instruction.targets}))
            elif isinstance(instruction, PullSeen):
                self.pulls.append(instruction)
            elif isinstance(instruction, TagAsked | TagTold):
                self.of_tags.append(instruction)
            elif isinstance(instruction, Probe):
                self._got.append((self._names[instruction.connection], PROBED))
            elif isinstance(instruction, Ask):
                if self._names[instruction.connection] not in self.frozen:
                    self._play(Answered(instruction.connection, instruction.lease))
            else:
                self._got += [(self._names[number], instruction.message) for number in instruction.connections]
        self.scheduler.validate()

    def _compare(self) -> None:
        """What each host was told since the last step must be what was written."""
        rest = list(self._expected)
        for reply in self._got:
            if reply == next((expected for expected in rest if expected[0] == reply[0]), None):
                rest.remove(reply)
                self._transcript.append(f"   << {reply}")
            else:
                self._mistakes += 1
                self._transcript.append(f" ! << {reply}   is not in the playbook")
        for reply in rest:
            self._mistakes += 1
            self._transcript.append(f" ! << {reply}   was not said")
        self._expected, self._got = [], []


__all__ = ["PROBED", "SETTINGS", "VANISHES", "Closing", "Passes", "Playbook", "hello"]
