"""The blobs that a host holds whole, and those that it neither holds nor wants: what it says of them, and to whom."""

from __future__ import annotations

from msgspec.structs import replace

from peer.core.events import (
    AnswerTag,
    BlobRemoved,
    BlobStored,
    BlobVerified,
    CancelRange,
    DigestsRead,
    Ended,
    KeepLink,
    LinkLost,
    LinkUp,
    Outcome,
    Phase,
    PiecesHeld,
    Prepare,
    Prepared,
    ReadDigests,
    Recover,
    RefuseHosts,
    ReleaseLink,
    ReportQuarantine,
    ReportUnreachable,
    ReportUntold,
    SchedulerFound,
    TellNeighbours,
)
from scheduler.protocol.fields import DIGEST_BYTES, MAX_HOLDINGS_PER_MESSAGE
from scheduler.protocol.from_host import (
    Announce,
    DigestReport,
    Holding,
    InlineBlob,
    LeaseEnded,
    LeaseOutcome,
    Leave,
    Sealed,
)
from scheduler.protocol.to_host import (
    DigestRun,
    Failed,
    Gateway,
    Neighbours,
    Quarantined,
    RequestDigests,
    Revoked,
    TagQuery,
    TagResult,
    Unreachable,
    Welcome,
)
from tests.peer.host_playbook import (
    JOIN,
    PIECE,
    SIZE,
    WHOLE,
    D,
    E,
    Passes,
    Playbook,
    beginning,
    digest,
    holds,
    joined,
    lease,
    left,
    met,
    neighbour,
    range_ended,
    source,
    told,
    whole,
)


def seeding() -> Playbook:
    """D was in the store when the host began, and is announced."""
    playbook = Playbook(connected=False) >> BlobStored(D, SIZE) >> SchedulerFound()
    return playbook << Announce((Holding(D, SIZE, complete=True),))


def seeding_to(host: str) -> Playbook:
    playbook = seeding() >> Neighbours(D, (neighbour(host),), ())
    return playbook << KeepLink(host, f"{host}:1") << TellNeighbours((host,), WHOLE)


def completed() -> Playbook:
    """D has come, and its neighbour b was told."""
    playbook = whole() >> BlobVerified(D, ok=True) << Sealed(D, 1, SIZE) << TellNeighbours(("b",), WHOLE)
    return playbook << CancelRange(D, 0) << Ended(D, Phase.COMPLETE) >> range_ended(0, Outcome.BROKEN)


class TestAnnouncements:
    def test_what_is_held_is_announced_to_each_scheduler(self) -> None:
        assert seeding() >> SchedulerFound() << Announce((Holding(D, SIZE, complete=True),))

    def test_in_messages_of_bounded_length(self) -> None:
        playbook = Playbook(connected=False)
        held = [number.to_bytes(32, "big") for number in range(MAX_HOLDINGS_PER_MESSAGE + 1)]
        for each in held:
            playbook = playbook >> BlobStored(each, 1)
        holdings = [Holding(each, 1, complete=True) for each in reversed(held)]
        playbook = playbook >> SchedulerFound() << Announce(tuple(holdings[:MAX_HOLDINGS_PER_MESSAGE]))
        assert playbook << Announce(tuple(holdings[MAX_HOLDINGS_PER_MESSAGE:]))

    def test_as_many_as_the_scheduler_takes_those_used_last_first(self) -> None:
        playbook = Playbook(connected=False)
        oldest, older, newest = (name * DIGEST_BYTES for name in (b"1", b"2", b"3"))
        for each in (oldest, older, newest):
            playbook = playbook >> BlobStored(each, SIZE)
        holdings = tuple(Holding(each, SIZE, complete=True) for each in (newest, older))
        playbook = playbook >> SchedulerFound(max_blobs=2) << Announce(holdings) << ReportUntold(1, 2)
        # A blob that is wanted takes the place of the blob that was used least recently.
        assert playbook >> source() << Leave(older) << Recover(D)

    def test_nothing_is_announced_by_a_host_that_holds_nothing(self) -> None:
        announced = Announce((Holding(D, SIZE, complete=True),))
        assert Playbook() >> BlobStored(D, 0) >> SchedulerFound()
        assert Playbook() >> BlobStored(D, SIZE) << announced >> BlobRemoved(D) << left() >> SchedulerFound()

    def test_a_blob_on_its_way_announces_its_own_part(self) -> None:
        playbook = seeding() >> source(blob=E) << Recover(E) >> PiecesHeld(E, SIZE, PIECE, {1: digest(1)})
        part = Announce((Holding(E, SIZE, complete=False, have=b"\x02"),))
        join = replace(JOIN, digest=E)
        playbook = playbook << part << join
        assert playbook >> SchedulerFound() << Announce((Holding(D, SIZE, complete=True),)) << part << join

    def test_a_blob_that_has_come_is_announced_whole(self) -> None:
        assert completed() >> SchedulerFound() << Announce((Holding(D, SIZE, complete=True),))

    def test_a_blob_on_its_way_is_not_whole_whatever_the_store_says(self) -> None:
        assert beginning() >> BlobStored(D, SIZE) >> SchedulerFound() << JOIN


class TestServing:
    def test_all_of_it_may_be_served(self) -> None:
        for playbook in (seeding(), completed()):
            assert playbook
            assert playbook.machine.may_serve(D, 0, SIZE)
            assert not playbook.machine.may_serve(D, 0, SIZE + 1)
            assert not playbook.machine.may_serve(E, 0, 1)

    def test_nothing_of_it_once_it_is_removed(self) -> None:
        playbook = seeding() >> BlobRemoved(D) << left()
        assert playbook
        assert not playbook.machine.may_serve(D, 0, 1)


