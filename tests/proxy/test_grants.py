"""Grants: what an origin allowed one client, there, for a while, it allowed nobody else, nowhere else and no longer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from peer.oci.digest import Digest
from peer.oci.reference import Repository, RepositoryName, UpstreamName
from proxy.core.grants import ANYONE, Grants

HERE = Repository(UpstreamName("docker.io"), RepositoryName("library/app"))
ELSEWHERE = Repository(UpstreamName("docker.io"), RepositoryName("library/other"))
A, B, C, D = (Digest.of(letter) for letter in (b"a", b"b", b"c", b"d"))
SAME_NAME = Repository(UpstreamName("ghcr.io"), RepositoryName("library/app"))


def test_it_holds_for_that_client_that_digest_and_that_place() -> None:
    grants = Grants(ttl_s=10)
    grants.add("ann", HERE, [A, B], now=0)
    assert grants.holder("ann", HERE, A, now=9.9) == "ann"
    assert grants.holder("ann", HERE, B, now=9.9) == "ann"
    for client, repository, digest in (
        ("bob", HERE, A),
        ("ann", ELSEWHERE, A),
        ("ann", SAME_NAME, A),
        ("ann", HERE, C),
    ):
        assert grants.holder(client, repository, digest, now=1) is None
    assert grants.holder(ANYONE, HERE, A, now=1) is None


def test_what_anyone_may_have_each_may() -> None:
    grants = Grants(ttl_s=10)
    grants.add(ANYONE, HERE, [A], now=0)
    assert grants.holder("bob", HERE, A, now=1) == ANYONE
    assert grants.holder(ANYONE, HERE, A, now=1) == ANYONE
    grants.add("bob", HERE, [A], now=0)
    assert grants.holder("bob", HERE, A, now=1) == "bob"


def test_it_ends_and_can_be_renewed() -> None:
    grants = Grants(ttl_s=10)
    grants.add("ann", HERE, [A], now=0)
    assert grants.holder("ann", HERE, A, now=10) is None
    grants.add("ann", HERE, [A], now=10)
    assert grants.holder("ann", HERE, A, now=19) == "ann"


def test_the_oldest_go_first() -> None:
    grants = Grants(ttl_s=10, limit=3)
    for digest in (A, B, C):
        grants.add("ann", HERE, [digest], now=0)
    grants.add("ann", HERE, [A], now=1)  # renewed, so not the oldest
    grants.add("ann", HERE, [D], now=2)
    held = [digest for digest in (A, B, C, D) if grants.holder("ann", HERE, digest, now=3)]
    assert held == [A, C, D]
    assert len(grants) == 3


@given(ttl_s=st.floats(0, 1000), now=st.floats(0, 1e6))
def test_no_grant_is_older_than_its_time(ttl_s: float, now: float) -> None:
    grants = Grants(ttl_s)
    grants.add("ann", HERE, [A], now)
    assert grants.holder("ann", HERE, A, now + ttl_s) is None


class GrantsAgainstAModel(RuleBasedStateMachine):
    """Any sequence of grants, and of time that passes, allows exactly what a list of all of them says."""

    clients = st.sampled_from(["ann", "bob", ANYONE])
    repositories = st.sampled_from([HERE, ELSEWHERE, SAME_NAME])
    digests = st.sampled_from([A, B])

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.grants = Grants(ttl_s=10)
        self.model: list[tuple[str, Repository, Digest, float]] = []

    @rule(client=clients, repository=repositories, digest=digests)
    def add(self, client: str, repository: Repository, digest: Digest) -> None:
        self.grants.add(client, repository, [digest], self.now)
        self.model.append((client, repository, digest, self.now + 10))

    @rule(seconds=st.integers(0, 12))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def as_the_model_says(self) -> None:
        alive = {(client, repository, digest) for client, repository, digest, until in self.model if until > self.now}
        for client in ("ann", "bob", ANYONE):
            for repository in (HERE, ELSEWHERE, SAME_NAME):
                for digest in (A, B):
                    allowed = [who for who in (client, ANYONE) if (who, repository, digest) in alive]
                    assert self.grants.holder(client, repository, digest, self.now) == (allowed[0] if allowed else None)


TestGrantsAgainstAModel = GrantsAgainstAModel.TestCase
