"""Join tokens: one line of text that an operator gives to a new host.

    p2pd1_<id>_<secret>_<fingerprint>

The id (40 bits) names the token in the ledger and in lists. The secret (160 bits) proves that its bearer may join; the
ledger has its SHA-256 alone. The fingerprint is the SHA-256 of the CA's certificate, so that a host knows the scheduler
before it sends the secret. All three are Base32 in lower case: a double click selects the whole token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from scheduler.trust.errors import TokenTextError

ID_BYTES: Final = 5
SECRET_BYTES: Final = 20

_TOKEN: Final = re.compile(r"p2pd1_([a-z2-7]{8})_([a-z2-7]{32})_([a-z2-7]{52})")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A join token. `ca_fingerprint` is the SHA-256 of the CA's certificate (DER)."""

    id: str
    secret: bytes = field(repr=False)
    ca_fingerprint: bytes

    @property
    def text(self) -> str:
        return f"p2pd1_{self.id}_{_encode(self.secret)}_{_encode(self.ca_fingerprint)}"

    @property
    def secret_sha256(self) -> bytes:
        """What the ledger keeps of the secret. No salt and no slow hash: the secret has 160 random bits."""
        return hashlib.sha256(self.secret).digest()


def new_token(entropy: bytes, ca_fingerprint: bytes) -> JoinToken:
    """A token from `ID_BYTES + SECRET_BYTES` random bytes."""
    assert len(entropy) == ID_BYTES + SECRET_BYTES
    return JoinToken(_encode(entropy[:ID_BYTES]), entropy[ID_BYTES:], ca_fingerprint)


def parse_token(text: str) -> JoinToken:
    """The token in a text; white space around it does not count. Raises TokenTextError, which does not repeat it."""
    match = _TOKEN.fullmatch(text.strip())
    if match is None:
        raise TokenTextError("this is not a join token: `p2pd token create` beside the scheduler prints one, p2pd1_…")
    token_id, secret, fingerprint = match.groups()
    token = JoinToken(token_id, _decode(secret), _decode(fingerprint))
    if token.text != match[0]:  # the last letter has bits that no byte takes
        raise TokenTextError("the join token is damaged: copy it again")
    return token


def _encode(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()


def _decode(text: str) -> bytes:
    try:
        return base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except binascii.Error:
        raise TokenTextError("the join token is damaged: copy it again") from None
