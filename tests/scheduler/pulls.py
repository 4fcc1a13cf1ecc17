"""A blob of four pieces and what is said about it: the beginning of most conversations."""

from __future__ import annotations

from scheduler.protocol.from_host import (
    Join,
    LeasePieces,
)
from scheduler.protocol.to_host import (
    Joined,
    Lease,
    Neighbour,
    Neighbours,
    PieceDigests,
    Run,
)
from tests.scheduler.playbook import SETTINGS, Passes, Playbook

D = b"d" * 32
MIB = 1 << 20
"""Four pieces."""
P0, P1, P2, P3 = (bytes([piece]) * 32 for piece in range(4))
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
    return PieceDigests(D, 1, (Run(first, run),))


def two_with_leases() -> Playbook:
    """Hosts a and b want the blob, and have a lease each."""
    return (
        Playbook("a", "b")
        >> ("a", JOIN)
        << ("a", joined())
        << ("a", Lease(1, D, 1, 0, 2, WITHIN))
        >> ("b", JOIN)
        << ("b", joined("a"))
        << ("a", add("b"))
        << ("b", Lease(2, D, 1, 2, 4, WITHIN))
    )


def all_landed() -> Playbook:
    """The same when every piece has left the origin, once."""
    play = two_with_leases() >> ("a", LeasePieces(1, D, 0, P0 + P1))
    play = play << ("a", digests(0, P0 + P1)) << ("b", digests(0, P0 + P1))
    play = play >> Passes(1) >> ("b", LeasePieces(2, D, 2, P2 + P3))
    return play << ("a", digests(2, P2 + P3)) << ("b", digests(2, P2 + P3))
