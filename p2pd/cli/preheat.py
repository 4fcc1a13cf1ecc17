"""`p2pd preheat IMAGE…`: has the hosts of a cluster fetch images before their clients ask for them."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from p2pd.cli.options import SCHEDULER_ADMIN, SCHEDULER_DATA, with_settings

if TYPE_CHECKING:
    from p2pd.admin.client import AdminClient
    from p2pd.config.settings import Settings

LOOK_EVERY_S: Final = 1.0
MAX_SHOWN_HOSTS: Final = 200
_OVER: Final = ("succeeded", "partly", "failed", "cancelled")

Show = Callable[[Mapping[str, Any]], None]


@click.command("preheat")
@click.argument("images", metavar="IMAGE...", nargs=-1)
@click.option(
    "--to", "hosts", metavar="HOSTS", multiple=True, help="all, 12, 30%, site=a,zone=b, or hosts.  [default: all]"
)
@click.option("--platform", "platforms", metavar="OS/ARCH", multiple=True, help="Or: all.  [default: each host's own]")
@click.option("--rate", metavar="RATE", help="What each host may take, as 20mbit or 2MB (per second).  [default: all]")
@click.option("--ttl", metavar="TIME", help="For how long the images are kept.  [default: 7d]")
@click.option("--within", metavar="TIME", help="For how long hosts that are away are waited for.  [default: 1h]")
@click.option("--at", metavar="TIME", help="When to begin, as 2030-01-31T22:00:00Z.  [default: now]")
@click.option("--window", metavar="HH:MM-HH:MM", help="In these hours alone, by the scheduler's clock.")
@click.option(
    "--manifest",
    "manifests",
    metavar="FILE",
    multiple=True,
    type=click.File("r"),
    help="Kubernetes YAML, whose images are added; - reads standard input.",
)
@click.option(
    "--credentials",
    metavar="FILE",
    type=click.File("r"),
    help="A docker config.json, for private images; - reads standard input.",
)
@click.option("--follow", is_flag=True, help="Go on: preheat the images again when their tags have moved.")
@click.option("--every", metavar="TIME", default="60s", show_default=True, help="How often --follow looks.")
@click.option(
    "--mirror", metavar="HOST:PORT", default="127.0.0.1:65001", show_default=True, help="Where --follow asks."
)
@click.option("--wait", is_flag=True, help="Wait for the end; exit code 1 unless all hosts have all.")
@click.option("--list", "lists", is_flag=True, help="List the preheats.")
@click.option("--pinned", is_flag=True, help="List what hosts keep, where, and until when.")
@click.option("--show", metavar="ID", help="Show a preheat, with its hosts.")
@click.option("--cancel", metavar="ID", help="End a preheat; hosts that join are told no longer.")
@click.option("--retry", metavar="ID", help="Tell the hosts again that failed or were away.")
@click.option("--token", is_flag=True, help="Make, and print, a new token for Harbor and other programs.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@with_settings("data", "admin", defaults={"data": SCHEDULER_DATA, "admin": SCHEDULER_ADMIN})
def preheat(
    settings: Settings,
    /,
    images: tuple[str, ...],
    *,
    wait: bool,
    lists: bool,
    pinned: bool,
    show: str | None,
    cancel: str | None,
    retry: str | None,
    token: bool,
    as_json: bool,
    **order: Any,
) -> None:
    """Have the hosts of a cluster fetch IMAGEs in the background, and keep them for a while.

    This runs on the scheduler's machine, as its user or as root. A client's pull always comes first. What hosts have at
    the end is pinned for --ttl, within half of their room: see `p2pd cache ls`. Hosts that join until then are told,
    too, if it is for all hosts or for all with some labels; --cancel ends that.
    """
    from p2pd.admin.client import AdminClient

    named = [each for each in (show, cancel, retry) if each is not None]
    wanted = _request(images, order)
    orders = bool(wanted["images"])
    if orders + lists + pinned + token + len(named) != 1:
        raise click.UsageError("give images, or one of --list, --pinned, --show, --cancel, --retry and --token")
    if token:
        click.echo(_new_token(settings))
        return
    client = AdminClient(settings.admin, settings.data, answer_timeout_s=30.0)
    if lists:
        found = client.preheats()
        click.echo(json.dumps(found, indent=2) if as_json else "\n".join(_listed(found)))
        return
    if pinned:
        found = [client.preheat_of(each["id"]) for each in client.preheats() if _may_be_pinned(each)]
        kept = [each for each in found if each["hosts"]["done"]]
        click.echo(json.dumps(kept, indent=2) if as_json else "\n".join(_pins(kept)))
        return
    if orders and order["follow"]:
        _follow(client, wanted, order["mirror"], order["every"])
    if orders:
        job = client.preheat(wanted, secrets.token_hex(16))
    else:
        action = "cancel" if cancel else "retry" if retry else None
        job = client.preheat_of(named[0], action)
    if wait and job["state"] not in _OVER:
        with _view(shown=not as_json) as told:
            job = _wait(client, job, told)
    if as_json:
        click.echo(json.dumps(job, indent=2))
    elif wait or show or job["state"] in _OVER:
        _print(job)
    else:
        click.echo(f"{job['id']}: {job['state']}; p2pd preheat --show {job['id']} says how it is")
    raise SystemExit(1 if job["state"] in ("partly", "failed") or (wait and job["state"] != "succeeded") else 0)


def _request(images: tuple[str, ...], order: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the request. Raises P2pdError."""
    from p2pd.config.values import ConfigError
    from p2pd.preheat.workloads import images_in

    named = [*images, *(image for file in order["manifests"] for image in images_in(file.read(), file.name))]
    wanted: dict[str, Any] = {"images": list(dict.fromkeys(named))}
    for name, key in (("hosts", "to"), ("platforms", "platforms")):
        if order[name]:
            wanted[key] = list(order[name])
    for name in ("rate", "ttl", "within", "at", "window"):
        if order[name] is not None:
            wanted[name] = order[name]
    if order["credentials"] is not None:
        try:
            wanted["credentials"] = json.loads(order["credentials"].read(1 << 20))
        except (ValueError, RecursionError):
            raise ConfigError(f"{order['credentials'].name} is no docker config.json") from None
    return wanted


