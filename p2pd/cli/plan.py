"""`p2pd plan`: predicts how long a rollout to a cluster will take. It sends nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from p2pd.config.values import ConfigError, parse_size

MAX_NODES = 100_000


def _parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A callback for click that parses a flag's text."""

    def callback(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except ConfigError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def _rate(text: str) -> float:
    from p2pd.plan.rates import parse_rate

    return parse_rate(text)


def _image_size(text: str) -> int:
    from scheduler.protocol.geometry import MAX_BLOB_BYTES

    size_bytes = parse_size(text)
    if not 0 < size_bytes <= MAX_BLOB_BYTES:
        raise ConfigError("expected a size from 1B to 256GiB")
    return size_bytes


@click.command()
@click.option("--nodes", required=True, type=click.IntRange(1, MAX_NODES), help="How many nodes pull at once.")
@click.option("--image-size", required=True, metavar="SIZE", callback=_parsed(_image_size), help="As in 2GiB.")
@click.option("--link", required=True, metavar="RATE", callback=_parsed(_rate), help="Of each node, as in 1gbit.")
@click.option("--origin", required=True, metavar="RATE", callback=_parsed(_rate), help="What the registry can send.")
@click.option("--sites", default=1, show_default=True, type=click.IntRange(1), help="The nodes are spread over these.")
@click.option(
    "--site-uplink",
    metavar="RATE",
    callback=_parsed(_rate),
    help="Of each site to the others and to the registry.  [default: no limit]",
)
@click.option(
    "--upload-rate",
    metavar="RATE",
    callback=_parsed(_rate),
    help="What a node may send to others.  [default: as much as its link]",
)
@click.option(
    "--cache-link",
    metavar="RATE",
    callback=_parsed(_rate),
    help="Of a pull-through cache in each site, to compare with.  [default: as a node's]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON, and nothing else.")
def plan(
    nodes: int,
    image_size: int,
    link: float,
    origin: float,
    sites: int,
    site_uplink: float | None,
    upload_rate: float | None,
    cache_link: float | None,
    *,
    as_json: bool,
) -> None:
    """Say how long a rollout will take, what limits it, and what to change first.

    The pull is simulated, with the same rules that real nodes follow: all nodes ask for the image at the same moment,
    and none has any of it. Of a large cluster or image, 96 nodes and as many pieces are simulated, and the rest is
    extrapolated. Rates are such as 100mbit, 10gbit or 50MiB/s. It takes some seconds, or a few tens of them.

    \b
    p2pd plan --nodes 500 --image-size 2GiB --link 1gbit --origin 10gbit
    p2pd plan --nodes 500 --image-size 2GiB --link 1gbit --origin 10gbit --sites 4 --site-uplink 2gbit
    """
    from rich.console import Console
    from rich.progress import Progress

    from p2pd.plan import view
    from p2pd.plan.advice import make_plan
    from p2pd.plan.cluster import Cluster

    if sites > nodes:
        raise click.BadOptionUsage("sites", "there cannot be more --sites than --nodes")
    cluster = Cluster(nodes, image_size, link, origin, sites, site_uplink, upload_rate, cache_link)
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=as_json or not screen.is_terminal) as progress:
        task = progress.add_task("Simulating", total=1.0)
        made = make_plan(cluster, on_progress=lambda part: progress.advance(task, part))
    if as_json:
        click.echo(json.dumps(view.as_json(made), indent=2))
    else:
        view.show(made, Console())
