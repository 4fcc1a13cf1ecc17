"""`p2pd run`: the daemon of one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pd.cli.options import with_settings
from p2pd.daemon import logs

if TYPE_CHECKING:
    from p2pd.config.settings import Settings


@click.command("run")
@with_settings()
def run(settings: Settings) -> None:
    """Run one node: the mirror and its cache.

    Every flag is also a key in the configuration file, with _ for -, and the variable that stands beside it. Flags go
    before variables, those before the file.
    """
    logs.setup(settings.log_level, settings.log_format)
    from p2pd.daemon.node import run as run_daemon

    raise SystemExit(run_daemon(settings))
