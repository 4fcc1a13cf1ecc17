"""Strategies for what comes from a socket: HTTP requests and answers, WebSocket frames, and any bytes beside them.

Bytes at random say little about a protocol, so most of what is made has the protocol's form, and a damage or two.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from hypothesis import strategies as st

CRLF = b"\r\n"


def damaged(whole: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """As it is, mostly; or with a slice of it taken out, put in, or put in place of another."""
    cuts = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 8), st.binary(max_size=8)), max_size=2)
    return st.tuples(whole, st.just([]) | cuts).map(_damage)


def _damage(made: tuple[bytes, list[tuple[int, int, bytes]]]) -> bytes:
    whole, cuts = made
    for at, length, put in cuts:
        start = at % (len(whole) + 1)
        whole = whole[:start] + put + whole[start + length :]
    return whole


def pieces(*parts: str, most: int = 5) -> st.SearchStrategy[str]:
    """A text of pieces of a grammar, and of any other letters now and then."""
    return st.lists(st.sampled_from(parts) | st.sampled_from(parts) | st.text(max_size=4), max_size=most).map("".join)


NUMBERS = st.sampled_from(
    ["0", "1", "5", "65536", "4194304", "18446744073709551616", "-1", "1e3", "0x10", "\u0665", ""]
)
TOKENS = pieces("gzip", "deflate", "chunked", "identity", "br", "close", "keep-alive", "Upgrade", ",", ";q=0", " ", "*")

VALUES: dict[str, st.SearchStrategy[str]] = {
    "Host": st.sampled_from(["127.0.0.1", "localhost", "evil.example", "[::1]:1", "", "a@b", "127.0.0.1:99999"]),
    "Range": pieces(
        "bytes=", "0-", "0-0", "-1", "-0", "5-2", ",", "0-99999999999999999999", "items=", " ", "1-4194303"
    ),
    "Authorization": pieces(
        "Bearer ", "Basic ", "Basic YTpi", "P2PD-Piece ", "0" * 32, ".1.", "f" * 64, ":", "\t", "\xff"
    ),
    "Accept": pieces("application/vnd.oci.image.manifest.v1+json", "*/*", ",", ";q=", "0", "1.5", "/", '"'),
    "If-None-Match": pieces('"', "W/", "*", ",", "sha256:" + "a" * 64),
    "Content-Length": NUMBERS,
    "Transfer-Encoding": TOKENS,
    "Content-Encoding": TOKENS,
    "Connection": TOKENS,
    "Upgrade": st.sampled_from(["websocket", "h2c", "TLS/1.3", ""]),
    "Sec-WebSocket-Key": st.sampled_from(["dGhlIHNhbXBsZSBub25jZQ==", "x", ""]),
    "Sec-WebSocket-Version": st.sampled_from(["13", "8", "", "x"]),
    "Sec-WebSocket-Extensions": pieces("permessage-deflate", ";", "client_max_window_bits=", "99", ","),
    "Expect": st.sampled_from(["100-continue", "200-ok", ""]),
    "OCI-Namespace": pieces("docker.io", "reg.test", "/", ":1", "..", "\xe9"),
    "User-Agent": st.text(max_size=20),
    "Cookie": pieces("a=b", ";", "=", '"', "\\", "expires"),
    "X-P2pd-Host": pieces("host-1", "/", " ", "\xff"),
    "Forwarded": pieces("for=", "127.0.0.1", ";", '"', "host=x"),
}


def _field(name: str) -> st.SearchStrategy[bytes]:
    return VALUES[name].map(lambda value: name.encode() + b": " + value.encode("utf-8", "surrogatepass"))


fields = st.one_of(
    st.sampled_from(list(VALUES)).flatmap(_field),
    st.sampled_from(list(VALUES)).flatmap(_field),
    st.binary(max_size=20),
)
chunked = st.lists(st.binary(max_size=9), max_size=3).map(
    lambda parts: b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
)
WEBSOCKET = (
    b"Host: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)


@st.composite
def frames(draw: st.DrawFn, payloads: st.SearchStrategy[bytes]) -> bytes:
    """One WebSocket frame of a client, of any kind: masked or not, with any flags, with any length."""
    payload = draw(payloads)
    first = draw(st.sampled_from([0x82, 0x82, 0x82, 0x02, 0x00, 0x80, 0x81, 0x88, 0x89, 0x8A, 0x8B, 0xC2, 0xFF]))
    said = draw(st.sampled_from([len(payload), len(payload), len(payload), 0, 1, 126, 1 << 18, 1 << 40, (1 << 63) + 1]))
    mask = draw(st.sampled_from([b"\0\0\0\0", b"abcd", None]))
    high = 0 if mask is None else 0x80
    if said < 126:
        head = struct.pack("!BB", first, high | said)
    elif said < 1 << 16:
        head = struct.pack("!BBH", first, high | 126, said)
    else:
        head = struct.pack("!BBQ", first, high | 127, said)
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def websocket(path: str, payloads: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The opening of a WebSocket, and frames behind it."""
    opening = f"GET {path} HTTP/1.1\r\n".encode() + WEBSOCKET + CRLF * 2
    return damaged(st.lists(frames(payloads), max_size=6).map(lambda sent: opening + b"".join(sent)))


def requests(targets: Sequence[str]) -> st.SearchStrategy[bytes]:
    """An HTTP request, mostly for one of these targets."""
    methods = st.sampled_from(
        ["GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "PRI", "get", ""]
    )
    odd = pieces(
        *targets, "/", "/..", "//", "?", "&", "%00", "%2f", "%c3%28", "?ns=", "n=-1", "#", "http://h", "*", " "
    )
    versions = st.sampled_from(
        ["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.1.1", "HTTP/0.9", ""]
    )
    lines = st.tuples(methods, st.sampled_from(targets) | odd, versions).map(
        lambda line: " ".join(line).encode("utf-8", "surrogatepass")
    )
    hosts = st.sampled_from([[b"Host: 127.0.0.1"], [b"Host: 127.0.0.1"], []])
    bodies = st.just(b"") | st.binary(max_size=30) | chunked
    return damaged(
        st.tuples(lines, hosts, st.lists(fields, max_size=5), bodies).map(
            lambda made: CRLF.join([made[0], *made[1], *made[2], b"", made[3]])
        )
    )


def conversations(targets: Sequence[str], *more: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    """What somebody sends on one connection, in parts: requests one after the other, or anything else."""
    one = st.one_of(requests(targets), requests(targets), st.binary(max_size=60), *more)
    return st.lists(one, min_size=1, max_size=3)
