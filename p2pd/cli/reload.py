"""`p2pd reload`: has the daemon on this node read its settings again."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from p2pd.cli.options import with_settings

if TYPE_CHECKING:
    from p2pd.config.settings import Settings


@click.command("reload")
@click.option("--json", "as_json", is_flag=True, help="Print what the daemon answers, as JSON.")
@with_settings("admin", "data")
def reload(settings: Settings, *, as_json: bool) -> None:
    """Have the daemon on this node read its settings again, and print what has changed.

    Taken up at once, while clients are served: upstreams with their credentials, rates, the limits of the cache, and
    log_level. What else has changed is printed, and needs a restart. Settings that are wrong change nothing, and end
    this with 2.
    """
    from p2pd.admin.client import AdminClient

    found = AdminClient(settings.admin, settings.data).reload()
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=2))
        return
    for change in found.changed:
        click.echo(str(change))
    for change in found.needs_restart:
        click.echo(f"needs a restart: {change}")
    if not found.changed and not found.needs_restart:
        click.echo("nothing has changed")
