"""Grants: what an origin allowed one client, there, for a while, it allowed nobody else, nowhere else and no longer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from peer.oci.digest import Digest
from peer.oci.reference import Repository, RepositoryName, UpstreamName
from proxy.core.grants import ANYONE, Grant, Grants
from proxy.core.routing import Endpoint

HERE = Repository(UpstreamName("docker.io"), RepositoryName("library/app"))
ELSEWHERE = Repository(UpstreamName("docker.io"), RepositoryName("library/other"))
SAME_NAME = Repository(UpstreamName("ghcr.io"), RepositoryName("library/app"))
A, B, C, D = (Digest.of(letter) for letter in (b"a", b"b", b"c", b"d"))
BLOB, MANIFEST = Endpoint.BLOB, Endpoint.MANIFEST


def test_it_holds_for_that_client_that_digest_and_that_place() -> None:
    grants = Grants()
    grants.add("ann", HERE, BLOB, [A, B], until=10)
    assert grants.find("ann", HERE, BLOB, A, now=9.9) == Grant("ann", 10)
    assert grants.find("ann", HERE, BLOB, B, now=9.9) == Grant("ann", 10)
    for client, repository, endpoint, digest in (
        ("bob", HERE, BLOB, A),
        ("ann", ELSEWHERE, BLOB, A),
        ("ann", SAME_NAME, BLOB, A),
        ("ann", HERE, MANIFEST, A),
        ("ann", HERE, BLOB, C),
    ):
        assert grants.find(client, repository, endpoint, digest, now=1) is None
    assert grants.find(ANYONE, HERE, BLOB, A, now=1) is None


def test_what_anyone_may_have_each_may() -> None:
    grants = Grants()
    grants.add(ANYONE, HERE, BLOB, [A], until=10)
    assert grants.find("bob", HERE, BLOB, A, now=1) == Grant(ANYONE, 10)
    assert grants.find(ANYONE, HERE, BLOB, A, now=1) == Grant(ANYONE, 10)
    grants.add("bob", HERE, BLOB, [A], until=5)
    assert grants.find("bob", HERE, BLOB, A, now=1) == Grant("bob", 5)


def test_it_ends_and_can_be_renewed() -> None:
    grants = Grants()
    grants.add("ann", HERE, BLOB, [A], until=10)
    assert grants.find("ann", HERE, BLOB, A, now=10) is None
    grants.add("ann", HERE, BLOB, [A], until=20)
    assert grants.find("ann", HERE, BLOB, A, now=19) == Grant("ann", 20)


def test_a_grant_that_ends_earlier_does_not_cut_another_short() -> None:
    grants = Grants()
    grants.add("ann", HERE, BLOB, [A], until=10)
    grants.add("ann", HERE, BLOB, [A], until=5)
    assert grants.find("ann", HERE, BLOB, A, now=9) == Grant("ann", 10)


def test_the_oldest_go_first() -> None:
    grants = Grants(limit=3)
    for digest in (A, B, C):
        grants.add("ann", HERE, BLOB, [digest], until=10)
    grants.add("ann", HERE, BLOB, [A], until=11)  # renewed, so not the oldest
    grants.add("ann", HERE, BLOB, [D], until=12)
    held = [digest for digest in (A, B, C, D) if grants.find("ann", HERE, BLOB, digest, now=3)]
    assert held == [A, C, D]
    assert len(grants) == 3


@given(until=st.floats(0, 1e6))
def test_no_grant_is_older_than_its_time(until: float) -> None:
    grants = Grants()
    grants.add("ann", HERE, BLOB, [A], until)
    assert grants.find("ann", HERE, BLOB, A, until) is None


class GrantsAgainstAModel(RuleBasedStateMachine):
    """Any sequence of grants, and of time that passes, allows exactly what a list of all of them says."""

    clients = st.sampled_from(["ann", "bob", ANYONE])
    repositories = st.sampled_from([HERE, ELSEWHERE, SAME_NAME])
    endpoints = st.sampled_from([BLOB, MANIFEST])
    digests = st.sampled_from([A, B])

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.grants = Grants()
        self.model: list[tuple[str, Repository, Endpoint, Digest, float]] = []

    @rule(client=clients, repository=repositories, endpoint=endpoints, digest=digests, lasts=st.integers(0, 12))
    def add(self, client: str, repository: Repository, endpoint: Endpoint, digest: Digest, lasts: int) -> None:
        self.grants.add(client, repository, endpoint, [digest], self.now + lasts)
        self.model.append((client, repository, endpoint, digest, self.now + lasts))

    @rule(seconds=st.integers(0, 12))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def as_the_model_says(self) -> None:
        for client in ("ann", "bob", ANYONE):
            for repository in (HERE, ELSEWHERE, SAME_NAME):
                for endpoint in (BLOB, MANIFEST):
                    for digest in (A, B):
                        found = self.grants.find(client, repository, endpoint, digest, self.now)
                        assert found == self._allowed(client, (repository, endpoint, digest))

    def _allowed(self, client: str, what: tuple[Repository, Endpoint, Digest]) -> Grant | None:
        for who in (client, ANYONE):
            ends = [until for holder, *rest, until in self.model if (holder, *rest) == (who, *what)]
            if ends and max(ends) > self.now:
                return Grant(who, max(ends))
        return None


TestGrantsAgainstAModel = GrantsAgainstAModel.TestCase
