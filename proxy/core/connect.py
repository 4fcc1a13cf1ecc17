"""The head of a request to an HTTPS proxy: CONNECT HOST:PORT (RFC 9110, section 9.3.6).

Rules:
1. A head has at most `MAX_HEAD_BYTES`. Only its first line is read. A client's Proxy-Authorization is of no use here.
2. A host is a name that DNS can have, or an address. Whether it is right to connect there is decided elsewhere.
3. A request that is none, or another method, is told what this port is for.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from msgspec import Struct

from peer.errors import InvalidNameError, P2pdError
from peer.oci.reference import DOCKER_HUB, UpstreamName, parse_upstream_name

MAX_HEAD_BYTES: Final = 16 * 1024
"""Go's CONNECT has some 100 bytes; a Proxy-Authorization with a Kerberos ticket may have 12 KiB."""

END_OF_HEAD: Final = b"\r\n\r\n"

ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"

NO_CONNECT: Final = "this is no request of the form CONNECT HOST:PORT HTTP/1.1"
_ONLY_CONNECT: Final = (
    "this port of p2pd is an HTTPS proxy, which takes CONNECT HOST:PORT alone: name it in HTTPS_PROXY, and not in "
    "HTTP_PROXY"
)
_LINE: Final = re.compile(rb"CONNECT ([\x21-\x7e]{1,300}) HTTP/1\.[01]")
_AUTHORITY: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:/@]+)):(?P<port>[0-9]{1,5})")
_REQUEST: Final = re.compile(rb"[A-Z]{1,20} \S+ HTTP/[0-9.]+")


class ConnectError(P2pdError):
    """The proxy does not do what the client asks. The client gets `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ConnectTarget(Struct, frozen=True):
    """What a client wants to be connected to. `host` is in lower case, an IPv6 address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """The host, and the port unless it is that of https: as in URLs."""
        return str(self).removesuffix(":443")

    @property
    def upstream(self) -> UpstreamName | None:
        """The upstream of that name, for which the port may be another's; None if it can be none.

        Docker Hub is none here: dockerd takes no CA of the operator's for it (moby, registry/service_v2.go), and has
        `registry-mirrors`.
        """
        try:
            name = parse_upstream_name(str(self))
        except InvalidNameError:
            return None
        return None if name == DOCKER_HUB else name

    def is_named_by(self, host_header: str) -> bool:
        """Whether a request's Host header names the target; the port of https may be left out."""
        return host_header.strip().lower() in (str(self), self.authority)


def parse_connect(head: bytes) -> ConnectTarget:
    """The target of a head that ends with an empty line. Raises ConnectError."""
    line = head.partition(b"\r\n")[0]
    match = _LINE.fullmatch(line)
    if match is None:
        if line.startswith(b"CONNECT ") or not _REQUEST.fullmatch(line):
            raise ConnectError(400, NO_CONNECT)
        raise ConnectError(405, _ONLY_CONNECT)
    authority = _AUTHORITY.fullmatch(match[1].decode("ascii"))
    if authority is None or not 0 < int(authority["port"]) < 65536:
        raise ConnectError(400, "CONNECT names no HOST:PORT")
    return ConnectTarget(_host(authority["v6"], authority["host"]), int(authority["port"]))


def refusal_bytes(error: ConnectError) -> bytes:
    """The whole answer to a client that is refused."""
    reason = {400: "Bad Request", 403: "Forbidden", 405: "Method Not Allowed", 408: "Request Timeout"}
    reason |= {431: "Request Header Fields Too Large", 502: "Bad Gateway", 503: "Service Unavailable"}
    body = f"{error}\n".encode("ascii", "backslashreplace")
    allow = "Allow: CONNECT\r\n" if error.status == 405 else ""
    head = (
        f"HTTP/1.1 {error.status} {reason[error.status]}\r\n{allow}Content-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def _host(v6: str | None, host: str | None) -> str:
    try:
        if v6 is not None:
            return str(ipaddress.IPv6Address(v6))
        name = (host or "").lower().removesuffix(".")
        parse_upstream_name(name)  # the same letters, and lengths
    except (InvalidNameError, ipaddress.AddressValueError):
        raise ConnectError(400, "CONNECT names a host that is neither a name nor an address") from None
    return name
