"""What the machines around the network take: constants, each from a measurement or from production's code."""

from __future__ import annotations

from typing import Final

from scheduler.protocol.from_host import Announce, Hello

ANSWER_S: Final = 0.002
"""From a request at a host to the first byte of the piece, beyond the network: a loop, a thread, a header."""

VERIFY_BYTES_PER_S: Final = 1.2e9
"""Taking a piece in: both hashes and a write (`python -m benchmarks transfer`)."""

GATHER_S: Final = 0.015
"""How long news for neighbours are gathered: `peer.net.links.GATHER_S`."""

PREPARE_S: Final = 0.001
"""Giving a blob its place in the store."""

SILENT_S: Final = 4.5
"""How long until others know that a host has vanished without a word: a heartbeat and a half of theirs."""

RETRY_S: Final = 2.0
"""How soon a client comes back after a download has failed."""

SCHEDULER_S: Final[dict[type, float]] = {Hello: 0.0001, Announce: 0.0001}
SCHEDULER_OTHER_S: Final = 0.00006
"""What a message costs the scheduler's core, a Join until it is read included."""

SCHEDULER_JOIN_S: Final = 0.00014
SCHEDULER_SEND_S: Final = 0.00001
"""What else a join costs, and each message that the scheduler sends. With the eleven that most joins make, a core has
3,240 joins in a second (`python -m benchmarks scheduler`)."""
