"""`p2pd status`: shows the daemon's `/status`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from p2pd.cli.options import with_settings
from p2pd.config.values import show_duration, show_size

if TYPE_CHECKING:
    from p2pd.config.settings import Settings


CLIENTS: Final = {"containers": "podman, CRI-O, skopeo or buildah"}
"""The names of runtimes whose User-Agent says something else: these share a library."""


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
    rows = list(of_node(found) if "swarm" in found else _rows(found))
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        click.echo(f"{name:<{width}}  {text}")


def of_node(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Subjects and what there is to say of each, of a node's `/status`. Counters are since the daemon started."""
    reasons = ", ".join(found.get("reasons", ())) or "not ready"
    yield (
        "daemon",
        f"{'ready' if found['ready'] else reasons}, up {show_duration(found['uptime_s'])}, {found['version']}",
    )
    yield from (("", text) for text in found["degraded"])
    seen = [f"{CLIENTS.get(name, name)} {show_duration(ago_s)} ago" for name, ago_s in found["clients"].items()]
    yield "runtimes", f"pull through {found['mirror']}; {', '.join(seen) or 'none has yet'}"
    yield "registries", ", ".join(found["upstreams"])
    cache, got, swarm = found["cache"], found["downloads"], found["swarm"]
    yield "cache", f"{cache['blobs']} blobs, {show_size(cache['used_bytes'])} of {show_size(cache['max_bytes'])}"
    yield "", f"in {found['data']}; {cache['evicted']} evicted, {cache['lost']} lost on the disk"
    sources = f"{show_size(got['origin_bytes'])} from registries, {show_size(got['peer_bytes'])} from other hosts"
    yield "received", f"{sources}; {got['active']} blobs on their way"
    wrong = {
        "blobs with wrong bytes": got["corrupt"] + found["scrub"]["bad"],
        "pieces with wrong bytes": got["corrupt_pieces"],
        "answers of registries that were no use": got["unusable_answers"],
    }
    yield from (("", f"{count} {what}") for what, count in wrong.items() if count)
    yield "cluster", _cluster(found)
    if swarm["host"]:
        yield "", f"{swarm.get('neighbours', 0)} neighbours; {show_size(swarm['sent_bytes'])} sent to other hosts"
        yield "", f"this host is {swarm['host']}, others reach it at {found.get('advertise', '-')}"
    if swarm["certificate_expires_s"] is not None:
        yield "", f"its certificate is good for {show_duration(swarm['certificate_expires_s'])}"


def _cluster(found: Mapping[str, Any]) -> str:
    swarm, scheduler = found["swarm"], found["scheduler"]
    if not swarm["host"]:
        return "none: this node has no scheduler and no address for other hosts, and takes all from registries"
    if swarm["scheduler_connected"]:
        return f"connected to the scheduler {scheduler}"
    if swarm["alone"]:
        return f"the scheduler {scheduler} does not answer: registries are asked without it, and known neighbours"
    return f"looking for the scheduler {scheduler}"


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
