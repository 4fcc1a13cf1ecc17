"""What one host may cost its scheduler, and all hosts together."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.protocol.to_host import MAX_BURST, MAX_MESSAGES_PER_S


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a connection's cost. Durations are in seconds."""

    connections: int = 50_000
    """The hosts of each of two schedulers if there are 100,000, which three share until one of them is gone. With
    `claimed_bytes` they take most of the memory that docker/kubernetes.yaml gives a scheduler."""
    hello_s: float = 5.0
    """How long a connection may take to send Hello."""
    heartbeat_s: float = 4.0
    """A host that was silent for this long is pinged. Half of this time later, without an answer, the host is gone."""
    probe_s: float = 2.0
    """How long a host whose id another host has said may take to answer a ping."""
    waiting_bytes: int = 4 * 1024 * 1024
    """The most unread bytes of one host: twice the piece map of the largest blob."""
    waiting_bytes_in_all: int = 256 * 1024 * 1024
    """The most unread bytes of all hosts together. Beyond it, the hosts that read least have to go."""
    read_s: float = 10.0
    """How long a host may read nothing of what waits for it."""
    begun_bytes: int = 32 * 1024 * 1024
    """The most bytes of messages that all hosts have begun and not ended."""
    message_s: float = 5.0
    """How long a message may take from its first byte to its last. The longest has 256 KiB."""
    messages_per_s: float = MAX_MESSAGES_PER_S
    burst: int = MAX_BURST
    close_s: float = 2.0
    """How long a host may take to hang up after it was told to."""
