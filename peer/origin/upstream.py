"""What an operator says about one upstream: where it is, who we are there, and the bounds of our patience.

Rules: frozen values only, checked when they are made: a ValueError says what the operator wrote wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit

from msgspec import Struct

_DEFAULT_PORTS: Mapping[str, int] = {"http": 80, "https": 443}


class Target(Struct, frozen=True):
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
        host = _host(url.hostname or "")
        if url.scheme not in _DEFAULT_PORTS or not host:
            raise ValueError("not an http:// or https:// address with a host")
        return cls(url.scheme, host, url.port or _DEFAULT_PORTS[url.scheme])


class UpstreamEndpoint(Struct, frozen=True):
    """One address of an upstream: its API is at `<target><prefix>/v2/`.

    `project` (`hub/`, or empty) stands before the name of each repository there. A proxy project of Harbor, a
    pull-through cache of ECR and a dependency proxy of GitLab are such addresses: `https://harbor.corp/v2/hub`.
    """

    target: Target
    prefix: str
    project: str = ""

    def __str__(self) -> str:
        return f"{self.target}{self.prefix}" + (f"/v2/{self.project.rstrip('/')}" if self.project else "")

    @classmethod
    def parse(cls, text: str) -> UpstreamEndpoint:
        """`https://host[:port][/prefix][/v2[/project]]`, else ValueError. A `/v2/` at its end is left out."""
        try:
            url = urlsplit(text)
            target = Target.of(url)
        except ValueError as error:
            raise ValueError(
                f"an endpoint is https://host[:port][/prefix], or http:// for plain text: {error}"
            ) from None
        if "@" in url.netloc or url.query or url.fragment:
            raise ValueError(f"the endpoint {target} has a user, a query or a fragment: give credentials apart from it")
        prefix, _, project = f"{url.path.rstrip('/')}/".partition("/v2/")
        project = project.strip("/")
        return cls(target, wire_path(prefix.rstrip("/")), wire_path(f"{project}/") if project else "")

    def path(self, below_v2: str) -> str:
        """The request path of what is at `below_v2`, which may have a query. Empty: the ping."""
        return f"{self.prefix}/v2/{self.project if below_v2 else ''}{wire_path(below_v2)}"

    def repository(self, name: str) -> str:
        """The name here of the repository that clients call `name`; empty for none."""
        return f"{self.project}{name}" if name else ""


def wire_path(text: str) -> str:
    """`text` with all that cannot stand in a request line percent-encoded, and what is already so left alone."""
    return quote(text.encode("utf-8", "surrogateescape"), safe="/:?[]@!$&'()*+,;=~%")


def _host(text: str) -> str:
    """A host as certificates and Host headers have it: without the dot that ends an absolute name, IDNs in ASCII."""
    text = text.removesuffix(".")
    if text.isascii():
        return text
    try:
        return text.encode("idna").decode()
    except UnicodeError:
        raise ValueError("its host is not a name that DNS can have") from None


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
    password_file: Path | None = None
    """Has the password, instead of `password`, and is read again when it has changed."""
    token_hosts: tuple[str, ...] = ()
    mirrored: str | None = None
    allow_private: tuple[str, ...] = ()
    """Hosts, addresses and networks that redirects and realms may lead to, whatever `address_policy` says of them."""
    public_only: bool = False
    """Whether the endpoints, too, have to be public or in `allow_private`: a client chose them."""
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
    traced: bool = False
    """Whether it may have the context of the trace that a request is a part of (`peer.tracing`). Targets of redirects
    and token servers never have it."""
    default_retry_after_s: float | None = None
    """The Retry-After of a 429 that has none. None: such a 429 is for the client to see."""
    cooldown_s: float = 30.0
    """How long an endpoint that failed comes after the others."""
    idle_s: float = 60.0
    """How long a kept-alive connection is trusted: below the usual idle limits of load balancers (60 to 350 s)."""

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError(f"upstream {self.name}: it needs at least one endpoint")
        if self.password is not None and self.password_file is not None:
            raise ValueError(f"upstream {self.name}: a password or a file with it, not both")
        if (self.username is None) != (self.password is None and self.password_file is None):
            raise ValueError(f"upstream {self.name}: a username and a password go together")
        if self.username is not None and ":" in self.username:
            raise ValueError(f"upstream {self.name}: a username cannot have a colon (RFC 7617)")
        if self.max_connections < 1 or self.max_attempts < 1 or self.rate_bytes_per_s < 0:
            raise ValueError(f"upstream {self.name}: connections and attempts are at least 1, a rate at least 0")