def _follow(client: AdminClient, wanted: Mapping[str, Any], mirror: str, every: str) -> NoReturn:
    """Preheat what the tags mean, and again when they have moved, until interrupted."""
    from p2pd.config.values import parse_address, parse_duration
    from p2pd.preheat.following import Follower
    from peer.errors import P2pdError

    follower, every_s = Follower(wanted["images"], parse_address(mirror)), max(1.0, parse_duration(every))
    while True:
        for moved in follower.moved():
            try:
                if isinstance(moved, P2pdError):
                    raise moved
                job = client.preheat({**wanted, "images": [moved]}, secrets.token_hex(16))
                click.echo(f"{job['id']}: {moved}")
            except P2pdError as error:
                click.echo(f"p2pd: {error}", err=True)
        time.sleep(every_s)


def _new_token(settings: Settings) -> str:
    from p2pd.daemon.preheating import directory_of
    from p2pd.preheat.token import PreheatToken

    return PreheatToken(directory_of(settings)).make()


def _wait(client: AdminClient, job: dict[str, Any], told: Show) -> dict[str, Any]:
    while job["state"] not in _OVER:
        told(job)
        time.sleep(LOOK_EVERY_S)
        job = client.preheat_of(job["id"])
    told(job)
    return job


@contextmanager
def _view(*, shown: bool) -> Iterator[Show]:
    """A table of the sites that is kept up to date, on a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from p2pd.config.values import show_size

    with Live(console=Console(stderr=True), refresh_per_second=4) as live:

        def tell(job: Mapping[str, Any]) -> None:
            table = Table("SITE", "HOSTS", "DONE", "AT IT", "AWAY", "FAILED", "FETCHED", "OF")
            for site in job["sites"]:
                counts = [site["done"], site["told"] + site["confirming"], site["waiting"]]
                failed = site["failed"] + site["unsupported"] + site["cancelled"]
                sizes = show_size(site["fetched_bytes"]), show_size(site["size_bytes"])
                table.add_row(site["site"] or "-", *map(str, (sum(counts) + failed, *counts, failed)), *sizes)
            live.update(table)

        yield tell


def _listed(jobs: list[dict[str, Any]]) -> list[str]:
    rows = [("ID", "STATE", "CREATED", "BY", "IMAGES")]
    for job in jobs:
        images = job["images"]
        more = f" and {len(images) - 1} more" if len(images) > 1 else ""
        rows.append((job["id"], job["state"], job["created"][:19], job["source"], f"{images[0]}{more}"))
    return columns(rows)


def _may_be_pinned(job: Mapping[str, Any]) -> bool:
    """Whether hosts still keep what they have of a preheat."""
    until = job.get("pinned_until")
    return until is not None and datetime.fromisoformat(until) > datetime.now(UTC)


def _pins(jobs: list[dict[str, Any]]) -> list[str]:
    rows = [("ID", "UNTIL", "HOSTS", "JOINING", "SITES", "IMAGES")]
    for job in jobs:
        done = {site["site"] or "-": site["done"] for site in job["sites"] if site["done"]}
        hosts = f"{sum(done.values())} of {sum(job['hosts'].values())}"
        sites = ", ".join(f"{site} {count}" for site, count in done.items())
        joining = "told" if job.get("newcomers_until") else "-"
        rows.append((job["id"], job["pinned_until"][:19], hosts, joining, sites or "-", ", ".join(job["images"])))
    return columns(rows)


def _print(job: Mapping[str, Any]) -> None:
    from p2pd.config.values import show_size

    rows = [("HOST", "SITE", "STATE", "SIZE", "FETCHED", "REASON")]
    results = sorted(job["results"], key=lambda each: (each["state"] == "done", each["host"]))
    for each in results[:MAX_SHOWN_HOSTS]:
        state = each["state"] if each["confirmed"] or each["state"] != "done" else "done, as it says"
        reason = each["reason"] or (
            f"{show_size(each['unpinned_bytes'])} not pinned: no room" if each["unpinned_bytes"] else ""
        )
        size, fetched = show_size(each["size_bytes"]), show_size(each["fetched_bytes"])
        rows.append((each["host"], each["site"] or "-", state, size, fetched, reason))
    for line in columns(rows):
        click.echo(line)
    if len(results) > MAX_SHOWN_HOSTS:
        click.echo(f"and {len(results) - MAX_SHOWN_HOSTS} more: --json has all")
    counts = ", ".join(f"{count} {state}" for state, count in job["hosts"].items() if count)
    reason = f" ({job['reason']})" if job["reason"] else ""
    if job["state"] in _OVER and job.get("newcomers_until"):
        click.echo(f"hosts that join until {job['newcomers_until'][:19]}Z are told, too")
    click.echo(f"{job['id']} {job['state']}{reason}: {counts or 'no hosts'}")


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows as lines, with the cells of a column below each other."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
