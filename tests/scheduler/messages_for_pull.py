"""A blob of four pieces and what is said about it: the beginning of most conversations."""

from __future__ import annotations

from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.from_host import (
    Join,
    LeasePieces,
)
from scheduler.protocol.to_host import (
    DigestRun,
    Joined,
    Lease,
    Neighbour,
    Neighbours,
    PieceDigests,
)
from tests.scheduler.playbook import SETTINGS, Passes, Playbook

D = b"d" * 32
MIB = 1 << 20
"""Four pieces."""
P0, P1, P2, P3 = (bytes([piece]) * 32 for piece in range(4))
PIECE = MIB // 4
JOIN = Join(D, "docker.io", "library/app", MIB)
WITHIN = SETTINGS.lease_s


def add(*hosts: str) -> Neighbours:
    return Neighbours(D, tuple(map(neighbour, hosts)), ())


def remove(*hosts: str) -> Neighbours:
    return Neighbours(D, (), hosts)


def neighbour(host: str) -> Neighbour:
    return Neighbour(host, f"{host}:1", 0)


def joined(*hosts: str, size: int | None = MIB, sealed: bool = False) -> Joined:
    return Joined(D, 1, size, sealed, tuple(map(neighbour, hosts)))


def digests(first: int, run: bytes) -> PieceDigests:
    return PieceDigests(D, 1, (DigestRun(first, run),))


def one_with_a_lease(settings: SchedulerSettings = SETTINGS) -> Playbook:
    """Hosts a and b want the blob, and a has the first lease, of one piece."""
    return (
        Playbook("a", "b", settings=settings)
        >> ("a", JOIN)
        << ("a", joined())
        << ("a", Lease(1, D, 1, 0, 1, WITHIN))
        >> ("b", JOIN)
        << ("b", joined("a"))
        << ("a", add("b"))
    )


def two_with_leases(settings: SchedulerSettings = SETTINGS) -> Playbook:
    """Hosts a and b want the blob. Piece 0 has come to a, and each has a lease: b of piece 1, and a of piece 2."""
    return (
        one_with_a_lease(settings)
        >> ("a", LeasePieces(1, D, 0, P0))
        << ("a", digests(0, P0))
        << ("b", digests(0, P0))
        << ("b", Lease(2, D, 1, 1, 2, WITHIN))
        << ("a", Lease(3, D, 1, 2, 3, WITHIN))
    )


def all_landed(settings: SchedulerSettings = SETTINGS) -> Playbook:
    """The same when every piece has left the origin, once: 0 and 2 to a, 1 and 3 to b."""
    play = two_with_leases(settings) >> Passes(1) >> ("b", LeasePieces(2, D, 1, P1))
    play = play << ("a", digests(1, P1)) << ("b", digests(1, P1)) << ("b", Lease(4, D, 1, 3, 4, WITHIN))
    for host, lease, index, piece in (("a", 3, 2, P2), ("b", 4, 3, P3)):
        play = play >> Passes(1) >> (host, LeasePieces(lease, D, index, piece))
        play = play << ("a", digests(index, piece)) << ("b", digests(index, piece))
    return play
