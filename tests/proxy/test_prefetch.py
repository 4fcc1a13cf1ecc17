"""Pulls: what is fetched ahead of a client, and what the log says of it at the end."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from peer.oci.digest import AnyDigest, Digest
from peer.oci.reference import Repository, RepositoryName, Tag, UpstreamName
from peer.store.facts import Came
from proxy.core.pulls import MAX_PULLS, Pulls, PullSummary
from proxy.core.tag_names import MAX_NAMES, TagName, TagNames

HERE = Repository(UpstreamName("docker.io"), RepositoryName("library/app"))
ELSEWHERE = Repository(UpstreamName("docker.io"), RepositoryName("library/other"))
MANIFEST, ANOTHER, EMPTY, A, B, M1, NO_LAYER = (Digest.of(b"%d" % number) for number in range(7))
CHILDREN = CONFIG, L0, L1, L2, L3, L4, L5 = tuple(Digest.of(b"child %d" % number) for number in range(7))


def pulls_of(
    depth: int = 2,
    client: str = "ann",
    repository: Repository = HERE,
    children: tuple[Digest, ...] = CHILDREN,
    foreign: frozenset[Digest] = frozenset(),
    came: Mapping[AnyDigest, Came] | None = None,
) -> Pulls:
    """`came` is what has come of each blob, and may change."""
    found = {} if came is None else came
    pulls = Pulls(depth, lambda digest: found.get(digest, Came()), idle_s=5)
    serve_manifest(pulls, 0.0, client=client, repository=repository, children=children, foreign=foreign)
    return pulls


def serve_manifest(
    pulls: Pulls,
    now: float,
    *,
    client: str = "ann",
    repository: Repository = HERE,
    children: tuple[Digest, ...] = CHILDREN,
    manifest: Digest = MANIFEST,
    foreign: frozenset[Digest] = frozenset(),
    name: TagName | None = None,
) -> None:
    pulls.manifest_served(
        client,
        manifest,
        repository=repository,
        image="docker.io/library/app:1",
        user_agent="test/1",
        children=children,
        foreign=foreign,
        name=name,
        now=now,
    )


def ask(pulls: Pulls, digest: Digest, now: float = 0.0) -> list[AnyDigest]:
    """Ask for a blob and be given none of it."""
    ahead = pulls.blob_asked("ann", HERE, digest, now)
    end(pulls, digest, now, sent_bytes=0)
    return ahead


def end(
    pulls: Pulls, digest: Digest, now: float, *, sent_bytes: int, relayed: bool = False, failed: bool = False
) -> None:
    pulls.blob_ended("ann", HERE, digest, sent_bytes=sent_bytes, relayed=relayed, failed=failed, now=now)


class TestAhead:
    def test_the_layers_above_the_one_that_is_asked_for(self) -> None:
        pulls = pulls_of()
        assert ask(pulls, L0) == [L1, L2]
        assert ask(pulls, L1) == [L2, L3]

    def test_no_layer_that_was_passed_over(self) -> None:
        pulls = pulls_of()
        assert ask(pulls, L3) == [L4, L5]
        assert ask(pulls, L1) == [L4, L5]  # above the highest, not above this one

    def test_the_config_leads_to_nothing(self) -> None:
        assert ask(pulls_of(), CONFIG) == []

    def test_at_the_top_there_is_nothing_more(self) -> None:
        pulls = pulls_of()
        assert ask(pulls, L4) == [L5]
        assert ask(pulls, L5) == []

    def test_a_depth_of_none(self) -> None:
        assert ask(pulls_of(depth=0), L0) == []

    def test_a_layer_that_is_there_twice(self) -> None:
        pulls = pulls_of(depth=3, children=(CONFIG, EMPTY, A, EMPTY, B))
        assert ask(pulls, EMPTY) == [A, B]

    def test_a_layer_that_was_passed_over_and_is_there_again(self) -> None:
        pulls = pulls_of(depth=3, children=(CONFIG, EMPTY, A, EMPTY, B))
        assert ask(pulls, A) == [B]

    def test_no_foreign_layer(self) -> None:
        pulls = pulls_of(depth=2, foreign=frozenset({L1, L4}))
        assert ask(pulls, L0) == [L2, L3]
        assert ask(pulls, L1) == []
        assert ask(pulls, L3) == [L5]

    def test_nothing_for_another_client_or_another_place(self) -> None:
        assert pulls_of().blob_asked("bob", HERE, L0, 0) == []
        assert pulls_of().blob_asked("ann", ELSEWHERE, L0, 0) == []
        assert pulls_of().blob_asked("ann", HERE, NO_LAYER, 0) == []

    def test_a_layer_of_two_images(self) -> None:
        pulls = pulls_of(depth=1)
        serve_manifest(pulls, 0, children=(CONFIG, L0, M1), manifest=ANOTHER)
        assert ask(pulls, L0) == [L1, M1]

    @given(
        depth=st.integers(0, 4),
        asked=st.lists(st.integers(0, 5), max_size=8),
    )
    def test_always_next_above_the_highest(self, depth: int, asked: list[int]) -> None:
        pulls = pulls_of(depth)
        for at, layer in enumerate(asked):
            highest = max(asked[: at + 1])
            assert ask(pulls, CHILDREN[layer + 1]) == list(CHILDREN[highest + 2 : highest + 2 + depth])


class TestSummary:
    def test_what_it_says(self) -> None:
        """The origin and a host sent L0 while it was pulled; L1 was here in part; L2 did not pass by the store."""
        came: dict[AnyDigest, Came] = {CONFIG: Came(10, 0), L1: Came(0, 2)}
        pulls = pulls_of(came=came)
        pulls.blob_asked("ann", HERE, CONFIG, 1)
        end(pulls, CONFIG, 1.5, sent_bytes=10)
        came[L0] = Came(50, 100)
        pulls.blob_asked("ann", HERE, L0, 2)
        end(pulls, L0, 4, sent_bytes=200)
        came[L0] = Came(50, 150)  # its last piece is counted when it was sent
        pulls.blob_asked("ann", HERE, L1, 3)
        came[L1] = Came(0, 3)
        end(pulls, L1, 6, sent_bytes=3, failed=True)
        came.pop(L1)  # evicted
        pulls.blob_asked("ann", HERE, L2, 6)
        end(pulls, L2, 6, sent_bytes=7, relayed=True)
        assert pulls.ended(10.9) == []
        assert pulls.ended(11) == [
            PullSummary(
                image="docker.io/library/app:1",
                user_agent="test/1",
                seconds=6.0,
                blobs=4,
                failed=1,
                store_bytes=12,
                peer_bytes=151,
                origin_bytes=57,
            )
        ]

    def test_what_was_fetched_ahead_was_not_in_the_store(self) -> None:
        came: dict[AnyDigest, Came] = {}
        pulls = pulls_of(came=came)
        ask(pulls, L0, 1)
        came[L1] = Came(0, 20)
        end(pulls, L1, 2, sent_bytes=20)
        (summary,) = pulls.ended(100)
        assert (summary.store_bytes, summary.peer_bytes) == (0, 20)
        serve_manifest(pulls, 150)
        end(pulls, L1, 151, sent_bytes=20)
        (summary,) = pulls.ended(200)
        assert (summary.store_bytes, summary.peer_bytes) == (20, 0)

    def test_it_has_the_tag_by_which_the_client_came(self) -> None:
        names = TagNames()
        names.resolved("ann", HERE, Tag("1"), ANOTHER)
        names.served("ann", HERE, ANOTHER, [MANIFEST])
        names.served("bob", HERE, MANIFEST, [A])
        pulls = Pulls(0, idle_s=5)
        for client in ("ann", "bob"):
            name = names.of(client, HERE, MANIFEST)
            serve_manifest(pulls, 0.0, client=client, name=name)
        by_tag, by_digest = pulls.ended(100)
        assert (by_tag.tag, by_tag.digest) == ("docker.io/library/app:1", ANOTHER)
        assert (by_digest.tag, by_digest.digest) == ("", "")
        for number in range(MAX_NAMES):
            names.resolved("bob", HERE, Tag(f"v{number}"), Digest.of(b"%d" % number))
        assert names.of("ann", HERE, MANIFEST) is None, "a client's names are bounded"

    def test_it_is_told_once(self) -> None:
        pulls = pulls_of()
        ask(pulls, L0, 1)
        assert len(pulls.ended(100)) == 1
        assert pulls.ended(200) == []

    def test_not_while_something_is_being_sent(self) -> None:
        pulls = pulls_of()
        pulls.blob_asked("ann", HERE, L0, 0)
        assert pulls.ended(1000) == []
        end(pulls, L0, 1000, sent_bytes=1)
        assert pulls.ended(1004) == []
        (summary,) = pulls.ended(1005)
        assert summary.seconds == 1000

    def test_one_that_goes_on_after_a_pause_has_two_lines(self) -> None:
        pulls = pulls_of()
        ask(pulls, L0, 1)
        assert [summary.blobs for summary in pulls.ended(100)] == [1]
        pulls.blob_asked("ann", HERE, L3, 101)
        end(pulls, L3, 103, sent_bytes=7)
        (summary,) = pulls.ended(200)
        assert (summary.blobs, summary.store_bytes, summary.seconds) == (1, 7, 2.0)

    def test_what_comes_after_a_pause_is_still_fetched_ahead(self) -> None:
        pulls = pulls_of()
        ask(pulls, L0, 1)
        pulls.ended(100)
        assert ask(pulls, L3, 101) == [L4, L5]

    def test_one_manifest_asked_for_twice_is_one_pull(self) -> None:
        pulls = pulls_of()
        serve_manifest(pulls, 1)
        assert len(pulls.ended(100)) == 1

    def test_the_next_pull_of_the_same_image_has_its_own_line(self) -> None:
        pulls = pulls_of()
        pulls.ended(100)
        serve_manifest(pulls, 150)
        ask(pulls, L0, 151)
        (summary,) = pulls.ended(200)
        assert (summary.blobs, summary.seconds) == (1, 1.0)

    def test_a_blob_that_belongs_to_no_pull_is_no_pull(self) -> None:
        pulls = Pulls(2)
        assert ask(pulls, L0) == []
        assert pulls.ended(1000) == []

    def test_so_many_are_followed(self) -> None:
        pulls = pulls_of()
        for number in range(MAX_PULLS):
            serve_manifest(pulls, 1, client=f"client {number}")
        assert len(pulls.ended(100)) == MAX_PULLS
        assert ask(pulls, L0) == []  # the oldest

    @given(st.lists(st.tuples(st.sampled_from(CHILDREN), *[st.integers(0, 9)] * 3, st.booleans()), max_size=20))
    def test_no_byte_is_lost_or_told_twice(self, blobs: list[tuple[Digest, int, int, int, bool]]) -> None:
        came: dict[AnyDigest, Came] = {}
        pulls, told, now = pulls_of(came=came), [], 0.0
        for digest, sent_bytes, origin_bytes, peer_bytes, pause in blobs:
            pulls.blob_asked("ann", HERE, digest, now)
            came[digest] = came.get(digest, Came()).plus(origin_bytes=origin_bytes, peer_bytes=peer_bytes)
            end(pulls, digest, now, sent_bytes=sent_bytes)
            now += 6 if pause else 1
            told += pulls.ended(now)
        told += pulls.ended(now + 10)
        assert sum(each.blobs for each in told) == len(blobs)
        sums = [each.store_bytes + each.peer_bytes + each.origin_bytes for each in told]
        assert sum(sums) == sum(sent_bytes for _, sent_bytes, *_ in blobs)
        assert sum(each.origin_bytes for each in told) <= sum(each.origin_bytes for each in came.values())
        assert sum(each.peer_bytes for each in told) <= sum(each.peer_bytes for each in came.values())
