"""`p2pd status`: shows the daemon's `/status`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from p2pd.cli.options import with_settings
from p2pd.config.values import show_duration, show_size

if TYPE_CHECKING:
    from p2pd.config.settings import Settings


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print what the daemon answers, as JSON.")
@with_settings("admin")
def status(settings: Settings, *, as_json: bool) -> None:
    """Show how the daemon on this node is."""
    from p2pd.admin.client import AdminClient

    found = AdminClient(settings.admin).status()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = list(_rows(found))
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        click.echo(f"{name:<{width}}  {text}")


def _rows(found: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """A row for each single value. All of `/status` is shown: the daemon decides which values there are."""
    for key, value in found.items():
        name = f"{above}{key}"
        items = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(items, dict) and items:
            yield from _rows({str(each): items[each] for each in items}, f"{name}.")
        else:
            yield name, _text(key, value)


def _text(key: str, value: object) -> str:
    """The value for people. Its unit is in its name."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and key.endswith("_bytes"):
        return show_size(value)
    if isinstance(value, int | float) and key.endswith("_s"):
        return show_duration(value)
    return "-" if value in (None, [], {}) else str(value)
