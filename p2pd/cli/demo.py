"""`p2pd demo`: a swarm on this machine, without root and without a network."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--nodes", default=5, show_default=True, type=click.IntRange(2, 50), help="How many nodes pull at once.")
@click.option("--size", default="96MiB", show_default=True, metavar="SIZE", help="How large the image is to be.")
@click.option(
    "--rate",
    default="40MiB",
    show_default=True,
    metavar="SIZE",
    help="Bytes per second that the registry gives, and that a node sends and takes; 0 is no limit.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON, and nothing else.")
def demo(nodes: int, size: str, rate: str, *, as_json: bool) -> None:
    """Show a swarm at work on this machine, with a registry of its own.

    An image is made of this machine's files, and pulled through real daemons: by one node alone, by nodes that do not
    know each other, and by a swarm. Nothing is left behind.
    """
    from rich.console import Console

    from p2pd.config.values import parse_size
    from p2pd.demo.run import DemoPlan, run_demo
    from p2pd.demo.shutdown import until_ended

    plan = DemoPlan(nodes, parse_size(size), parse_size(rate))
    figures = until_ended(lambda shutdown: run_demo(plan, Console(quiet=as_json), shutdown))
    if as_json:
        click.echo(json.dumps(figures, indent=2))
