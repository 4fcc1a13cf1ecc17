"""`p2pd drain`: has the daemon on this node finish what is under way, and stop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import click

from p2pd.cli.options import with_settings
from p2pd.config.values import ConfigError, parse_duration, show_duration
from peer.errors import P2pdError

if TYPE_CHECKING:
    from p2pd.config.settings import Settings

_LOOK_EVERY_S: Final = 0.1


@click.command("drain")
@click.option("--timeout", default="5m", metavar="DURATION", help="How long pulls under way may take.  [5m]")
@with_settings("admin", "data", "shutdown_grace_s")
def drain(settings: Settings, *, timeout: str) -> None:
    """Have the daemon on this node finish what is under way, and stop.

    New pulls get 404, so that runtimes go to the registry; pulls under way are served to their end. What is fetched
    ahead of clients ends, and its leases go back to the scheduler. If the time is over before that, the daemon stops as
    after SIGTERM, and this ends with 1. A service manager may start it again: stop its unit, too.
    """
    from p2pd.admin.client import AdminClient

    try:
        timeout_s = parse_duration(timeout)
    except ConfigError as error:
        raise ConfigError(f"--timeout: {error}") from None
    daemon = AdminClient(settings.admin, settings.data)
    finished = daemon.drain(timeout_s)
    until = time.monotonic() + settings.shutdown_grace_s + 10
    while daemon.is_there() and time.monotonic() < until:
        time.sleep(_LOOK_EVERY_S)
    if not finished:
        raise P2pdError(f"not all was finished within {show_duration(timeout_s)}: the daemon has ended what was left")
    click.echo("drained: the daemon has stopped")
