"""The output of a plan: tables and advice for people, one object for machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from p2pd.config.values import show_size
from p2pd.plan.advice import JOINS, START_UP, WAITING, WORTH_WHILE, RolloutPlan
from p2pd.plan.rates import show_rate

_LIMITS: Final = {
    "origin": "the origin's bandwidth",
    "node links": "the nodes' links",
    "node uploads": "what nodes may send",
    "site uplinks": "the sites' uplinks",
    WAITING: "what hosts wait for between pieces",
    JOINS: "how fast the scheduler takes hosts in",
    START_UP: "the start: pieces have to spread before all nodes can send",
}


def as_json(plan: RolloutPlan) -> dict[str, Any]:
    """Times in seconds, sizes in bytes, rates in bytes per second."""
    cluster, expected = plan.cluster, plan.expected
    return {
        "nodes": cluster.nodes,
        "image_bytes": cluster.image_bytes,
        "pieces": cluster.pieces,
        "link_bytes_per_s": cluster.link,
        "origin_bytes_per_s": cluster.origin,
        "upload_bytes_per_s": cluster.send,
        "sites": cluster.sites,
        "site_uplink_bytes_per_s": cluster.site_uplink,
        "last_s": round(expected.last_s, 3),
        "median_s": round(expected.median_s, 3),
        "limit_s": round(expected.limit_s, 3),
        "efficiency_last": round(expected.limit_s / expected.last_s, 3),
        "registry_s": round(cluster.registry_s(), 3),
        "pull_through_s": round(cluster.pull_through_s(), 3),
        "origin_bytes": round(expected.origin_bytes),
        "origin_copies": round(expected.origin_bytes / cluster.image_bytes, 3),
        "site_bytes": round(expected.site_bytes) if cluster.sites > 1 else None,
        "site_copies": round(expected.site_bytes / cluster.image_bytes, 3) if cluster.sites > 1 else None,
        "limited_by": plan.limited_by,
        "parts_s": {part: round(seconds, 3) for part, seconds in plan.parts_s.items()},
        "changes_s": {change: round(seconds, 3) for change, seconds in plan.changed_s.items()},
        "change_first": plan.best_change,
        "simulated_nodes": expected.hosts,
        "simulated_pieces": expected.pieces,
    }


def show(plan: RolloutPlan, console: Console) -> None:
    """Print a plan for people."""
    cluster, expected = plan.cluster, plan.expected
    size = cluster.image_bytes
    times = _table(_title(plan), "", "last node", "median", "from origin")
    times.add_row("p2pd", _time(expected.last_s), _time(expected.median_s), show_size(round(expected.origin_bytes)))
    times.add_row("the physical limit", _time(expected.limit_s), "", show_size(size))
    through = "pull-through caches" if cluster.sites > 1 else "a pull-through cache"
    times.add_row(f"{through}, at least", _time(cluster.pull_through_s()), "", show_size(cluster.sites * size))
    times.add_row("all to the registry, at least", _time(cluster.registry_s()), "", show_size(cluster.nodes * size))
    changed = _table("With one change", "", "last node", "saves")
    for change, seconds in plan.changed_s.items():
        changed.add_row(change, _time(seconds), f"{max(0.0, 1 - seconds / expected.last_s):.0%}")
    console.print(times)
    console.print(changed)
    console.print(" ".join(_sentences(plan)), highlight=False)


def _title(plan: RolloutPlan) -> str:
    cluster = plan.cluster
    title = f"{cluster.nodes} nodes with {show_rate(cluster.link)}, {show_size(cluster.image_bytes)}, "
    title += f"an origin of {show_rate(cluster.origin)}"
    if cluster.sites > 1:
        title += f", {cluster.sites} sites"
    return title + (f" with {show_rate(cluster.site_uplink)}" if cluster.site_uplink is not None else "")


def _sentences(plan: RolloutPlan) -> Iterator[str]:
    cluster, expected = plan.cluster, plan.expected
    yield f"p2pd comes to {expected.limit_s / expected.last_s:.0%} of the physical limit;"
    yield f"most of the time is for {_LIMITS[plan.limited_by]}."
    if cluster.sites > 1:
        copies = expected.site_bytes / cluster.image_bytes
        yield f"A site's uplink carries {show_size(round(expected.site_bytes))} into it, {copies:.1f} times the image."
    if (change := plan.best_change) is not None:
        yield f"First, {change}: {_time(plan.changed_s[change])} instead of {_time(expected.last_s)}."
    else:
        yield f"No one change of these saves more than {WORTH_WHILE:.0%}."
    if (expected.hosts, expected.pieces) == (cluster.nodes, cluster.pieces):
        yield "All of it was simulated."
    else:
        good = "within some 5 %" if cluster.sites == 1 else "roughly"
        yield (
            f"{expected.hosts} nodes and {expected.pieces} of {cluster.pieces} pieces were simulated, the rest is "
            f"extrapolated, {good}."
        )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
