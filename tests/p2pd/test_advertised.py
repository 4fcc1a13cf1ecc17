"""The address that a node tells the cluster: one that others can reach, or the node does not start, or says so."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from p2pd.config.sources import load
from p2pd.config.values import Address, ConfigError
from p2pd.daemon.reach import Reach, reach_of
from p2pd.daemon.schedulers import schedulers
from p2pd.daemon.wiring import advertised
from tests.support.node import asynchronous

FAR = "http://192.0.2.1:65003"
NAMED = "http://scheduler.example:65003"
NEAR = "http://127.0.0.1:65003"


def told(listening: str, **flags: object) -> str:
    host, _, port = listening.rpartition(":")
    settings = load(flags, {}, default_file=Path("/no such file"))
    return advertised(settings, Address(host.strip("[]"), int(port)))


@pytest.mark.parametrize(
    ("listening", "flags"),
    [
        ("127.0.0.1:7000", {"scheduler": FAR}),
        ("127.0.0.1:7000", {"scheduler": NAMED}),
        ("127.0.0.1:7000", {"scheduler": (NEAR, FAR)}),
        ("[::1]:7000", {"scheduler": FAR}),
        ("0.0.0.0:7000", {"scheduler": NEAR}),
        ("[::]:7000", {}),
        ("10.0.0.1:7000", {"scheduler": FAR, "advertise": "127.0.0.1:7000"}),
        ("10.0.0.1:7000", {"scheduler": FAR, "advertise": "localhost:7000"}),
        ("10.0.0.1:7000", {"scheduler": FAR, "advertise": "0.0.0.0:7000"}),
        ("10.0.0.1:7000", {"scheduler": FAR, "advertise": "[::ffff:127.0.0.1]:7000"}),
        ("10.0.0.1:7000", {"scheduler": FAR, "advertise": "224.0.0.1:7000"}),
    ],
)
def test_an_address_that_nobody_reaches_is_refused(listening: str, flags: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="set advertise to the address at which others reach this host"):
        told(listening, **flags)


@pytest.mark.parametrize(
    ("listening", "flags", "address"),
    [
        ("127.0.0.1:7000", {}, "127.0.0.1:7000"),
        ("127.0.0.1:7000", {"scheduler": NEAR}, "127.0.0.1:7000"),
        ("127.0.0.1:7000", {"scheduler": "http://[::1]:65003"}, "127.0.0.1:7000"),
        ("127.0.0.1:7000", {"scheduler": "http://localhost:65003"}, "127.0.0.1:7000"),
        ("10.0.0.1:7000", {"scheduler": FAR}, "10.0.0.1:7000"),
        ("0.0.0.0:7000", {"scheduler": FAR, "advertise": "node-1:7001"}, "node-1:7001"),
        ("0.0.0.0:7000", {"scheduler": FAR, "advertise": "10.0.0.1:0"}, "10.0.0.1:7000"),
    ],
)
def test_an_address_that_others_reach(
    caplog: pytest.LogCaptureFixture, listening: str, flags: dict[str, object], address: str
) -> None:
    assert told(listening, **flags) == address
    assert not caplog.records


@pytest.mark.parametrize(
    "flags",
    [
        {"scheduler": NAMED, "advertise": "127.0.0.1:7000"},  # the name may be this machine's
        {"scheduler": FAR, "advertise": "169.254.1.1:7000"},
        {"scheduler": FAR, "advertise": "[fe80::1]:7000"},
    ],
)
def test_an_address_that_few_reach_is_a_warning(caplog: pytest.LogCaptureFixture, flags: dict[str, object]) -> None:
    assert told("10.0.0.1:7000", **flags) == flags["advertise"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING


def test_the_reach_of_names() -> None:
    assert reach_of("LOCALHOST.") is Reach.THIS_MACHINE
    assert reach_of("a.localhost") is Reach.THIS_MACHINE
    assert reach_of("localhost.example") is Reach.NETWORK


@asynchronous
async def test_a_scheduler_inside_is_reached_in_its_own_family() -> None:
    settings = load({"listen": "[::]:0", "allow_open": "true"}, {}, default_file=Path("/no such file"))
    async with schedulers(settings) as joined:
        assert joined.urls[0].startswith("http://[::1]:")
