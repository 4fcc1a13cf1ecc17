"""The ledger: which tokens there are, and which hosts the authority knows. Of one scheduler, or shared by several.

Rules:
1. A use of a token is taken at once with the check that there is one, before the certificate is given.
2. A host id belongs to the key that first had it. Another key is refused, so a token does not let its bearer take the
   place of a host that is there.
3. A host that did not hear the answer asks again, for the same id with the same key. Within `SAME_REQUEST_S` this costs
   no second use.
4. A revoked host stays revoked, and so does its key. A host whose certificate is from elsewhere can be revoked too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from scheduler.trust.token import JoinToken

SAME_REQUEST_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token in the ledger. Times are Unix seconds; `expires` and `uses_left` are None for no bound."""

    id: str
    note: str
    created: float
    expires: float | None
    uses_left: int | None
    revoked: float | None

    def usable(self, now: float) -> bool:
        in_time = self.expires is None or now < self.expires
        return in_time and self.revoked is None and self.uses_left != 0


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A host that joined. `serial` (hexadecimal) is that of its newest certificate; after `expires` it has none.

    Times are Unix seconds.
    """

    id: str
    token: str
    first_seen: float
    last_renewed: float
    serial: str
    expires: float
    revoked: float | None


class Ledger(Protocol):
    """Every method may be called from any thread, blocks, and raises TrustError. Times are Unix seconds."""

    def close(self) -> None: ...

    def belongs_to(self, cluster: str) -> None:
        """Keep the name of the cluster, which is that of its CA. Raises TrustError if another one is kept."""
        ...

    def version(self) -> int:
        """Another number when somebody else has changed the ledger."""
        ...

    def add_token(self, token: JoinToken, note: str, expires: float | None, uses: int | None, now: float) -> None: ...

    def tokens(self) -> list[TokenRecord]:
        """All tokens, the oldest first."""
        ...

    def check_token(self, token: JoinToken, now: float) -> None:
        """Raise JoinRefusedError for a token that is not good, before any work is done for its bearer."""
        ...

    def revoke_token(self, token_id: str, now: float) -> bool:
        """Whether there was such a token."""
        ...

    def admit(self, token: JoinToken, host: str, key_sha256: bytes, serial: str, expires: float, now: float) -> None:
        """Take a use of the token for a host, whose certificate is to be `serial`. Raises JoinRefusedError."""
        ...

    def renew(self, host: str, key_sha256: bytes, serial: str, expires: float, now: float) -> None:
        """Record a host's new certificate. Raises JoinRefusedError."""
        ...

    def hosts(self) -> list[HostRecord]:
        """All hosts by id."""
        ...

    def host_ids(self) -> frozenset[str]:
        """The ids of all hosts, for less than `hosts` costs."""
        ...

    def revoke_host(self, host: str, now: float) -> None:
        """Revoke a host id, whether the ledger knows the host or not."""
        ...

    def revoked(self, now: float) -> frozenset[str]:
        """The revoked hosts that may have a certificate which is not over: those that must be told to others."""
        ...
