"""Lengths that hosts say: a verified one beats hearsay, and nobody is quarantined for one."""

from __future__ import annotations

import hashlib

from msgspec.structs import replace

from scheduler.core.events import Connected, Received
from scheduler.core.quarantine import QUARANTINE_S
from scheduler.core.rng import Rng
from scheduler.core.scheduler import Scheduler
from scheduler.core.swarm import Swarm
from scheduler.protocol import from_host, to_host
from scheduler.protocol.connection import Closing
from scheduler.protocol.from_host import Announce, Holding
from scheduler.protocol.geometry import piece_length
from scheduler.protocol.to_host import Failed, Joined, Lease, Quarantined, Reset
from tests.scheduler.messages_for_pull import JOIN, MIB, WITHIN, D, add, joined
from tests.scheduler.playbook import SETTINGS, Playbook, hello

OTHER = Announce((Holding(D, 5 * MIB, complete=False, have=b"\x01"),))
ANOTHER_LENGTH = "the other hosts say that this blob has another length"


def test_what_a_host_has_verified_beats_what_any_number_of_others_announce() -> None:
    play = Playbook("liar", "second", "third", "a", "b")
    play = play >> ("liar", OTHER) >> ("second", OTHER) >> ("third", OTHER)
    play = play >> ("a", JOIN) << ("liar", Reset(D, 2)) << ("second", Reset(D, 2)) << ("third", Reset(D, 2))
    play = play << ("a", Reset(D, 2)) << ("a", replace(joined(), generation=2))
    play = play << ("a", Lease(1, D, 2, 0, 1, WITHIN))
    play = play >> ("b", JOIN) << ("b", replace(joined("a"), generation=2)) << ("a", add("b"))
    assert play
    assert play.scheduler.statistics().members == 2
    assert play.scheduler.statistics().hosts == 5


def test_hearsay_that_differs_from_a_verified_length_ends_the_membership_only() -> None:
    play = Playbook("a", "late") >> ("a", JOIN) << ("a", joined()) << ("a", Lease(1, D, 1, 0, 1, WITHIN))
    assert play >> ("late", OTHER)
    assert play.scheduler.statistics().members == 1
    assert play.scheduler.statistics().hosts == 2


def test_two_witnesses_of_a_length_are_believed_and_who_says_another_asks_the_origin_itself() -> None:
    play = Playbook("a", "b", "c") >> ("a", JOIN) << ("a", joined()) << ("a", Lease(1, D, 1, 0, 1, WITHIN))
    play = play >> ("b", JOIN) << ("b", joined("a")) << ("a", add("b"))
    assert play >> ("c", replace(JOIN, size_bytes=3 * MIB)) << ("c", Failed(D, 0, ANOTHER_LENGTH))
    assert play.scheduler.statistics().quarantined == 0


def test_many_ids_at_one_address_are_one_witness_of_a_length() -> None:
    scheduler = Scheduler(SETTINGS)
    for number, host in enumerate(("x", "y", "z"), 1):
        scheduler.handle(Connected(number, hello(host), "192.0.2.66"), 0.0)
        scheduler.handle(Received(number, replace(JOIN, size_bytes=3 * MIB)), 0.0)
    scheduler.handle(Connected(9, hello("a"), "192.0.2.7"), 0.0)
    scheduler.handle(Received(9, JOIN), 0.0)
    assert scheduler._state.swarms[D].size_bytes is None, "each length has one witness"
    scheduler.validate()
    assert scheduler.statistics().quarantined == 0


def test_whoever_says_that_it_holds_a_blob_in_another_length_than_its_bytes_have_is_quarantined() -> None:
    data = b"tiny"
    digest = hashlib.sha256(data).digest()
    tiny = replace(JOIN, digest=digest, size_bytes=len(data))
    play = Playbook("a", "liar", "b") >> ("a", tiny) << ("a", Joined(digest, 1, 4, False, ()))
    play = play << ("a", Lease(1, digest, 1, 0, 2, WITHIN)) >> ("a", from_host.InlineBlob(digest, data))
    play = play >> ("b", replace(tiny, size_bytes=100))  # as its manifest says
    play = play << ("b", to_host.InlineBlob(digest, data))
    reason = f"said that it holds the blob, in another length (blob sha256:{digest.hex()})"
    play = play >> ("liar", Announce((Holding(digest, 100, complete=True),)))
    assert play << ("liar", Quarantined(reason, QUARANTINE_S)) << ("liar", Closing.QUARANTINED)


def test_with_the_length_of_a_blob_that_of_its_pieces_is_forgotten() -> None:
    swarm = Swarm(D, SETTINGS, Rng(1))
    swarm.set_size(64 * MIB, piece_length(64 * MIB) // 2)
    assert swarm.told_length == piece_length(64 * MIB) // 2
    swarm.forget_size()
    assert swarm.told_length == 0
