"""`p2pd predict`: which images will be pulled where within the next hours, as the scheduler expects."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from p2pd.cli.options import SCHEDULER_ADMIN, SCHEDULER_DATA, with_settings

if TYPE_CHECKING:
    from p2pd.config.settings import Settings


@click.command("predict")
@click.option("--site", metavar="NAME", help="Of this site alone.")
@click.option("--least", type=click.IntRange(0, 100), default=25, show_default=True, help="The least confidence, in %.")
@click.option("--held", is_flag=True, help="Also what a site has already, as far as is known.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
@with_settings("data", "admin", defaults={"data": SCHEDULER_DATA, "admin": SCHEDULER_ADMIN})
def predict(settings: Settings, /, *, site: str | None, least: int, held: bool, as_json: bool) -> None:
    """Show which images will be pulled within the next hours, and at which site.

    This runs on the scheduler's machine, as its user or as root. The scheduler keeps a history of pulls
    (pull_history), and predicts from it (predict = advise, or act to preheat what it expects).
    """
    from p2pd.admin.client import AdminClient

    found = AdminClient(settings.admin, settings.data, answer_timeout_s=30.0).predictions()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    shown = [
        each
        for each in found["predictions"]
        if each["confidence"] * 100 >= least and site in (None, each["site"]) and (held or not each["held"])
    ]
    for line in _lines(found, shown):
        click.echo(line)


def _lines(found: Mapping[str, Any], shown: list[Mapping[str, Any]]) -> Iterator[str]:
    from p2pd.cli.preheat import columns
    from p2pd.config.values import show_size

    rows = [("IMAGE", "SITE", "ABOUT", "CONFIDENCE", "SIZE", "REASON")]
    for each in shown:
        about = time.strftime("%H:%M", time.localtime(time.time() + each["in_s"]))
        size = show_size(each["size_bytes"]) if each["size_bytes"] else "-"
        reason = f"{each['reason']}; held" if each["held"] else each["reason"]
        rows.append((each["image"], each["site"] or "-", about, f"{each['confidence']:.0%}", size, reason))
    if shown:
        yield from columns(rows)
    hours = found["within_s"] / 3600
    yield f"{len(shown)} expected within {hours:.0f} h, from {found['records']} records of pulls and pushes"
    if not found["learned"]:
        yield "the history is still being read: there may be more in a minute"
    if found["mode"] == "act":
        spent = ", ".join(f"{name or '-'} {show_size(size)}" for name, size in sorted(found["spent_bytes"].items()))
        yield f"preheats of predictions today: {spent or 'none'}"
