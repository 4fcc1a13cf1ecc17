"""The log of what is refused because it is for another host. What is refused: tests/p2pd/test_rebinding.py."""

from __future__ import annotations

from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs

from proxy.host_guard import guarded
from tests.support.node import asynchronous


@asynchronous
async def test_the_log_does_not_have_a_line_for_each_request_that_a_page_sends() -> None:
    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError("it is for another host")

    def refuse(status: int, _reason: str) -> web.Response:
        return web.Response(status=status)

    with capture_logs() as lines:
        for _ in range(50):
            request = make_mocked_request("GET", "/", {"Host": "evil.example"})
            assert (await guarded(request, handler, frozenset(), refuse)).status == 421
    assert len([line for line in lines if line["log_level"] == "warning"]) <= 1
    assert len(lines) == 50
