"""What an operator says about one upstream: where it is, who we are there, and the bounds of our patience.

Rules: frozen values only, checked when they are made: a ValueError says what the operator wrote wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit

_DEFAULT_PORTS: Mapping[str, int] = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a connection leads to: what must be equal for a credential to be sent there too."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @classmethod
    def of(cls, url: SplitResult) -> Target:
        """The target of an absolute http or https URL, else ValueError."""
        if url.scheme not in _DEFAULT_PORTS or not url.hostname:
            raise ValueError("not an http:// or https:// address with a host")
        return cls(url.scheme, url.hostname, url.port or _DEFAULT_PORTS[url.scheme])


@dataclass(frozen=True, slots=True)
class UpstreamEndpoint:
    """One address of an upstream: its API is at `<target><prefix>/v2/`."""

    target: Target
    prefix: str

    def __str__(self) -> str:
        return f"{self.target}{self.prefix}"

    @classmethod
    def parse(cls, text: str) -> UpstreamEndpoint:
        """`https://host[:port][/prefix]`, else ValueError."""
        try:
            url = urlsplit(text)
            target = Target.of(url)
        except ValueError as error:
            raise ValueError(
                f"an endpoint is https://host[:port][/prefix], or http:// for plain text: {error}"
            ) from None
        if "@" in url.netloc or url.query or url.fragment:
            raise ValueError(f"the endpoint {target} has a user, a query or a fragment: give credentials apart from it")
        return cls(target, wire_path(url.path.rstrip("/")))

    def path(self, below_v2: str) -> str:
        """The request path of what is at `below_v2`, which may have a query."""
        return f"{self.prefix}/v2/{wire_path(below_v2)}"


def wire_path(text: str) -> str:
    """`text` with all that cannot stand in a request line percent-encoded, and what is already so left alone."""
    return quote(text, safe="/:?[]@!$&'()*+,;=~%")


@dataclass(frozen=True, slots=True)
class Upstream:
    """One upstream and how it is to be treated. `name` is its name for clients and in messages.

    `endpoints` are tried in order. `ca_file` adds to the system's authorities. `token_hosts` are hosts beside the
    endpoints' own domains that the configured credentials may go to when a challenge names them as its realm.

    `mirrored` is the URL of the registry that the endpoints are mirrors of. Requests then have the upstream's name as
    `?ns=`, as containerd's have, and a challenge is judged as if the registry itself had been asked.
    """

    name: str
    endpoints: tuple[str, ...]
    ca_file: Path | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token_hosts: tuple[str, ...] = ()
    mirrored: str | None = None
    max_connections: int = 16
    rate_bytes_per_s: int = 0
    """For all bodies together; 0 is no limit."""
    connect_s: float = 5.0
    stall_s: float = 30.0
    """How long nothing may arrive once a body has begun; also how long after an open or a resume another attempt may
    begin."""
    first_byte_s: float = 120.0
    """How long an attempt at a body may wait for headers: some registries scan a layer first, or fetch it themselves.
    podman and dockerd wait for ever. An endpoint that has others after it waits for its share of `stall_s` only."""
    metadata_s: float = 10.0
    """How long a small answer may take, all attempts together: clients wait some 15 to 30 s for headers."""
    slot_wait_s: float = 300.0
    """How long a body waits for one of `max_connections` to be free."""
    max_attempts: int = 4
    """Rounds over the endpoints until an answer is given up, and resumes without progress until a body is."""
    metadata_attempts: int | None = None
    """Rounds until a small answer is given up; None: as many as for a body."""
    backoff_base_s: float = 0.2
    backoff_cap_s: float = 5.0
    max_retry_after_s: float = 5.0
    """A longer Retry-After is for the client to see, not for a worker thread to sit out."""
    default_retry_after_s: float | None = None
    """The Retry-After of a 429 that has none. None: such a 429 is for the client to see."""
    cooldown_s: float = 30.0
    """How long an endpoint that failed comes after the others."""
    idle_s: float = 60.0
    """How long a kept-alive connection is trusted: below the usual idle limits of load balancers (60 to 350 s)."""

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError(f"upstream {self.name}: it needs at least one endpoint")
        if (self.username is None) != (self.password is None):
            raise ValueError(f"upstream {self.name}: a username and a password go together")
        if self.username is not None and ":" in self.username:
            raise ValueError(f"upstream {self.name}: a username cannot have a colon (RFC 7617)")
        if self.max_connections < 1 or self.max_attempts < 1 or self.rate_bytes_per_s < 0:
            raise ValueError(f"upstream {self.name}: connections and attempts are at least 1, a rate at least 0")
