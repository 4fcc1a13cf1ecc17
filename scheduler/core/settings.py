"""The numbers that the scheduler goes by. An operator may set each; the defaults say where they are from."""

from __future__ import annotations

from dataclasses import dataclass

QUORUM = 2
"""One host may lie or have bad memory; two that say the same without having it from each other are believed."""


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """All that a Scheduler can be told. Durations are in seconds, lengths in pieces or bytes as named."""

    seed: int = 0
    """Of every choice that is made by chance."""

    degree: int = 10
    """Links that a member is given. 8 come within 5 % of the bound at 1,000 hosts and 256 pieces, 16 within 4 %."""
    degree_low: int = 8
    """Below it a member is given new links at once."""
    degree_high: int = 16
    """No member ever has more."""
    far_share: int = 4
    """One link in so many leaves the rack where the near ones would do, so that no rack is an island."""
    gateways: int = 8
    """Members of a site through which pieces enter it, each its part of them: one alone would need its whole link."""
    gateway_s: float = 10.0
    """How long a gateway may gain nothing while members of its site starve, until one of those takes its place."""

    lease_pieces: int = 4
    """Pieces in a lease: 16 MiB of a large blob, so that a round trip to the origin is a small part of it."""
    leases_per_host: int = 12
    """Of all blobs. Of one blob a host gets `leases_per_blob` over the hosts that want it, and one at least."""
    leases_per_blob: int = 4
    leases_per_origin: int = 16
    """As `connections_per_blob` and `connections_per_origin` of a single host, but for the whole cluster."""
    lease_s: float = 15.0
    """How long a lease may bring no piece. 4 MiB in 15 s are 2.2 Mbit/s."""
    lease_attempts: int = 5
    """Leases of one blob that may fail in a row, with different hosts, until its members are told that it failed."""
    refusal_s: float = 300.0
    """How long a host gets no lease for a repository after the origin refused it. A new client may have better luck."""

    progress_s: float = 2.0
    """How often a host reports what it holds, at most. 10,000 hosts that all pull send 5,000 reports a second."""
    orphan_s: float = 3.0
    """How long a piece that nobody is known to hold waits for a report of a holder before it is leased again."""
    settle_s: float = 2.0
    """After the scheduler has started, a blob that a host holds in part waits so long for other holders to connect."""
    quorum_s: float = 2.0
    """How long a doubt that only another host can resolve waits for one to come."""
    digest_request_s: float = 2.0
    """How long a host may take to tell the digests that it knows, until another is asked."""

    fanout_slice: int = 256
    """Members that are sent new digests in one go. The scheduler does other work between two slices."""
    fanout_per_s: float = 20_000.0
    """Members of one swarm that are sent new digests in a second, at most: a fifth of a core at 10 us each."""

    corrupt_s: float = 600.0
    """How long a report of corrupt pieces counts. Bits flip on the way over months; a liar is reported at once."""
    corrupt_reports: int = 3
    """Hosts that must have reported another within that time before it is quarantined."""
    quarantine_s: float = 3600.0

    tag_resolve_s: float = 10.0
    """How long a host may take to resolve a tag, until the next one that waits is told to."""
    tag_ttl_s: float = 10.0
    """How long an answer is given to hosts that come after it: those of one rollout, and no later one."""

    inline_cache_bytes: int = 64 * 1024 * 1024
    """Tiny blobs kept to be sent inside messages; the least recently used go first."""

    blobs_per_host: int = 8192
    """Swarms that one host may be in. A member takes about 1 KiB."""
    takeover_s: float = 5.0
    """A host's connection is replaced by a newer one at most this often (see `scheduler.core.membership`)."""
