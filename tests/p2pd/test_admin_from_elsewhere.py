"""What the admin port answers to another machine, and that its secret never leaves this one."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from p2pd.admin.client import AdminClient
from p2pd.admin.secret import NoSecretError, authorization, secret_in
from p2pd.admin.server import admin_runner
from p2pd.config.values import Address
from tests.support.node import asynchronous

SECRET = "planted"
HERE = "192.0.2.1"
PORT = Address(HERE, 65004)


class Connection(asyncio.Transport):
    """A connection from `there` to this machine."""

    def __init__(self, there: str) -> None:
        super().__init__({"peername": (there, 40_000), "sockname": (HERE, 65004)})


class Socket:
    """A connection of the command line from this machine to `there`."""

    def __init__(self, there: str) -> None:
        self._there = there

    def getpeername(self) -> tuple[str, int]:
        return self._there, 65004

    def getsockname(self) -> tuple[str, int]:
        return HERE, 40_000


async def asked(there: str, method: str, path: str) -> tuple[int, Any]:
    async def change(_: web.Request) -> web.Response:
        return web.json_response({"removed": 1})

    runner = admin_runner(
        addresses={},
        status=dict,
        scrape=bytes,
        not_ready=list,
        more=[web.route("*", "/cache", change)],
        secret=SECRET,
    )
    await runner.setup()
    headers = {"Host": str(PORT), "Authorization": authorization(SECRET)}
    request = make_mocked_request(method, path, headers, transport=Connection(there), app=runner.app)
    answer = await runner.app._handle(request)
    await runner.cleanup()
    assert isinstance(answer, web.Response)
    return answer.status, None if path == "/metrics" else json.loads(answer.text or "")


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
@asynchronous
async def test_what_needs_the_secret_is_not_answered_to_another_machine(method: str) -> None:
    status, answer = await asked("192.0.2.2", method, "/cache")
    assert status == 403
    assert "on the daemon's own machine" in answer["error"]
    for there in ("127.0.0.1", "::1", HERE):
        assert await asked(there, method, "/cache") == (200, {"removed": 1})


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/status", "/metrics"])
@asynchronous
async def test_probes_and_metrics_are_for_the_network(path: str) -> None:
    assert (await asked("192.0.2.2", "GET", path))[0] == 200


def test_the_command_line_shows_the_secret_on_this_machine_alone(tmp_path: Path) -> None:
    def shown(there: str) -> str:
        connected: socket.socket = Socket(there)  # type: ignore[assignment]  # what is used of it
        return AdminClient(PORT, tmp_path)._secret(connected)

    with secret_in(tmp_path, SECRET, PORT):
        with pytest.raises(NoSecretError, match="does not go over the network"):
            shown("192.0.2.2")
        assert {shown(there) for there in ("127.0.0.1", HERE)} == {SECRET}
