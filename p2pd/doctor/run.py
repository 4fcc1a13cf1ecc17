"""All checks, each after those that it depends on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from p2pd.config.settings import Settings
from p2pd.doctor import daemon, disk_space, runtimes, upstreams
from p2pd.doctor.environment import Environment
from p2pd.doctor.result import Check, CheckResult, Level
from peer.errors import P2pdError

CHECKS: Final[tuple[Check, ...]] = (
    daemon.check_mirror,
    daemon.check_ready,
    daemon.check_last_success,
    runtimes.check_configured,
    runtimes.check_dockerd,
    runtimes.check_clients,
    upstreams.check_upstreams,
    disk_space.check_disk,
    disk_space.check_directory,
    daemon.check_open_files,
)


def run_checks(settings: Settings, around: Environment) -> tuple[CheckResult, ...]:
    """The results of all checks. An error of a check becomes a result."""
    return tuple(finding for check in CHECKS for finding in _findings(check, settings, around))


def _findings(check: Check, settings: Settings, around: Environment) -> Iterator[CheckResult]:
    try:
        yield from check(settings, around)
    except P2pdError as error:
        yield CheckResult(Level.WARN, check.__name__.removeprefix("check_"), f"not all could be examined: {error}")