class TestNeighbours:
    def test_a_neighbour_is_told_that_it_is_held_whole(self) -> None:
        assert seeding_to("b")

    def test_its_first_bitfield_is_answered_once(self) -> None:
        playbook = seeding_to("b") >> ("b", holds()) << TellNeighbours(("b",), WHOLE)
        assert playbook >> ("b", holds(0)) >> Passes(1.0)

    def test_a_link_that_works_introduces_again(self) -> None:
        playbook = seeding_to("b") >> LinkUp("b") << TellNeighbours(("b",), WHOLE)
        assert playbook >> ("b", holds()) << TellNeighbours(("b",), WHOLE)

    def test_who_is_a_neighbour_no_longer(self) -> None:
        assert seeding_to("b") >> Neighbours(D, (), ("b",)) << ReleaseLink("b") >> ("b", holds())

    def test_the_neighbours_of_the_download_are_those_of_the_seed(self) -> None:
        playbook = completed() >> LinkUp("b") << TellNeighbours(("b",), WHOLE)
        playbook = playbook >> Neighbours(D, (neighbour("c"),), ("b",)) << ReleaseLink("b")
        assert playbook << KeepLink("c", "c:1") << TellNeighbours(("c",), WHOLE)

    def test_a_lost_link_is_nobodys_any_more(self) -> None:
        assert seeding_to("b") >> LinkLost("b") >> BlobRemoved(D) << left()


class TestTheScheduler:
    def test_a_lease_is_given_back(self) -> None:
        assert seeding() >> lease(7, 0, 2) << LeaseEnded(7, D, LeaseOutcome.RETURNED)
        assert completed() >> lease(8, 0, 2) << LeaseEnded(8, D, LeaseOutcome.RETURNED)

    def test_a_recall_is_answered_by_what_the_store_knows(self) -> None:
        playbook = seeding() >> RequestDigests(D) << ReadDigests(D)
        playbook = playbook >> DigestsRead(D, {0: digest(0), 1: digest(1), 3: digest(3)})
        assert playbook << DigestReport(D, 0, digest(0) + digest(1), last=True, more=(DigestRun(3, digest(3)),))

    def test_a_tiny_blob_is_sent_whole(self) -> None:
        playbook = Playbook(connected=False) >> BlobStored(D, 4) >> SchedulerFound()
        playbook = playbook << Announce((Holding(D, 4, complete=True),)) >> RequestDigests(D) << ReadDigests(D)
        assert playbook >> DigestsRead(D, {}, b"tiny") << InlineBlob(D, b"tiny")

    def test_what_the_store_has_lost_meanwhile(self) -> None:
        playbook = seeding() >> RequestDigests(D) << ReadDigests(D)
        assert playbook >> DigestsRead(D, {}) << DigestReport(D, 0, b"", last=True)

    def test_what_is_for_downloads_alone(self) -> None:
        assert seeding() >> joined("b") >> Failed(D, 503, "no") >> Gateway(D, 0)


class TestRemoval:
    def test_scheduler_and_neighbours_are_told(self) -> None:
        assert seeding_to("b") >> BlobRemoved(D) << left("b")
        assert completed() >> BlobRemoved(D) << left("b") >> LinkUp("b") >> ("b", holds())

    def test_once(self) -> None:
        assert seeding() >> BlobRemoved(D) << left() >> BlobRemoved(D)

    def test_not_of_a_blob_that_is_on_its_way(self) -> None:
        playbook = beginning() >> BlobRemoved(D)
        assert playbook
        assert D in playbook.machine.downloads

    def test_a_blob_that_the_store_has_lost_without_a_word_is_fetched_again(self) -> None:
        """It is taken back before it is asked for: others would wait for it here."""
        playbook = seeding_to("b") >> source() << left("b") << Recover(D) >> BlobRemoved(D)
        playbook = playbook >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN >> Prepared(D)
        assert playbook >> joined("b") << met("b") >> ("b", holds()) << told("b")


class TestABlobThatIsNeitherHeldNorWanted:
    def test_a_lease_goes_back_with_the_membership(self) -> None:
        assert Playbook() >> lease(7, 0, 2) << Leave(D)
        assert seeding() >> BlobRemoved(D) << left() >> lease(7, 0, 2) << Leave(D)

    def test_a_recall_is_answered_by_nothing(self) -> None:
        assert Playbook() >> RequestDigests(D) << DigestReport(D, 0, b"", last=True)

    def test_nobody_is_met(self) -> None:
        playbook = Playbook() >> Neighbours(D, (neighbour("b"),), ("c",)) >> joined("b") >> Failed(D, 503, "no")
        assert playbook >> ("b", holds(0)) >> LinkUp("b") >> LinkLost("b")
        assert playbook.machine.links.hosts() == ()


class TestOfNoBlob:
    def test_the_operator_hears_of_a_quarantine(self) -> None:
        assert Playbook() >> Quarantined("it lied", 60.0) << ReportQuarantine("it lied", 60.0)

    def test_revoked_hosts_are_refused(self) -> None:
        assert Playbook() >> Revoked(("b", "c")) << RefuseHosts(("b", "c"))

    def test_that_others_cannot_reach_it_is_reported(self) -> None:
        assert Playbook() >> Unreachable(3) << ReportUnreachable(3)

    def test_what_is_said_of_tags_is_for_who_asked(self) -> None:
        resolve, result = (
            TagQuery("docker.io", "library/app", "1", 3.0),
            TagResult("docker.io", "library/app", "1", 0),
        )
        assert Playbook() >> resolve << AnswerTag(resolve) >> result << AnswerTag(result)

    def test_a_welcome_needs_no_answer(self) -> None:
        assert Playbook() >> Welcome(1)
