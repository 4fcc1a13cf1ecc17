"""The numbers of the scheduler that an operator or a test sets. The other numbers stand beside their rules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """An operator sets the first six (`p2pd.daemon.wiring`), a simulation sets the seed, and tests set the rest."""

    leases_per_blob: int = 4
    """Concurrent leases of one blob in the whole cluster. The setting `connections_per_blob` sets it."""
    leases_per_origin: int = 16
    """Concurrent leases from one origin in the whole cluster. The setting `connections_per_origin` sets it."""
    leases_per_host: int = 12
    """Concurrent leases of one host, of all blobs. Leases of one blob are also divided among the hosts that want it."""
    tag_tell_s: float = 1.5
    """How long hosts may take to tell what their origins said of a tag that is gone there."""
    tag_ttl_s: float = 10.0
    """How long a result is kept. All hosts of one rollout share it."""
    hears_pulls: bool = False
    """Whether hosts are asked to tell of pulls. The setting `pull_history` sets it."""

    seed: int = 0
    """The seed of every random choice."""

    degree: int = 10
    """Links that a member is given. 8 come within 5 % of the bound at 1,000 hosts and 256 pieces, 16 within 4 %."""
    degree_low: int = 8
    """A member with fewer links is given new links at once."""
    degree_high: int = 16
    """No member has more links."""
    gateways: int = 8
    """Members of a site through which pieces enter the site. A single gateway would need its whole link for that."""

    lease_pieces: int = 4
    """The most pieces in a lease: 16 MiB of a large blob, so that a round trip to the origin is a small part of it."""
    opening_s: float = 1.5
    """How long a lease may take to bring a tiny blob, or the length, before a second host is asked as well. A client
    waits for it and for nothing else, most registries answer in a tenth of it, and another request costs little."""
    lease_s: float = 15.0
    """The most that a first lease may go without a new piece, whatever the size of a piece."""

    piece_cost_s: float = 0.0035
    """What each piece costs a large swarm besides its bytes (`scheduler.core.lengths`, rule 5)."""
    large_swarm: int = 64
    """Hosts from which on a swarm may have shorter pieces than the usual ones."""
    answer_s: float = 1.25
    """How long the host of a lease whose time is over may take to answer a ping. A host that is merely busy answers
    within that, as a scheduler does (`peer.net.silence`)."""

    progress_s: float = 2.0
    """The least time between two reports of a member. 10,000 hosts that all pull send 5,000 reports a second."""
    unhurried_hosts: int = 10_000
    """More hosts than these are told a longer time, so that reports take no more of a core than theirs."""
    orphan_s: float = 3.0
    """How long a piece without a known holder waits for a holder's report before the piece is leased again. It is as
    many times longer as `progress_s` is."""
    settle_s: float = 2.0
    """How long after its start the scheduler waits for holders to connect if a host has announced part of a blob."""
    moved_s: float = 1.0
    """How long after the first host of a swarm that has moved here the scheduler waits for the others, and for what
    they hold, before it leases pieces. They move within a second of each other (`peer.core.scheduler_set`)."""
    quorum_s: float = 2.0
    """How long a doubt that needs another host waits for that host to join."""
    digest_request_s: float = 2.0
    """How long a host may take to report the digests that it knows before another host is asked."""

    fanout_slice: int = 256
    """Members that are sent new digests at once. The scheduler handles other events between two slices."""
    fanout_per_s: float = 20_000.0
    """The most members of one swarm that are sent new digests per second: a fifth of a core at 10 us each."""

    rest_s: float = 600.0
    """How long after the last member has the whole blob the blob is put on the shelf (`scheduler.core.shelf`)."""

    corrupt_reports: int = 3
    """Witnesses that must report one sender of corrupt pieces before the sender is taken out of the swarm."""

    inline_cache_bytes: int = 64 * 1024 * 1024
    """Tiny blobs that are kept for messages; the least recently used blobs are dropped first."""
    witness_bytes: int = 64 * 1024 * 1024
    """The memory that what one host says may take, or what all hosts without certificates say that come from one
    address (`scheduler.core.budget`). 25,000 digests of one host, the map of 100 GiB, take 6 MiB."""
    claimed_bytes: int = 640 * 1024 * 1024
    """The same for all hosts together. With 50,000 connections of 6.2 KiB (`scheduler.shell.bounds`) it is most
    of the memory that docker/kubernetes.yaml gives the scheduler."""

    takeover_s: float = 5.0
    """A newer connection replaces a host's connection at most once in this time (`scheduler.core.membership`)."""
