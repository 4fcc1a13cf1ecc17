"""Does this host have a scheduler, and do the other hosts reach it?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from p2pd.admin.reading import items, number, section, text
from p2pd.config.settings import Settings
from p2pd.config.values import Address, show_duration
from p2pd.daemon.reach import Reach, reach_of
from p2pd.doctor.environment import Environment, UnreachableError
from p2pd.doctor.result import CheckResult, Level
from p2pd.doctor.running import status_of

STARTING_S: Final = 5.0
"""A daemon that started less than so long ago may be looking for its scheduler still."""

NO_WEBSOCKET: Final = 400
"""The answer of a host's peer port to a request that opens no WebSocket."""


def check_scheduler(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """Whether the daemon has a scheduler now. Without one it pulls, but shares nothing new."""
    status = status_of(settings, around)
    swarm = section(status, "swarm")
    if not swarm:
        return
    if not swarm.get("host") or not settings.scheduler:
        yield CheckResult(Level.OK, "scheduler", "no scheduler is configured: this host alone serves its runtimes")
        return
    where = " or ".join(settings.scheduler)
    several = items(swarm, "schedulers")
    for each in several if swarm.get("scheduler_connected") is True else []:
        if each.get("connected") is not True and number(each, "out_s") is not None:
            title = f"the scheduler at {text(each, 'url')} is not connected: {text(each, 'last_error')}"
            yield CheckResult(Level.WARN, "scheduler", title, "start it; until then the others have its blobs")
    if swarm.get("scheduler_connected") is True:
        count = number(swarm, "neighbours") or 0
        neighbours = f", and this host has {count:.0f} neighbour{'' if count == 1 else 's'} now"
        yield CheckResult(Level.OK, "scheduler", f"the scheduler at {where} is connected{neighbours}")
        return
    out_s = number(swarm, "scheduler_out_s")
    since = "" if out_s is None else f" for {show_duration(out_s)}"
    reason = swarm.get("last_error")
    because = f": {reason}" if isinstance(reason, str) and reason else f" at {where}"
    starting = (number(status, "uptime_s") or 0.0) < STARTING_S
    yield CheckResult(
        Level.WARN if starting else Level.FAIL,
        "scheduler",
        f"no scheduler{since}{because}",
        "start it, or correct scheduler; until then this host takes what is new from registries, not from other hosts",
    )


def check_advertised(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """Whether other hosts can connect to this one: what they told the scheduler, and a connection from here."""
    swarm = section(status_of(settings, around), "swarm")
    address = settings.advertise
    if not swarm.get("host") or not settings.scheduler or address is None:
        return
    advice = "set advertise to an address of this host that others reach, and let its port through firewalls"
    missed = number(swarm, "unreachable_reports") or 0
    if missed:
        who = "1 other host" if missed == 1 else f"{missed:.0f} other hosts"
        title = f"{who} could not connect to this one at {address}, the address that it advertises"
        yield CheckResult(Level.FAIL, "advertise", title, advice)
    else:
        plain = number(swarm, "certificate_expires_s") is None
        yield _connected(address, advice, around, plain=plain)


def _connected(address: Address, advice: str, around: Environment, *, plain: bool) -> CheckResult:
    """A connection alone proves little where a proxy takes all of them; hosts with certificates speak TLS."""
    try:
        around.connect(address)
        if plain:
            status = around.get(f"http://{address}/v1/link").status
            if status != NO_WEBSOCKET:
                raise UnreachableError(f"what answers there (status {status}) is no host of p2pd")
    except UnreachableError as error:
        title = f"nothing can be reached at {address}, which other hosts are told, not even from here: {error}"
        return CheckResult(Level.WARN, "advertise", title, advice)
    here = " (only this machine can)" if reach_of(address.host) is Reach.THIS_MACHINE else ""
    return CheckResult(Level.OK, "advertise", f"other hosts are told to connect to {address}, which answers{here}")


def check_background(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """Is libtorrent there, if the operator wants it?"""
    if settings.background_transport == "http":
        return
    if around.has_libtorrent():
        yield CheckResult(Level.OK, "background", "preheats, and background transfers from other sites, go over uTP")
    else:
        title = "background_transport is bittorrent, and libtorrent is not here: background transfers go over HTTP"
        yield CheckResult(Level.WARN, "background", title, "pip install 'p2pd[bittorrent]', and restart p2pd")
