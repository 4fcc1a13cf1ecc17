"""Whatever the settings allow, a scheduler takes: a bound that it alone knew would shut the host out for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pd.daemon.node import serve
from tests.support.client import ask
from tests.support.node import asynchronous, settings_for

NOWHERE = "docker.io=http://127.0.0.1:1"


@pytest.mark.parametrize(
    "flags",
    [
        {"upload_slots": "9999"},
        {"site": "s" * 64, "zone": "z" * 64, "rack": "r" * 64},
        {"advertise": "node_1.example:65002"},
        {"advertise": f"{'n' * 63}.{'n' * 63}.{'n' * 63}.{'n' * 61}:65002"},
    ],
    ids=["upload_slots", "labels", "a name with _", "a long name"],
)
@asynchronous
async def test_a_host_at_the_bounds_of_its_settings_joins(tmp_path: Path, flags: dict[str, str]) -> None:
    async with serve(
        settings_for(tmp_path / "data", NOWHERE, **{"advertise": "127.0.0.1:0", **flags}), list
    ) as addresses:
        for _ in range(200):
            status = (await ask(addresses["admin"], "GET", "/status", None)).json
            if status["swarm"]["scheduler_connected"]:
                return
        pytest.fail("it was not let in")
