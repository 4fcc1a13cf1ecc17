"""`p2pd host`: the hosts of a cluster, beside its scheduler: what it sees of them, and its ledger of certificates."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any

import click

from p2pd.admin.reading import number, text
from p2pd.cli.options import REDIS, SCHEDULER_ADMIN, SCHEDULER_DATA, with_settings
from p2pd.cli.suggest import SuggestingGroup
from p2pd.config.values import show_duration, show_size
from p2pd.daemon.trust import opened_ledger
from peer.errors import P2pdError
from scheduler.core.roster import HostFacts
from scheduler.trust.errors import TrustError
from scheduler.trust.ledger import HostRecord

if TYPE_CHECKING:
    from p2pd.config.settings import Settings

_json_flag = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_with_place = with_settings("data", *REDIS, defaults={"data": SCHEDULER_DATA})


@click.group("host", cls=SuggestingGroup)
def host() -> None:
    """List and revoke the hosts of a cluster.

    These commands run on the scheduler's machine, as its user or as root. The scheduler notices within seconds.
    """


@host.command("ls")
@_json_flag
@with_settings("data", "admin", *REDIS, defaults={"data": SCHEDULER_DATA, "admin": SCHEDULER_ADMIN})
def ls(settings: Settings, *, as_json: bool) -> None:
    """List the hosts of a scheduler: those that are connected, and those that have, or had, a certificate.

    What is connected is asked of the scheduler's admin port. Certificates are in its data directory.
    """
    rows = _rows(settings)
    click.echo(json.dumps(rows, indent=2) if as_json else "\n".join(_lines(rows, time.time())))


def _rows(settings: Settings) -> list[dict[str, Any]]:
    """A row for each host: what the ledger has of it, and what the scheduler sees. Raises P2pdError, TrustError."""
    from p2pd.admin.client import AdminClient

    connected: dict[str, dict[str, Any]] = {}
    untold: list[str] = []
    try:
        connected = {str(each.get("id")): each for each in AdminClient(settings.admin).hosts()}
    except P2pdError as error:
        untold.append(str(error))
    records: dict[str, dict[str, Any]] = {}
    try:
        with opened_ledger(settings) as ledger:
            records = {each.id: dataclasses.asdict(each) for each in ledger.hosts()}
    except TrustError as error:
        if untold:
            raise P2pdError("\n".join([*untold, str(error)])) from None
    for reason in untold:
        click.echo(f"p2pd: {reason}; the hosts that are connected are not told", err=True)
    nothing = dict.fromkeys(each.name for each in dataclasses.fields(HostRecord))
    unseen = dict.fromkeys(HostFacts._fields)
    return [
        {
            **unseen,
            **connected.get(name, {}),
            **nothing,
            **records.get(name, {}),
            "id": name,
            "connected": name in connected,
        }
        for name in sorted({*records, *connected})
    ]


def _lines(rows: list[dict[str, Any]], now: float) -> list[str]:
    head = ("HOST", "STATE", "ADDRESS", "PLACE", "VERSION", "RATE", "SWARMS", "CERTIFICATE", "LAST ERROR")
    table = [head, *(_cells(row, now) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]


def _cells(row: dict[str, Any], now: float) -> tuple[str, ...]:
    state = "connected" if row["connected"] else "away"
    expires, certificate = number(row, "expires"), "-"
    if row["revoked"] is not None:
        state = "revoked"
    if expires is not None:
        certificate = f"{show_duration(expires - now)} left" if now < expires else "expired"
    elif row["certified"]:
        certificate = "not from here"
    place = "/".join(filter(None, (text(row, key) for key in ("site", "zone", "rack"))))
    rate, swarms = number(row, "rate_bytes_per_s"), number(row, "swarms")
    missed = number(row, "missed_by") or 0
    error = f"{missed:.0f} hosts could not reach it" if missed else text(row, "last_error")
    shown = (text(row, "address"), place, text(row, "version"), "" if rate is None else f"{show_size(int(rate))}/s")
    return (
        row["id"],
        state,
        *(each or "-" for each in shown),
        f"{swarms:.0f}" if swarms is not None else "-",
        certificate,
        error or "-",
    )


@host.command("revoke")
@click.argument("hosts", metavar="HOST...", nargs=-1, required=True)
@click.option(
    "--unknown", is_flag=True, help="Also a host that is not in the list: one with a certificate of --tls-dir."
)
@_with_place
def revoke(settings: Settings, *, hosts: tuple[str, ...], unknown: bool) -> None:
    """Cut hosts off: their sessions and links end within a minute, and they cannot come back."""
    failed = []
    with opened_ledger(settings) as ledger:
        known = {each.id: each.token for each in ledger.hosts()}
        usable = {each.id for each in ledger.tokens() if each.usable(time.time())}
        for each in hosts:
            if each not in known and not unknown:
                failed.append(f"there is no host {each[:64]}: see `p2pd host ls`, or give --unknown")
                continue
            ledger.revoke_host(each, time.time())
            click.echo(f"revoked {each}")
            if known.get(each) in usable:
                click.echo(f"Its join token can be used again: p2pd token revoke {known[each]}", err=True)
    if failed:
        raise P2pdError("\n".join(failed))
