"""`p2pd top`: what a node, or a cluster, does now."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from p2pd.cli.options import SCHEDULER_ADMIN, with_settings
from peer.errors import P2pdError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from p2pd.config.settings import Settings
    from p2pd.top.terminal import Terminal
    from p2pd.top.views import View

PLAIN_WIDTH = 120
"""Of what is printed once: a file or a pipe has no width."""

ANSWER_WITHIN_S = 2.0


@click.command("top")
@click.option(
    "--scheduler",
    is_flag=False,
    flag_value=SCHEDULER_ADMIN,
    metavar="[ADDRESS]",
    help=f"Show a cluster, from the admin port of its scheduler.  [ADDRESS without one: {SCHEDULER_ADMIN}]",
)
@click.option("--every", default=1.0, type=click.FloatRange(0.2, 60), metavar="SECONDS", help="How often to look.")
@click.option("--once", is_flag=True, help="Print once, as where the output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print once what the daemon answers, as JSON.")
@with_settings("admin")
def top(settings: Settings, *, scheduler: str | None, every: float, once: bool, as_json: bool) -> None:
    """Show what this node does now: blobs on their way, rates, and who gives whom. q quits.

    With --scheduler: the pulls, sites and hosts of the whole cluster.
    """
    from p2pd.admin.client import AdminClient
    from p2pd.config.values import parse_address
    from p2pd.top.terminal import Terminal
    from p2pd.top.views import ClusterView, NodeView

    admin = settings.admin if scheduler is None else parse_address(scheduler)
    client = AdminClient(admin, answer_timeout_s=ANSWER_WITHIN_S)
    look = client.status if scheduler is None else client.cluster
    view: View = NodeView(str(admin)) if scheduler is None else ClusterView(str(admin))
    found = look()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif once or not Terminal.is_one():
        view.lines(found, time.monotonic(), PLAIN_WIDTH, 1000)
        time.sleep(every)  # rates are differences
        click.echo("\n".join(view.lines(look(), time.monotonic(), PLAIN_WIDTH, 1000)))
    else:
        _watch(Terminal(), view, look, found, every)


def _watch(
    terminal: Terminal, view: View, look: Callable[[], Mapping[str, Any]], found: Mapping[str, Any], every: float
) -> None:
    """Show one screen after another until the user quits. Where the daemon does not answer, the last stays."""
    trouble, due = "", time.monotonic() + every
    with terminal.shown():
        while True:
            width, height = terminal.size()
            lines = view.lines(found, time.monotonic(), width, height - 1)
            hint = f"!! {trouble}" if trouble else "q quits"
            terminal.draw([*lines, *[""] * (height - 1 - len(lines)), hint[:width]])
            if terminal.wait(max(0.0, due - time.monotonic())):
                return
            if time.monotonic() < due:  # the size has changed
                continue
            due = time.monotonic() + every
            try:
                found, trouble = look(), ""
            except P2pdError as error:
                trouble = str(error)
