"""`p2pd demo`: p2pd at work on this machine, without root and without a network."""

from __future__ import annotations

import click


@click.command()
@click.option("--size", default="256MiB", show_default=True, metavar="SIZE", help="How large the image is to be.")
def demo(size: str) -> None:
    """Show p2pd at work on this machine, with a registry of its own.

    An image is made out of this machine's files, and pulled through a real daemon. Nothing is left behind.
    """
    from rich.console import Console

    from p2pd.demo.show import show
    from p2pd.notation import parse_size

    show(parse_size(size), Console())
