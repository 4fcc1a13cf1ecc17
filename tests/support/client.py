"""A client of the mirror, at the level of the socket: it sees how a body ends, and may read as slowly as it likes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.support.registry_server import PATIENCE_S


@dataclass(frozen=True)
class Reply:
    """An answer. `headers` are lower case. `end`: `whole`, or how a short body ended: `fin` or `reset`.

    `challenges` are the WWW-Authenticate fields, the only ones that may be there several times.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    end: str = "whole"
    challenges: tuple[str, ...] = ()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an OCI error."""
        assert self.headers["content-type"].startswith("application/json")
        (error,) = self.json["errors"]
        assert error["message"]
        return str(error["code"])

    @property
    def message(self) -> str:
        return str(self.json["errors"][0]["message"])


class Client:
    """One connection to `host:port`."""

    def __init__(self, address: str, *, receive_buffer_bytes: int | None = None) -> None:
        self._address = address
        self._socket = socket.socket()
        self._socket.setblocking(False)
        if receive_buffer_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._received = b""

    async def __aenter__(self) -> Self:
        host, _, port = self._address.rpartition(":")
        await asyncio.get_running_loop().sock_connect(self._socket, (host, int(port)))
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def set_option(self, level: int, option: int, value: int) -> None:
        self._socket.setsockopt(level, option, value)

    def shutdown(self) -> None:
        """Say that no request follows."""
        self._socket.shutdown(socket.SHUT_WR)

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def request(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> None:
        fields = {"Host": self._address, **(headers or {})}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        await self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    async def ask(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> Reply:
        """A request, and all of its answer."""
        await self.request(method, target, headers)
        return await self.rest(await self.head(), has_body=method != "HEAD")

    async def head(self) -> Reply:
        """The status and the headers of the next answer."""
        while b"\r\n\r\n" not in self._received:
            more = await self._more()
            assert more, f"the answer ended in its headers: {self._received[:80]!r}"
            self._received += more
        text, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = text.decode("latin-1").split("\r\n")
        fields = [line.partition(":") for line in lines]
        challenges = tuple(value.strip() for name, _, value in fields if name.lower() == "www-authenticate")
        names = [name.lower() for name, _, _ in fields]
        assert len(names) == len(set(names)) + max(0, len(challenges) - 1), "a header is given twice"
        return Reply(
            int(first.split(" ")[1]),
            {name: value.strip() for name, (_, _, value) in zip(names, fields, strict=True)},
            challenges=challenges,
        )

    async def rest(self, head: Reply, *, has_body: bool = True, first_bytes: int | None = None) -> Reply:
        """`head` with its body, or with the first bytes of it."""
        length = int(head.headers["content-length"]) if has_body and head.status != 304 else 0
        wanted = length if first_bytes is None else first_bytes
        chunks, got, end = [self._received], len(self._received), "whole"
        while got < wanted:
            try:
                more = await self._more()
            except ConnectionResetError:
                end = "reset"
                break
            if not more:
                end = "fin"
                break
            chunks.append(more)
            got += len(more)
        body = b"".join(chunks)
        self._received = body[wanted:]
        return Reply(head.status, head.headers, body[:wanted], end, head.challenges)

    async def wait_for_end(self) -> str:
        """Read on until the connection ends: `fin` or `reset`."""
        try:
            while await self._more():
                pass
        except ConnectionResetError:
            return "reset"
        return "fin"

    async def nothing_follows(self) -> bool:
        """Whether no byte has come beyond what was read (an answer to HEAD with a body would show here)."""
        with suppress(BlockingIOError):
            return not self._received and not self._socket.recv(1, socket.MSG_PEEK)
        return not self._received

    async def _more(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.get_running_loop().sock_recv(self._socket, 1 << 20)


async def ask(
    address: str,
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    *,
    authorization: str | None = None,
) -> Reply:
    """One request on a connection of its own."""
    if authorization is not None:
        headers = {**(headers or {}), "Authorization": authorization}
    async with Client(address) as client:
        return await client.ask(method, target, headers)
