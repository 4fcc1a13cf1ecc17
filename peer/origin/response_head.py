"""The head of a response: its status, its fields, and how its body is framed (RFC 9112).

Rules:
1. What registries and the proxies before them write loosely is understood, as Go's HTTP client and browsers do:
   line ends without CR, folded lines, white space before a colon, a length that is given twice.
2. Interim answers (1xx) are read and skipped. 101 is no interim answer: p2pd never asks for another protocol.
3. What contradicts itself is a ValueError: the end of such a body cannot be known.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec import Struct

from peer.origin.headers import content_length

if TYPE_CHECKING:
    from io import BufferedReader

MAX_HEAD_BYTES = 1024 * 1024
"""Of all answers to one request, interim answers included. Go's bound is 10 MiB; a signed address has some KiB."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9])[ \t]+([1-9][0-9]{2})(?:[ \t].*)?", re.DOTALL)
_BREAKS = re.compile(r"[\r\n\0]+")
_SWITCHING_PROTOCOLS = 101


class ResponseHead(Struct, frozen=True):
    """`HTTP/1.<minor> <status>`. `fields` are in the order they came, with lower-case names."""

    minor: int
    status: int
    fields: tuple[tuple[str, str], ...]

    def values(self, name: str) -> list[str]:
        """The values of all fields of this lower-case name."""
        return [value for each, value in self.fields if each == name]


class Framing(Struct, frozen=True):
    """How a body ends: in chunks, after `length` bytes, or with the connection. `keeps`: the connection goes on."""

    chunked: bool
    length: int | None
    keeps: bool


def read_head(file: BufferedReader) -> ResponseHead:
    """The head of the final answer. Raises RemoteDisconnected if nothing came, ValueError for what is not HTTP."""
    left = MAX_HEAD_BYTES
    while True:
        lines: list[bytes] = []
        while line := file.readline(left + 1):
            left -= len(line)
            if left < 0:
                raise ValueError(f"the head of the answer has more than {MAX_HEAD_BYTES} bytes")
            text = line.rstrip(b"\r\n")
            if not text:
                break
            lines.append(text)
        if not lines:
            raise http.client.RemoteDisconnected("the connection ended without an answer")
        if not line:
            raise ValueError("the answer ends within its head")
        head = parse_head(lines)
        if not 100 <= head.status < 200 or head.status == _SWITCHING_PROTOCOLS:
            return head


def parse_head(lines: list[bytes]) -> ResponseHead:
    """A status line and the lines of fields, without their ends. A line that is no field is left out."""
    found = _STATUS_LINE.fullmatch(lines[0])
    if found is None:
        raise ValueError("the answer does not begin with an HTTP/1 status line")
    fields: list[tuple[str, str]] = []
    for line in lines[1:]:
        text = line.decode("latin-1")
        if text[0] in " \t":
            if fields:  # a folded line goes on with the field before it
                name, value = fields[-1]
                fields[-1] = name, f"{value} {_clean(text)}".strip()
            continue
        name, colon, value = text.partition(":")
        if colon and name.strip():
            fields.append((name.strip().lower(), _clean(value)))
    return ResponseHead(int(found[1]), int(found[2]), tuple(fields))


def framing_of(head: ResponseHead, method: str) -> Framing:
    """RFC 9112, section 6.3. Raises ValueError for lengths that differ, and for a transfer coding but chunked."""
    options = _members(head.values("connection"))
    keeps = "close" not in options if head.minor else "keep-alive" in options
    if method == "HEAD" or head.status < 200 or head.status in (204, 304):
        return Framing(chunked=False, length=0, keeps=keeps)
    codings = [each for each in _members(head.values("transfer-encoding")) if each != "identity"]
    if codings:
        if codings != ["chunked"]:
            raise ValueError("the answer has a transfer coding that was not asked for")
        return Framing(chunked=True, length=None, keeps=keeps)
    lengths = head.values("content-length")
    length = content_length(",".join(lengths))
    if length is None and any(lengths):
        raise ValueError("the answer's Content-Length is not one number")
    return Framing(chunked=False, length=length, keeps=keeps and length is not None)


def _clean(value: str) -> str:
    """Without white space around it. A break within a value could end a field of ours (RFC 9112, section 2.2)."""
    return _BREAKS.sub(" ", value).strip(" \t")


def _members(values: Iterable[str]) -> list[str]:
    return [member.strip().lower() for value in values for member in value.split(",") if member.strip()]
