"""`p2pd run`: the daemon of one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pd.cli.loading import loading
from p2pd.cli.options import Daemon, with_sources
from p2pd.daemon import logs
from p2pd.daemon.aiohttp_import import import_aiohttp

if TYPE_CHECKING:
    from p2pd.config.sources import Sources


@click.command("run", cls=Daemon)
@with_sources()
def run(sources: Sources) -> None:
    """Run one node: the mirror and its cache.

    Every flag is also a key in the configuration file, with _ for -, and the variable that stands beside it. Flags go
    before variables, those before the file. SIGHUP and `p2pd reload` read the file again.
    """
    loaded = sources.read()
    logs.setup(loaded.settings.log_level, loaded.settings.log_format)
    with loading():
        import_aiohttp()
        from p2pd.daemon.node import run as run_daemon

    run_daemon(sources, loaded)
