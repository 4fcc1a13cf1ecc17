"""All checks, each after those that it depends on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from p2pd.config.settings import Settings
from p2pd.doctor import adopted, daemon, disk_space, runtimes, several, swarm, upstreams
from p2pd.doctor.environment import Environment
from p2pd.doctor.result import Check, CheckResult, Level
from p2pd.doctor.running import differing, in_force
from peer.errors import P2pdError

CHECKS: Final[tuple[Check, ...]] = (
    daemon.check_mirror,
    daemon.check_ready,
    daemon.check_last_success,
    runtimes.check_runtimes,
    upstreams.check_upstreams,
    upstreams.check_password_files,
    swarm.check_scheduler,
    swarm.check_advertised,
    swarm.check_background,
    several.check_redis,
    disk_space.check_disk,
    disk_space.check_directory,
    adopted.check_adopted,
    daemon.check_open_files,
)


def run_checks(here: Settings, around: Environment) -> tuple[CheckResult, ...]:
    """The results of all checks. An error of a check becomes a result.

    The settings are those of the daemon that runs, and `here` where none says its own. What the daemon reads when it
    starts is looked at in both.
    """
    running = in_force(here, around)
    found = [*differing(here, running), *(one for check in CHECKS for one in _findings(check, running, around))]
    found += [one for one in _findings(upstreams.check_password_files, here, around) if one not in found]
    return tuple(found)


def _findings(check: Check, settings: Settings, around: Environment) -> Iterator[CheckResult]:
    try:
        yield from check(settings, around)
    except P2pdError as error:
        yield CheckResult(Level.WARN, check.__name__.removeprefix("check_"), f"not all could be examined: {error}")
