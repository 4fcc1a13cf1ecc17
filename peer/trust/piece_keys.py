"""The keys under which neighbours ask each other for pieces outside of TLS, and answer.

A host tells each neighbour a key on their link, which is TLS with certificates at both ends. Under it the neighbour
asks that host for pieces, and for nothing else. `scheduler.protocol.link` has the protocol, and docs/security.md says
why it is sound.

Rules:
1. A key is for one direction, between two hosts, and for a time: each link begins with a new one, and another comes
   every `ROTATE_S`. The one before it is good for `OVERLAP_S` more, for the requests that are on their way.
2. A request is authenticated by a MAC over all of it that counts, and over its number under the key. A number is good
   once: `Window`.
3. Each answer is encrypted under an input key of its own, which is made of the key and of the request: so the answer to
   one request is no answer to another. A random salt is added to that (RFC 8188).
4. A key is as good as the certificate of the neighbour that it was told to, which is looked at for each request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from msgspec import Struct

from scheduler.protocol.link import PieceKey

ROTATE_S: Final = 600.0
OVERLAP_S: Final = 60.0
"""Longer than any piece may take to go out (`peer.net.peer_server.STALL_S`)."""

WINDOW: Final = 1024
"""How far the numbers of requests may overtake each other: a host has a few requests at a neighbour at a time."""

MAX_REQUESTS: Final = 2**32
"""Under one key. WireGuard and IPsec bound it alike, for ciphers; here a key makes MACs and keys alone."""

MAX_HOSTS: Final = 4096
"""Hosts whose keys are kept, far more than a host has links."""

SCHEME: Final = "P2PD-Piece"

_AUTHORIZATION: Final = re.compile(rf"{SCHEME} ([0-9a-f]{{32}})\.(0|[1-9][0-9]{{0,9}})\.([0-9a-f]{{64}})")


class UnauthenticatedError(Exception):
    """A request for a piece is not from a neighbour, or is a copy of one that was."""


class Certificate(Struct, frozen=True):
    """The certificate that a neighbour has shown on a link: `scheduler.trust.tls.TlsConnection`, after it has ended."""

    der: bytes | None
    context: ssl.SSLContext | None = None
    """What TLS was made with."""

    def getpeercert(self, binary_form: Literal[True], /) -> bytes | None:  # noqa: ARG002 # as that of `ssl`
        return self.der


class PieceRequest(Struct, frozen=True):
    """What of a request counts. `range_header` is empty for a piece that is to be encrypted."""

    method: str
    target: str
    range_header: str

    def numbered(self, number: int) -> bytes:
        return "\n".join((SCHEME, self.method, self.target, self.range_header, str(number))).encode()


class _Secrets:
    """What is made of a key: one secret for requests and another for answers (RFC 5869, HKDF-Expand)."""

    def __init__(self, key: PieceKey) -> None:
        self.key_id: Final = key.key_id
        self._request: Final = hmac.digest(key.secret, b"p2pd piece request\1", hashlib.sha256)
        self._answer: Final = hmac.digest(key.secret, b"p2pd piece answer\1", hashlib.sha256)

    def mac(self, request: PieceRequest, number: int) -> str:
        return hmac.digest(self._request, request.numbered(number), hashlib.sha256).hex()

    def answer_key(self, request: PieceRequest, number: int) -> AnswerKey:
        return AnswerKey(
            hmac.digest(self._answer, request.numbered(number), hashlib.sha256),
            self.key_id + number.to_bytes(8),
        )


@dataclass(frozen=True, slots=True)
class AnswerKey:
    """The input key of one answer, and its key id in the message."""

    input_key: bytes = field(repr=False)
    key_id: bytes


class HeldKey:
    """A key that a neighbour has told this host: for requests to it. From any thread."""

    def __init__(self, key: PieceKey) -> None:
        self.plain: Final = key.plain
        """Whether that neighbour sends pieces unencrypted too."""
        self._secrets: Final = _Secrets(key)
        self._number = 0
        self._lock: Final = threading.Lock()

    def authorize(self, request: PieceRequest) -> tuple[str, AnswerKey]:
        """The Authorization header of a request, and the key of its answer."""
        with self._lock:
            self._number += 1
            number = self._number
        header = f"{SCHEME} {self._secrets.key_id.hex()}.{number}.{self._secrets.mac(request, number)}"
        return header, self._secrets.answer_key(request, number)


class Window:
    """Which numbers have come: each is taken once, and none that is `WINDOW` behind the highest (RFC 4303, 3.4.3)."""

    def __init__(self) -> None:
        self._highest = 0
        self._seen = 1
        """Bit i: the number `highest - i` has come. Number 0 is never used."""

    def take(self, number: int) -> bool:
        """Whether the number is new."""
        ahead = number - self._highest
        if ahead > 0:
            self._seen = ((self._seen << ahead) | 1) & ((1 << WINDOW) - 1) if ahead < WINDOW else 1
            self._highest = number
            return True
        if ahead <= -WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


@dataclass(slots=True)
class _Issued:
    host: str
    certificate: Certificate
    secrets: _Secrets
    until: float
    window: Window = field(default_factory=Window)


class Asking(Struct, frozen=True):
    """Who asks for a piece, and the key of the answer."""

    host: str
    certificate: Certificate
    answer_key: AnswerKey


class PieceKeys:
    """The keys that this host has told and has been told. On the event loop; `plain`: it sends pieces unencrypted too.

    `clock` gives monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float], *, plain: bool) -> None:
        self.plain: Final = plain
        self._clock: Final = clock
        self._issued: dict[bytes, _Issued] = {}
        self._of_host: OrderedDict[str, list[bytes]] = OrderedDict()
        self._held: OrderedDict[str, HeldKey] = OrderedDict()

    def issue(self, host: str, certificate: Certificate) -> PieceKey:
        """A new key for a neighbour, which has this certificate. The keys before it end soon."""
        key = PieceKey(secrets.token_bytes(16), secrets.token_bytes(32), self.plain)
        now = self._clock()
        known = self._of_host.pop(host, [])
        for old in known[:-1]:
            del self._issued[old]
        for old in known[-1:]:
            self._issued[old].until = min(self._issued[old].until, now + OVERLAP_S)
        self._issued[key.key_id] = _Issued(host, certificate, _Secrets(key), now + ROTATE_S + OVERLAP_S)
        self._of_host[host] = [*known[-1:], key.key_id]
        while len(self._of_host) > MAX_HOSTS:
            self._forget_issued(next(iter(self._of_host)))
        return key

    def authenticate(self, request: PieceRequest, authorization: str) -> Asking:
        """Who sends a request with this Authorization header. Raises UnauthenticatedError.

        Whether the certificate is still good is for the caller to see.
        """
        shown = _AUTHORIZATION.fullmatch(authorization)
        if shown is None:
            raise UnauthenticatedError("pieces are for hosts of the cluster: by TLS, or under a key of their link")
        issued, number = self._issued.get(bytes.fromhex(shown[1])), int(shown[2])
        if issued is None or issued.until < self._clock() or number > MAX_REQUESTS:
            raise UnauthenticatedError("this key is over, or of another time of this host")
        if not hmac.compare_digest(issued.secrets.mac(request, number), shown[3]):
            raise UnauthenticatedError("the request is not what the holder of its key has sent")
        if not issued.window.take(number):
            raise UnauthenticatedError("the request has come before")
        return Asking(issued.host, issued.certificate, issued.secrets.answer_key(request, number))

    def learn(self, host: str, key: PieceKey) -> None:
        """A neighbour has told this key."""
        self._held.pop(host, None)
        self._held[host] = HeldKey(key)
        while len(self._held) > MAX_HOSTS:
            self._held.popitem(last=False)

    def held(self, host: str) -> HeldKey | None:
        """The key for requests to a host; None if it has told none."""
        return self._held.get(host)

    def forget(self, host: str) -> None:
        """All keys between this host and another end now."""
        self._held.pop(host, None)
        self._forget_issued(host)

    def _forget_issued(self, host: str) -> None:
        for key_id in self._of_host.pop(host, ()):
            del self._issued[key_id]
