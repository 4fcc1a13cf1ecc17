"""`p2pd config`: shows the settings in force, and where each is from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from p2pd.cli.options import with_sources
from p2pd.config.changes import in_force

if TYPE_CHECKING:
    from p2pd.config.sources import Sources


@click.command("config")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@with_sources("admin", "data")
def config(sources: Sources, *, as_json: bool) -> None:
    """Show the settings in force in the daemon on this node, and where each is from. Secrets are hidden.

    Without a daemon, those are shown that `p2pd run` would start with, given the same file, variables and flags.
    """
    from p2pd.admin.client import AdminClient, DaemonUnreachableError

    loaded = sources.read()
    try:
        rows = AdminClient(loaded.settings.admin, loaded.settings.data).in_force()
        running = True
    except DaemonUnreachableError:
        rows, running = in_force(loaded), False
    if as_json:
        click.echo(json.dumps({"running": running, "settings": rows}, indent=2))
        return
    if not running:
        click.echo(f"# No daemon answers at {loaded.settings.admin}: this is what one would start with.")
    _show(rows)


def _show(rows: list[dict[str, Any]]) -> None:
    """As TOML is written, with the place behind: what is long does not move the places of the others."""
    texts = [_text(row) for row in rows]
    width = min(60, max(map(len, texts), default=0))
    for row, text in zip(rows, texts, strict=True):
        click.echo(f"{text:<{width}}  {row['from'] or 'default'}")


def _text(row: dict[str, Any]) -> str:
    means = f" ({row['means']})" if row.get("means") else ""
    return f"{row['key']} = {row['value'] or '(none)'}{means}"
