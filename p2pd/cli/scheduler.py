"""`p2pd scheduler`: a scheduler alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pd.cli.options import with_settings
from p2pd.daemon import logs

if TYPE_CHECKING:
    from p2pd.config.settings import Settings


@click.command("scheduler")
@with_settings(
    "listen",
    "admin",
    "allow_open",
    "connections_per_origin",
    "connections_per_blob",
    "tag_ttl_s",
    "log_format",
    "log_level",
    defaults={"listen": "127.0.0.1:65003", "admin": "127.0.0.1:65005"},
)
def scheduler(settings: Settings) -> None:
    """Run a scheduler alone, for nodes that are started with --scheduler http://HOST:65003.

    Every flag is also a key in the configuration file, with _ for -, and the variable that stands beside it. Flags go
    before variables, those before the file. Nothing is kept on disk: after a restart, nodes tell all that they hold.
    """
    logs.setup(settings.log_level, settings.log_format)
    from p2pd.daemon.scheduler import run as run_scheduler

    raise SystemExit(run_scheduler(settings))
