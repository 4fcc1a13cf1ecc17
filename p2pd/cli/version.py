"""`p2pd version`: of this command, and of the daemon that runs."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import TYPE_CHECKING

import click

from p2pd.cli.options import with_settings
from peer.errors import P2pdError

if TYPE_CHECKING:
    from p2pd.config.settings import Settings


@click.command("version")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@with_settings("admin")
def version(settings: Settings, *, as_json: bool) -> None:
    """Show the version of this command, and of the daemon on this node if one runs."""
    from p2pd.admin.client import AdminClient

    own, python = metadata.version("p2pd"), platform.python_version()
    try:
        daemon = AdminClient(settings.admin).status().get("version")
    except P2pdError:
        daemon = None
    if as_json:
        click.echo(json.dumps({"version": own, "python": python, "daemon": daemon}, indent=2))
        return
    click.echo(f"p2pd {own}, Python {python}")
    if isinstance(daemon, str):
        same = "the same" if daemon == own else f"{daemon}; restart it to run this version"
        click.echo(f"the daemon at {settings.admin}: {same}")
