"""What the core is told, and what it tells its shell to do. A connection is a number that the shell gave it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from scheduler.protocol.codec import FromHost, ToHost
from scheduler.protocol.connection import Closing
from scheduler.protocol.from_host import Hello


@dataclass(frozen=True, slots=True)
class Connected:
    """A host has said Hello on a new connection."""

    connection: int
    hello: Hello


@dataclass(frozen=True, slots=True)
class Received:
    """A message came on a connection."""

    connection: int
    message: FromHost


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone, whoever ended it."""

    connection: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened, but `next_deadline` has come."""


Event: TypeAlias = Connected | Received | Disconnected | Tick


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message on each of these connections, in the order of the instructions."""

    connections: tuple[int, ...]
    message: ToHost


@dataclass(frozen=True, slots=True)
class Close:
    """End a connection with this code and text."""

    connection: int
    closing: Closing
    reason: str


Instruction: TypeAlias = Send | Close
