"""A whole response says what aiohttp's own would say."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import pytest
from aiohttp import web

from proxy.whole_response import WholeResponse

FIELDS = {"Content-Type": "application/octet-stream", "ETag": '"sha256:1"'}
END = b"GET /end HTTP/1.0\r\n\r\n"


async def _answers(request: str) -> list[list[str]]:
    """What a server says to a request, as sorted lines without the date, and to another if the first lets it come."""
    is_kept = "keep-alive" in request or ("HTTP/1.1" in request and "close" not in request)
    asked = request.encode() + b"\r\n\r\n" + (END if is_kept else b"")

    async def answer(incoming: web.BaseRequest) -> web.StreamResponse:
        length = {"Content-Length": "5"} if incoming.method == "HEAD" else {}
        match incoming.path.split("/")[1:]:
            case [side, "unchanged"]:
                status, body, fields = HTTPStatus.NOT_MODIFIED, b"", FIELDS
            case [side, "nothing"]:
                status, body, fields = HTTPStatus.OK, b"", {**FIELDS, **length}
            case [side, "part"]:
                status, body, fields = HTTPStatus.PARTIAL_CONTENT, b"bytes", {**FIELDS, **length}
            case _:
                return web.Response(text="the end")
        if side == "ours":
            return WholeResponse(fields, b"" if incoming.method == "HEAD" else body, status)
        return web.Response(headers=fields, body=body, status=status)

    server = await asyncio.get_running_loop().create_server(web.Server(answer), "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(asked)
        said = await reader.read()
        writer.close()
    finally:
        server.close()
    parts = said.decode().split("HTTP/1.")[1:]
    return [sorted(line for line in part.split("\r\n") if not line.startswith("Date: ")) for part in parts]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("connection", ["", "\r\nConnection: keep-alive", "\r\nConnection: close"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["unchanged", "nothing", "part"])
def test_it_is_what_aiohttp_would_say(version: str, connection: str, method: str, path: str) -> None:
    ours, theirs = [
        asyncio.run(_answers(f"{method} /{side}/{path} HTTP/{version}\r\nHost: localhost{connection}"))
        for side in ("ours", "theirs")
    ]
    assert ours == theirs
